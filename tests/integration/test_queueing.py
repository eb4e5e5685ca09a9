"""Queues: Kueue's real controller, KubeRay's real operator and ours, on an API server with fake nodes.

The ClusterQueue holds four GPUs, which is one job of these tests and not two. Drivers never run here: fake pods start
nothing, so a job that got its quota goes as far as a cluster that is ready and an attempt that nobody answers.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rltrain_api import crdgen
from rltrain_cluster.backend import Backend
from rltrain_cluster.binaries import ensure_kueue
from rltrain_cluster.control_plane_only import free_ports
from rltrain_cluster.kubectl import Kubectl
from rltrain_cluster.testing import kubectl_of, silent, temporary_cluster, wait_for
from rltrain_cluster.waiting import answers, wait_until

# The first run on a machine builds Kueue: minutes.
pytestmark = [pytest.mark.controlplane, pytest.mark.timeout(1800)]

Object = dict[str, Any]
REPOSITORY = Path(__file__).parents[2]
NAMESPACE = "team"
KUEUE = "kueue.x-k8s.io/v1beta2"
SECONDS = 60  # until an operator, or two of them one after the other, have done what they must


def queue_objects() -> list[Object]:
    """One flavor, a queue of four GPUs in which the more urgent displaces the less, and its door in the namespace."""
    quota = {"cpu": "100", "memory": "1Ti", "nvidia.com/gpu": "4"}
    resources = [{"name": name, "nominalQuota": amount} for name, amount in quota.items()]
    spec = {
        "namespaceSelector": {},
        "preemption": {"withinClusterQueue": "LowerPriority"},
        "resourceGroups": [{"coveredResources": list(quota), "flavors": [{"name": "any", "resources": resources}]}],
    }
    names = {"namespace": NAMESPACE, "name": "research"}
    return [
        {"apiVersion": KUEUE, "kind": "ResourceFlavor", "metadata": {"name": "any"}},
        {"apiVersion": KUEUE, "kind": "ClusterQueue", "metadata": {"name": "gpus"}, "spec": spec},
        {"apiVersion": KUEUE, "kind": "LocalQueue", "metadata": names, "spec": {"clusterQueue": "gpus"}},
        {"apiVersion": KUEUE, "kind": "WorkloadPriorityClass", "metadata": {"name": "urgent"}, "value": 1000},
    ]


def training_job(name: str, **spec: Any) -> Object:
    """A job of four GPUs: two of a trainer pod, two of engines."""
    config = {
        "data": {"train_data": ["/checkpoints/train.parquet"], "val_data": ["/checkpoints/val.parquet"]},
        "trainer": {
            "placement": {"colocate_all": False, "policy_num_gpus_per_node": 2},
            "policy": {"model": {"path": "/checkpoints/model"}},
            "algorithm": {"use_kl_loss": False},
            "train_batch_size": 8,
            "policy_mini_batch_size": 4,
            "ckpt_path": "/checkpoints/job",
            "logger": "console",
        },
        "generator": {"inference_engine": {"backend": "builtin", "num_engines": 2}, "n_samples_per_prompt": 4},
    }
    storage = {"checkpoints": {"claimTemplate": {"storage": "1Gi"}}}
    whole = {"config": config, "runtime": {"image": "trainer:1"}, "storage": storage, "queueName": "research", **spec}
    return {
        "apiVersion": "rltrain.io/v1alpha1",
        "kind": "RLTrainingJob",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": whole,
    }


@dataclass(frozen=True)
class Jobs:
    """Jobs of the tests' namespace, as kubectl shows them."""

    kubectl: Kubectl

    def create(self, name: str, **spec: Any) -> None:
        self.kubectl.apply([training_job(name, **spec)], f"creating {name}")

    def delete(self, name: str) -> None:
        self.kubectl("delete", "rltrainingjob", name, f"--namespace={NAMESPACE}", what=f"deleting {name}")

    def get(self, name: str) -> Object:
        found: Object = self.kubectl.get("rltrainingjob", name, f"--namespace={NAMESPACE}", what=f"getting {name}")
        return found

    def wait(self, name: str, condition: Callable[[Object], bool], what: str) -> Object:
        last: Object = {}

        def holds() -> bool:
            last.clear()
            last.update(self.get(name))
            return condition(last)

        wait_until(f"{name}: {what}", holds, SECONDS, explain=lambda: str(last.get("status")))
        return last

    def pods(self, name: str) -> list[str]:
        selector = f"--selector=ray.io/cluster={name}"
        found = self.kubectl.get("pods", f"--namespace={NAMESPACE}", selector, what=f"listing pods of {name}")["items"]
        return [pod["metadata"]["name"] for pod in found if "deletionTimestamp" not in pod["metadata"]]


def stated(item: Object, kind: str) -> Object:
    conditions = item.get("status", {}).get("conditions") or []
    return next((condition for condition in conditions if condition["type"] == kind), {"status": None, "message": ""})


def is_queued(job: Object) -> bool:
    return job.get("status", {}).get("phase") == "Queued"


def has_quota(job: Object) -> bool:
    return bool(stated(job, "QuotaReserved")["status"] == "True")


def has_begun(job: Object) -> bool:
    """The cluster is ready, and an attempt has its number."""
    return job.get("status", {}).get("attempt", 0) >= 1 and stated(job, "ClusterReady")["status"] == "True"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Backend]:
    """With KubeRay's operator, our definition and a namespace, and without Kueue, though built."""
    ensure_kueue(silent)
    with temporary_cluster("queues", "controlplane", nodes=2, gpus_per_node=8, with_kuberay=True) as found:
        kubectl = kubectl_of(found)
        kubectl("apply", "--server-side", f"--filename={crdgen.MANIFEST}", what="applying the definition")
        definition = "customresourcedefinition/rltrainingjobs.rltrain.io"
        wait_for(kubectl, definition, lambda one: stated(one, "Established")["status"] == "True", what="the definition")
        kubectl.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}], "a namespace")
        yield found


@contextmanager
def operator(cluster: Backend, directory: Path) -> Iterator[Jobs]:
    """Our operator, ready, as a process of this machine."""
    key, log = directory / "key", directory / "log"
    key.write_text(secrets.token_hex(32))
    metrics, health = free_ports(2)
    command = [
        *(sys.executable, "-m", "rltrain_operator", f"--kubeconfig={cluster.kubeconfig}", f"--namespace={NAMESPACE}"),
        *(f"--token-key-file={key}", f"--metrics-port={metrics}", f"--health-port={health}"),
    ]
    packages = os.pathsep.join(str(REPOSITORY / room / "src") for room in ("crds", "operator"))
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, "PYTHONPATH": packages})
    try:
        ready = f"http://127.0.0.1:{health}/readyz"
        wait_until("our operator", lambda: answers(ready), SECONDS, explain=lambda: log.read_text()[-3000:])
        yield Jobs(kubectl_of(cluster))
    finally:
        process.terminate()
        process.wait(30)
        print(log.read_text()[-20000:])


@pytest.fixture(scope="module")
def jobs(cluster: Backend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jobs]:
    """Our operator beside Kueue and its queues."""
    cluster.ensure_kueue(silent)
    kubectl_of(cluster).apply(queue_objects(), "the queues")
    with operator(cluster, tmp_path_factory.mktemp("operator")) as found:
        yield found


def test_without_kueue_a_job_in_a_queue_waits_until_it_is_there(cluster: Backend, tmp_path: Path) -> None:
    with operator(cluster, tmp_path) as jobs:
        jobs.create("first")
        job = jobs.wait("first", lambda job: "does Kueue run" in stated(job, "QuotaReserved")["message"], "its doubt")
        assert is_queued(job)
        assert jobs.pods("first") == []
        cluster.ensure_kueue(silent)
        jobs.kubectl.apply(queue_objects(), "the queues")
        jobs.wait("first", has_quota, "its quota")
        jobs.wait("first", has_begun, "its attempt")
        assert len(jobs.pods("first")) == 4, "a head, a trainer, two engines"


def test_the_second_job_waits_in_kueue_s_words_until_the_first_is_gone(jobs: Jobs) -> None:
    jobs.create("first")
    jobs.wait("first", has_begun, "its attempt")
    jobs.create("second")
    job = jobs.wait(
        "second", lambda job: "insufficient" in str(stated(job, "QuotaReserved").get("message")), "its wait"
    )
    assert is_queued(job)
    assert "nvidia.com/gpu" in stated(job, "QuotaReserved")["message"]
    assert stated(job, "ClusterReady")["reason"] == "Queued"
    assert jobs.pods("second") == []
    jobs.delete("first")
    jobs.wait("second", has_quota, "its quota")
    jobs.wait("second", has_begun, "its attempt")


def test_a_more_urgent_job_displaces_it_at_the_cost_of_no_retry(jobs: Jobs) -> None:
    jobs.create("third", scheduling={"workloadPriorityClass": "urgent"})
    evicted = jobs.wait("second", is_queued, "its eviction")
    assert stated(evicted, "QuotaReserved")["reason"] == "Preempted"
    assert "evicted" in stated(evicted, "QuotaReserved")["message"]
    assert evicted["status"]["stop"]["attempt"] == evicted["status"]["attempt"] == 1
    assert "lastFailure" not in evicted["status"]
    jobs.wait("third", has_begun, "its attempt")
    assert jobs.pods("second") == []
    jobs.delete("third")
    again = jobs.wait("second", lambda job: has_quota(job) and stated(job, "ClusterReady")["status"] == "True", "quota")
    assert again["status"].get("failures", 0) == 0
    assert "lastFailure" not in again["status"]


def test_a_queue_that_is_not_there_is_said(jobs: Jobs) -> None:
    jobs.create("lost", queueName="nowhere")
    job = jobs.wait("lost", lambda job: stated(job, "Stalled")["status"] == "True", "word of its queue")
    assert is_queued(job)
    assert "nowhere" in stated(job, "Stalled")["message"]
