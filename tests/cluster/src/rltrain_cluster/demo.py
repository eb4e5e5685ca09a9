"""The demonstration: a cluster, our images, our chart, the quickstart job from `kubectl apply` to its end, its curve.

    python -m rltrain_cluster.demo up [--seed N]
    python -m rltrain_cluster.demo down

It does what a person would do, through the same commands, and says which. CLUSTER chooses the back end (embedded or
kind). Exit code 0 only when the job is Complete and its evaluation has gained at least `POINTS_WANTED` points.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rltrain_api import names
from rltrain_api.wire import History
from rltrain_cluster import clusters, images
from rltrain_cluster.backend import Backend
from rltrain_cluster.binaries import Binaries, ensure_binaries
from rltrain_cluster.demo_diagnosis import diagnose_job, diagnose_operator
from rltrain_cluster.errors import ClusterError
from rltrain_cluster.kubectl import Kubectl
from rltrain_cluster.processes import plain_environment, run
from rltrain_cluster.settings import DEFAULT_NAME, cache_directory
from rltrain_operator.cli.history import HISTORY_KEY
from rltrain_operator.cli.lines import duration
from rltrain_operator.cli.summary import points_gained

REPOSITORY = Path(__file__).resolve().parents[4]
CHART = REPOSITORY / "helm" / "rltrain-operator"
QUICKSTART = REPOSITORY / "examples" / "quickstart.yaml"
OUTPUT = REPOSITORY / "out"

RELEASE = "rltrain"
OPERATOR_NAMESPACE = "rltrain-system"
JOB_NAMESPACE = "default"
RESOURCE = f"{names.PLURAL}.{names.GROUP}"
CHECKPOINTS = "checkpoints"  # the volume's name in the claim's name

WITH_NODES = ("embedded", "kind")  # back ends whose nodes take images from this machine
POINTS_WANTED = 25.0
INSTALL_LIMIT = 180  # seconds until the operator is ready
REMOVE_LIMIT = 180  # seconds until an earlier run is gone
WATCH_LIMIT = 1800  # seconds from apply to the end of the job
CURVE_LIMIT = 60.0


@dataclass
class Clock:
    """The stages so far with the seconds each took; prints a header as each begins."""

    began: float = field(default_factory=time.monotonic)
    stages: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str, text: str) -> Iterator[None]:
        begin = time.monotonic()
        print(f"[{begin - self.began:4.0f} s] {name}: {text}", flush=True)
        try:
            yield
        finally:
            self.stages[name] = time.monotonic() - begin

    def table(self) -> list[str]:
        """One row per stage and their sum."""
        rows = [*self.stages.items(), ("together", time.monotonic() - self.began)]
        return [f"  {name:<10} {duration(seconds):>7}" for name, seconds in rows]


@dataclass(frozen=True)
class Tools:
    """A cluster that is up, and the commands that act on it."""

    cluster: Backend
    binaries: Binaries
    kubectl: Kubectl

    @classmethod
    def of(cls, cluster: Backend) -> Tools:
        binaries = ensure_binaries(report)
        environment = plain_environment() | {"KUBECACHEDIR": str(cache_directory() / "kubectl")}
        return cls(cluster, binaries, Kubectl(binaries.path("kubectl"), cluster.kubeconfig, environment))

    def helm(self, *arguments: str, what: str, limit: float) -> None:
        homes = {
            f"HELM_{kind}_HOME": str(cache_directory() / "helm" / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA")
        }
        command = [self.binaries.path("helm"), *arguments, f"--kubeconfig={self.cluster.kubeconfig}"]
        run(command, what=what, limit=limit, environment=plain_environment() | homes)

    def rltrain(self, *arguments: str, limit: float) -> int:
        """`kubectl rltrain …` on this terminal; its exit code."""
        print(f"$ kubectl rltrain {' '.join(arguments)}", flush=True)
        command = [sys.executable, "-m", "rltrain_operator.cli", *arguments, f"--namespace={JOB_NAMESPACE}"]
        environment = {**os.environ, "KUBECONFIG": str(self.cluster.kubeconfig)}
        try:
            return subprocess.run(command, env=environment, timeout=limit, check=False).returncode
        except subprocess.TimeoutExpired as error:
            raise ClusterError(f"kubectl rltrain {arguments[0]}: no end after {limit:g} s") from error


def report(line: str) -> None:
    """One line below the header of the present stage."""
    print(f"         {line}", flush=True)


def up(seed: int | None) -> int:
    """The whole demonstration; its exit code."""
    clock = Clock()
    job = quickstart(yaml.safe_load(QUICKSTART.read_text(encoding="utf-8")), seed)
    name = job["metadata"]["name"]
    backend = os.environ.get("CLUSTER") or None
    if backend not in (None, *WITH_NODES):
        raise ClusterError(
            f"CLUSTER={backend}: the demonstration brings images into nodes, which takes {' or '.join(WITH_NODES)}. "
            "On a cluster of yours: push the images (images/README.md), install the chart, apply the quickstart"
        )
    with clock.stage("cluster", f"a Kubernetes with KubeRay ({backend or clusters.DEFAULT_BACKEND})"):
        cluster = clusters.wanted(DEFAULT_NAME, backend, None, None)
        cluster.up(report)
        tools = Tools.of(cluster)
        cluster.ensure_kuberay(report)
    with clock.stage("images", "the operator's and the trainer's, into every node"):
        archives = {image: images.build(image, report) for image in images.RECIPES}
        for archive in archives.values():
            loaded = cluster.load_image(archive.path, archive.name)
            report(f"{archive.name}: {'loaded' if loaded else 'all nodes have it'}")
    with clock.stage("operator", f"helm upgrade --install {RELEASE} helm/{CHART.name}"):
        install_operator(tools, archives["operator"])
    with clock.stage("apply", f"kubectl apply -f {_apply_source(seed)}"):
        remove_job(tools.kubectl, name)
        document = json.dumps(job)
        report(tools.kubectl("apply", "-n", JOB_NAMESPACE, "-f", "-", what=f"applying {name}", text=document).strip())
    with clock.stage("train", "until the job ends"):
        code = tools.rltrain("watch", name, "--timeout", str(WATCH_LIMIT), limit=WATCH_LIMIT + 60)
    if code != 0:
        _print_all(diagnose_job(tools.kubectl, JOB_NAMESPACE, name))
        _print_all(diagnose_operator(tools.kubectl, OPERATOR_NAMESPACE))
        print(f"demo: FAILED: {name} is not Complete (kubectl rltrain watch ended with {code})", flush=True)
        return 1
    with clock.stage("curve", "what it has learned"):
        tools.rltrain("curve", name, f"--png={OUTPUT / f'{name}.png'}", limit=CURVE_LIMIT)
    return conclude(tools, name, clock)


def conclude(tools: Tools, name: str, clock: Clock) -> int:
    """Say where the results are, what the stages took and whether the job has learned; the exit code."""
    inside = f"--namespace={JOB_NAMESPACE}"
    job = tools.kubectl.get(RESOURCE, name, inside, what=f"reading {name}")
    config_map = tools.kubectl.get("configmap", names.history_name(name), inside, what="reading the history")
    print(f"checkpoint: {checkpoint_path(tools.cluster, job)}")
    print("stages:", *clock.table(), sep="\n")
    print(f"look around: export KUBECONFIG={tools.cluster.kubeconfig} PATH={_programs(tools)}:$PATH")
    print("remove it all: make demo-down")
    passed, verdict = judge(points_gained(History.model_validate_json(config_map["data"][HISTORY_KEY])))
    print(f"demo: {verdict}", flush=True)
    return 0 if passed else 1


def checkpoint_path(cluster: Backend, job: Mapping[str, Any]) -> str:
    """The newest checkpoint's directory in the pods and on this machine, or why there is none to see."""
    checkpoint = job["status"].get("checkpoint")
    if not checkpoint:
        return "none was committed"
    mount = job["spec"]["storage"][CHECKPOINTS].get("mountPath", "/checkpoints")
    try:
        volume = cluster.volume_path(JOB_NAMESPACE, names.claim_name(job["metadata"]["name"], CHECKPOINTS))
    except ClusterError as error:
        return f"{checkpoint['path']} in the pods ({error})"
    return f"{checkpoint['path']} in the pods, {volume / Path(checkpoint['path']).relative_to(mount)} on this machine"


def judge(points: float | None) -> tuple[bool, str]:
    """Whether a completed job has learned enough, and the sentence that says so."""
    if points is None:
        return False, "FAILED: the job is Complete, but has fewer than two evaluations to compare"
    gained = f"its evaluation gained {points:+.1f} points, {POINTS_WANTED:.0f} are wanted"
    if points < POINTS_WANTED:
        return False, f"FAILED: the job is Complete, but did not learn enough: {gained}"
    return True, f"passed: the job is Complete and has learned: {gained}"


def quickstart(document: Mapping[str, Any], seed: int | None) -> dict[str, Any]:
    """The quickstart job; with a seed, a copy under a name of its own whose data, model and training use that seed."""
    job: dict[str, Any] = json.loads(json.dumps(document))
    if seed is None:
        return job
    job["metadata"]["name"] += f"-seed-{seed}"
    job["spec"]["config"]["trainer"]["seed"] = seed
    for initializer in job["spec"]["storage"]["initializers"]:
        initializer["args"] = [*initializer.get("args", []), "--seed", str(seed)]
    return job


def chart_values(archive: images.ImageArchive) -> list[str]:
    """`--set` arguments that make the chart run the image of this archive.

    The name stays the same from build to build; the annotation changes with the content and so restarts the operator.
    """
    path, _, tag = archive.name.rpartition(":")
    registry, _, repository = path.partition("/")
    values = {"image.registry": registry, "image.repository": repository, "image.tag": tag}
    annotation = {r"podAnnotations.rltrain\.io/image-content": archive.content_key}
    return [f"--set-string={name}={value}" for name, value in (values | annotation).items()]


def install_operator(tools: Tools, archive: images.ImageArchive) -> None:
    """Install or upgrade our chart and wait until the operator is ready; what is wrong with it otherwise is printed."""
    arguments = ["upgrade", "--install", RELEASE, str(CHART), f"--namespace={OPERATOR_NAMESPACE}", "--create-namespace"]
    arguments += [*chart_values(archive), "--wait", f"--timeout={INSTALL_LIMIT}s"]
    try:
        tools.helm(*arguments, what="installing the operator", limit=INSTALL_LIMIT + 60)
    except ClusterError:
        _print_all(diagnose_operator(tools.kubectl, OPERATOR_NAMESPACE))
        raise


def remove_job(kubectl: Kubectl, name: str) -> None:
    """Remove the job that an earlier demonstration left under this name, and its volumes: it would resume from them."""
    inside = f"--namespace={JOB_NAMESPACE}"
    selector = f"--selector={names.JOB_LABEL}={name}"
    claims = kubectl.get("persistentvolumeclaims", inside, selector, what="looking for an earlier run")["items"]
    jobs = kubectl(
        "get", RESOURCE, name, inside, "--ignore-not-found", "--output=name", what="looking for an earlier run"
    )
    if not claims and not jobs.strip():
        return
    report(f"{name} of an earlier demonstration is there: removing it and its checkpoints")
    wait = ("--ignore-not-found", f"--timeout={REMOVE_LIMIT}s")
    limit = REMOVE_LIMIT + 10.0
    kubectl("delete", RESOURCE, name, inside, "--cascade=foreground", *wait, what=f"removing {name}", limit=limit)
    gone = ("wait", "--for=delete", f"--timeout={REMOVE_LIMIT}s", inside)
    kubectl(*gone, "pods", selector, what=f"waiting for the pods of {name} to end", limit=limit)
    kubectl("delete", "persistentvolumeclaims", inside, selector, *wait, what="removing its volumes", limit=limit)


def down() -> int:
    """Remove what `up` has made, with the cluster that it is in."""
    clock = Clock()
    with clock.stage("down", "removing the demonstration"):
        clusters.find(DEFAULT_NAME).down(report)
    return 0


def _programs(tools: Tools) -> str:
    """The directories of kubectl, helm and `kubectl rltrain`."""
    return f"{Path(tools.binaries.path('kubectl')).parent}:{Path(sys.executable).parent}"


def _apply_source(seed: int | None) -> str:
    path = QUICKSTART.relative_to(REPOSITORY)
    return str(path) if seed is None else f"{path} (with seed {seed})"


def _print_all(lines: Iterator[str]) -> None:
    for line in lines:
        print(line, flush=True)


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; ClusterError becomes one message and exit code 1."""
    parser = argparse.ArgumentParser(prog="python -m rltrain_cluster.demo", description=__doc__.split("\n", 1)[0])
    commands = parser.add_subparsers(dest="command", metavar="{up,down}")
    begin = commands.add_parser("up", help="set everything up, train, show the result")
    begin.add_argument("--seed", type=int, help="use this seed, under a name of its own")
    commands.add_parser("down", help="remove it all")
    parser.set_defaults(command="up", seed=None)
    options = parser.parse_args(words)
    try:
        return up(options.seed) if options.command == "up" else down()
    except ClusterError as error:
        print(f"demo: FAILED: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "demo: interrupted; what was made stays: `make demo` goes on, `make demo-down` removes it", file=sys.stderr
        )
        return 130


if __name__ == "__main__":
    sys.exit(main())
