"""The two that are compared, as processes of this machine: our operator, and KubeRay's with its RayJobs.

Both get a ServiceAccount of their own, no leader to wait for, and the same RayCluster to make of every job. What is
measured of them is decided in `scenarios`; this module must not know it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rltrain_api import names
from rltrain_api.job import RLTrainingJob
from rltrain_api.parse import parse_job
from rltrain_cluster.binaries import ensure_binaries
from rltrain_cluster.control_plane_only import free_ports
from rltrain_cluster.waiting import answers, wait_until
from rltrain_operator.plan import plan_ray_cluster

Object = dict[str, Any]

EXAMPLE = Path(__file__).parents[2] / "examples" / "quickstart.yaml"
CLAIMS = ("benchmark-checkpoints", "benchmark-data")  # exist in every namespace, so that no job makes any
READY_SECONDS = 120.0
STOP_SECONDS = 20.0

# Our operator as it is; and with the full list, otherwise made every ten minutes, made every `seconds`.
MODULE = ("-m", "rltrain_operator")
RESYNCING = (
    "import sys; from rltrain_operator import workers; from rltrain_operator.__main__ import main; "
    "workers.RESYNC_SECONDS = {seconds}; sys.exit(main())"
)


def training_job(name: str, namespace: str) -> Object:
    """The quickstart's job on claims that exist: what is left to make are a Secret, a ConfigMap and the RayCluster."""
    job: Object = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
    checkpoints, data = CLAIMS
    job["metadata"] = {"name": name, "namespace": namespace}
    storage = job["spec"]["storage"]
    storage["checkpoints"] = {"mountPath": "/checkpoints", "claimName": checkpoints}
    storage["data"] = [{"name": "data", "mountPath": "/data", "claimName": data}]
    storage["initializers"] = []
    return job


def ray_job(name: str, namespace: str) -> Object:
    """A RayJob with the very RayCluster that our operator plans for the job of this name.

    `managedBy` keeps KubeRay's RayCluster controller away: pods of thousands of clusters would drown what is measured,
    and ours are compared without pods too. HTTPMode, because no pod shall be made for the submission either.
    """
    document = training_job(name, namespace)
    document["metadata"] |= {"uid": "00000000-0000-0000-0000-000000000000", "generation": 1}
    job = parse_job(document)
    assert isinstance(job, RLTrainingJob), job
    cluster = {**plan_ray_cluster(job)["spec"], "managedBy": "kueue.x-k8s.io/multikueue"}
    spec = {"entrypoint": "rltrain-driver", "submissionMode": "HTTPMode", "rayClusterSpec": cluster}
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }


@dataclass
class Side(ABC):
    """One competitor. `account` is its ServiceAccount, `path` the URL path of its kind of job."""

    title: str
    account: str
    path: str
    passes: str  # a regular expression for the lines of /metrics that count passes over jobs
    metrics_port: int = 0
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    health_port: int = field(default=0)

    @abstractmethod
    def command(self, kubeconfig: Path, scratch: Path, namespace: str) -> list[str]:
        """The command line of an operator that looks at one namespace."""

    @abstractmethod
    def job(self, name: str, namespace: str) -> Object:
        """The job to apply."""

    @abstractmethod
    def settled(self, job: Object) -> bool:
        """Whether everything is written that a job without pods can have."""

    @abstractmethod
    def mirrored(self, job: Object) -> bool | None:
        """Whether the job's status says that all workers of its RayCluster are ready; None before it says anything."""

    def start(self, kubeconfig: Path, scratch: Path, namespace: str, wrapper: Sequence[str] = ()) -> None:
        """Start the process and return at once; `wrapper` are words after the interpreter (ours only)."""
        self.metrics_port, self.health_port = free_ports(2)
        command = [*self.command(kubeconfig, scratch, namespace)]
        if wrapper:
            command[1 : 1 + len(MODULE)] = wrapper
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        # As in the image: byte code is there from the second start on, and not among the sources.
        environment |= {"PYTHONPYCACHEPREFIX": str(scratch / "byte-code"), "PYTHONDONTWRITEBYTECODE": ""}
        with (scratch / f"{self.account}.log").open("ab") as log:
            self.started = time.monotonic()
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=scratch)

    def wait_ready(self) -> None:
        """Until /readyz says so."""
        url = f"http://127.0.0.1:{self.health_port}/readyz"
        wait_until(f"waiting for {self.title}", lambda: answers(url), READY_SECONDS)

    def log_tail(self, scratch: Path) -> str:
        """The end of what the process wrote."""
        return (scratch / f"{self.account}.log").read_text()[-2000:]

    def require_alive(self, scratch: Path) -> None:
        """RuntimeError with the end of its log when the process has ended by itself: what was measured is void."""
        assert self.process is not None, "started"
        if self.process.poll() is not None:
            raise RuntimeError(f"{self.title} ended while it was measured:\n{self.log_tail(scratch)}")

    def stop(self) -> None:
        """SIGTERM, and wait for the end; SIGKILL for one that does not take it."""
        assert self.process is not None, "started"
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    @property
    def pid(self) -> int:
        assert self.process is not None, "started"
        return self.process.pid

    def pass_count(self) -> float:
        """Passes over jobs since the start; 0 while nobody answers."""
        straight = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with straight.open(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=10) as answer:
                text = answer.read().decode()
        except OSError:
            return 0.0
        return sum(float(value) for value in re.findall(rf"^{self.passes} (\S+)$", text, re.MULTILINE))


class Ours(Side):
    """RLTrain's operator with its Lease; with `profile` cProfile counts, and writes there at the end."""

    def __init__(self, profile: Path | None = None) -> None:
        super().__init__(
            title="RLTrain",
            account="rltrain",
            path=f"/apis/{names.API_VERSION}/namespaces/{{}}/{names.PLURAL}",
            passes=r"rltrain_reconcile_seconds_count",
        )
        self.profile = profile

    def command(self, kubeconfig: Path, scratch: Path, namespace: str) -> list[str]:
        key = scratch / "token-key"
        key.write_bytes(b"k" * 32)
        profiler = ["-m", "cProfile", "-o", str(self.profile)] if self.profile else []
        return [
            *(sys.executable, *profiler, *MODULE, f"--kubeconfig={kubeconfig}", f"--token-key-file={key}"),
            *(f"--metrics-port={self.metrics_port}", f"--health-port={self.health_port}", f"--namespace={namespace}"),
            # A Lease for each turn: nobody waits for one that a killed benchmark has left.
            f"--lease-namespace={namespace}",
        ]

    def job(self, name: str, namespace: str) -> Object:
        return training_job(name, namespace)

    def settled(self, job: Object) -> bool:
        return "rayCluster" in (job.get("status") or {})

    def mirrored(self, job: Object) -> bool | None:
        for condition in (job.get("status") or {}).get("conditions") or []:
            if condition["type"] == "ClusterReady":
                return bool(condition["status"] == "True")
        return None


class KubeRay(Side):
    """KubeRay's operator; `concurrency` None is its default."""

    def __init__(self, concurrency: int | None) -> None:
        super().__init__(
            title="KubeRay" if concurrency is None else f"KubeRay, concurrency {concurrency}",
            account="kuberay",
            path="/apis/ray.io/v1/namespaces/{}/rayjobs",
            passes=r'controller_runtime_reconcile_total\{controller="rayjob"[^}]*\}',
        )
        self.concurrency = concurrency

    def command(self, kubeconfig: Path, scratch: Path, namespace: str) -> list[str]:
        return [
            *(ensure_binaries(lambda _: None).path("ray-operator"), f"--kubeconfig={kubeconfig}"),
            *("--enable-leader-election=false", f"--metrics-addr=127.0.0.1:{self.metrics_port}"),
            *(f"--health-probe-bind-address=127.0.0.1:{self.health_port}", f"--watch-namespace={namespace}"),
            *([] if self.concurrency is None else [f"--reconcile-concurrency={self.concurrency}"]),
        ]

    def job(self, name: str, namespace: str) -> Object:
        return ray_job(name, namespace)

    def settled(self, job: Object) -> bool:
        return (job.get("status") or {}).get("jobDeploymentStatus") == "Initializing"

    def mirrored(self, job: Object) -> bool | None:
        cluster = (job.get("status") or {}).get("rayClusterStatus") or {}
        return bool(cluster.get("readyWorkerReplicas")) if cluster else None  # a zero is left out
