"""Help for tests that need a cluster: clusters of their own, pods that run the probe, and waiting for objects.

A test's cluster has a name of its own, so that it never touches the one that somebody works with. This module must not
know RLTrain.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rltrain_cluster import clusters
from rltrain_cluster.backend import Backend
from rltrain_cluster.binaries import ensure_binaries
from rltrain_cluster.image_archive import ImageSpec, write_docker_archive
from rltrain_cluster.kubectl import Kubectl
from rltrain_cluster.processes import plain_environment
from rltrain_cluster.settings import cache_directory
from rltrain_cluster.waiting import wait_until

Object = dict[str, Any]
PROBE_IMAGE = "rltrain.local/probe:1"


def silent(_: str) -> None:
    """A report to nobody."""


@contextmanager
def temporary_cluster(
    name: str, backend: str, *, nodes: int, gpus_per_node: int, with_kuberay: bool = False
) -> Iterator[Backend]:
    """A cluster of the caller's own, taken down at the end whatever happens; what a killed run left is cleared away."""
    if clusters.recorded(name) is not None:
        clusters.find(name).down(silent)
    cluster = clusters.wanted(name, backend, nodes, gpus_per_node)
    try:
        cluster.up(silent)
        if with_kuberay:
            cluster.ensure_kuberay(silent)
        yield cluster
    finally:
        cluster.down(silent)


def command_line(*arguments: str, as_nobody: bool = False) -> list[str]:
    """The command that runs this package; `as_nobody`, if this process is root, without root's rights."""
    command = [sys.executable, "-m", "rltrain_cluster", *arguments]
    if as_nobody and os.geteuid() == 0:
        return ["unshare", "--user", "--map-user=1000", "--map-group=1000", "--", *command]
    return command


def command_environment() -> dict[str, str]:
    """An environment in which `command_line` finds this package."""
    return {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}


def kubectl_of(cluster: Backend) -> Kubectl:
    """kubectl on a cluster that is up."""
    return Kubectl(ensure_binaries(silent).path("kubectl"), cluster.kubeconfig, plain_environment())


def load_probe(cluster: Backend) -> bool:
    """Bring the probe's image into every node; False if it is there."""
    binaries = ensure_binaries(silent)
    archive = cache_directory() / "images" / f"probe-{binaries.directory.name}.tar"
    if not archive.exists():
        program = {"/probe": (Path(binaries.path("probe")).read_bytes(), 0o755)}
        write_docker_archive(ImageSpec(PROBE_IMAGE, program, ["/probe"], user="1000:1000"), archive)
    return cluster.load_image(archive, PROBE_IMAGE)


def probe_pod(
    name: str,
    arguments: Sequence[str],
    *,
    node: str | None = None,
    gpus: int = 0,
    claim: str | None = None,
    labels: Mapping[str, str] | None = None,
    **spec: Any,
) -> Object:
    """A pod of user 1000 that runs the probe once, or for ever if it serves; `claim` is mounted at /data."""
    container: Object = {
        "name": "probe",
        "image": PROBE_IMAGE,
        "imagePullPolicy": "Never",
        "args": list(arguments),
        "resources": {"limits": {"nvidia.com/gpu": str(gpus)}} if gpus else {},
    }
    pod: Object = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 0,
        "containers": [container],
        "securityContext": {"runAsNonRoot": True, "runAsUser": 1000},
        **spec,
    }
    if node is not None:
        pod["nodeSelector"] = {"kubernetes.io/hostname": node}
    if claim is not None:
        container["volumeMounts"] = [{"name": "data", "mountPath": "/data"}]
        pod["volumes"] = [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": dict(labels or {})}, "spec": pod}


def wait_for(
    kubectl: Kubectl, resource: str, condition: Callable[[Object], bool], *, what: str, limit: float = 60
) -> Object:
    """Poll one object (`pod/a`) until `condition` holds, and return it; ClusterError shows its last status."""
    last: Object = {}

    def holds() -> bool:
        last.clear()
        last.update(kubectl.get(resource, what=what))
        return condition(last)

    wait_until(what, holds, limit, explain=lambda: str(last.get("status")))
    return last


def phase_is(*phases: str) -> Callable[[Object], bool]:
    return lambda pod: pod.get("status", {}).get("phase") in phases


def run_probe(kubectl: Kubectl, pod: Object, limit: float = 60) -> str:
    """Run a pod to its end and return what it printed; a pod that fails raises AssertionError with its output."""
    name = pod["metadata"]["name"]
    kubectl.apply([pod], f"creating {name}")
    ended = wait_for(kubectl, f"pod/{name}", phase_is("Succeeded", "Failed"), what=f"waiting for {name}", limit=limit)
    output = kubectl("logs", name, what=f"the output of {name}")
    assert ended["status"]["phase"] == "Succeeded", f"{name} failed: {output}"
    return output
