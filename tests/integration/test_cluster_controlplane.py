"""The control plane without nodes: anybody can have it, real controllers work on it, and failures come on command."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from rltrain_cluster import clusters
from rltrain_cluster.backend import Backend
from rltrain_cluster.kubectl import Kubectl
from rltrain_cluster.testing import (
    command_environment,
    command_line,
    kubectl_of,
    phase_is,
    probe_pod,
    silent,
    wait_for,
)
from rltrain_cluster.waiting import wait_until

pytestmark = [pytest.mark.controlplane, pytest.mark.timeout(600)]

NAME = "fakes"
Object = dict[str, Any]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Backend]:
    """Started without root's rights, whoever runs the tests."""
    clusters.find(NAME).down(silent)
    flags = ["--name", NAME, "--backend", "controlplane", "--nodes", "3", "--gpus-per-node", "8"]
    up = command_line("up", *flags, as_nobody=True)
    try:
        done = subprocess.run(up, env=command_environment(), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        yield clusters.find(NAME)
    finally:
        clusters.find(NAME).down(silent)


@pytest.fixture(scope="module")
def kubectl(cluster: Backend) -> Kubectl:
    return kubectl_of(cluster)


def annotated(pod: Object, **annotations: str) -> Object:
    notes = {f"fake.rltrain.io/{name.replace('_', '-')}": value for name, value in annotations.items()}
    return {**pod, "metadata": {**pod["metadata"], "annotations": notes}}


def annotate(kubectl: Kubectl, what: str, *annotations: str) -> None:
    kubectl("annotate", what, "--overwrite", *(f"fake.rltrain.io/{note}" for note in annotations), what="annotating")


def ready(status: str) -> Any:
    def holds(item: Object) -> bool:
        conditions = item.get("status", {}).get("conditions", [])
        return any(condition["type"] == "Ready" and condition["status"] == status for condition in conditions)

    return holds


def first_state(pod: Object) -> Object:
    state: Object = pod["status"]["containerStatuses"][0]["state"]
    return state


def test_runs_without_root(cluster: Backend) -> None:
    assert cluster.status().running
    assert cluster.kubeconfig.stat().st_mode & 0o777 == 0o600


def test_job_completes(kubectl: Kubectl) -> None:
    kubectl("create", "job", "work", "--image=any:1", what="a Job")
    kubectl("wait", "--for=condition=Complete", "job/work", "--timeout=30s", what="the Job")


def test_failure_on_command(kubectl: Kubectl) -> None:
    kubectl.apply([probe_pod("victim", ["serve"])], "a pod")
    wait_for(kubectl, "pod/victim", ready("True"), what="the pod")
    annotate(kubectl, "pod/victim", "unready=true")
    wait_for(kubectl, "pod/victim", ready("False"), what="the pod's probe")
    annotate(kubectl, "pod/victim", "exit-code=137", "exit-reason=OOMKilled")
    pod = wait_for(kubectl, "pod/victim", phase_is("Failed"), what="the pod's end")
    assert (first_state(pod)["terminated"]["exitCode"], first_state(pod)["terminated"]["reason"]) == (137, "OOMKilled")


def test_restart(kubectl: Kubectl) -> None:
    pod = annotated(probe_pod("again", ["serve"], restartPolicy="Always"), exit_code="1")
    kubectl.apply([pod], "a pod")

    def restarted(pod: Object) -> bool:
        return any(container["restartCount"] == 1 for container in pod["status"].get("containerStatuses", []))

    found = wait_for(kubectl, "pod/again", restarted, what="the restart")
    assert found["status"]["phase"] == "Running"


def test_image_that_cannot_be_had(kubectl: Kubectl) -> None:
    kubectl.apply([annotated(probe_pod("stuck", ["serve"]), waiting="ErrImagePull")], "a pod")
    pod = wait_for(kubectl, "pod/stuck", lambda pod: "containerStatuses" in pod["status"], what="the pod's word")
    assert (pod["status"]["phase"], first_state(pod)["waiting"]["reason"]) == ("Pending", "ErrImagePull")
    annotate(kubectl, "pod/stuck", "waiting-")
    wait_for(kubectl, "pod/stuck", ready("True"), what="the pod after the repair")


def test_pod_that_does_not_go(kubectl: Kubectl) -> None:
    kubectl.apply(
        [annotated(probe_pod("undying", ["serve"], terminationGracePeriodSeconds=30), undying="true")], "a pod"
    )
    wait_for(kubectl, "pod/undying", ready("True"), what="the pod")
    kubectl("delete", "pod", "undying", "--wait=false", what="deleting")
    assert "deletionTimestamp" in kubectl.get("pod/undying", what="the pod")["metadata"]
    annotate(kubectl, "pod/undying", "undying-")
    kubectl("wait", "--for=delete", "pod/undying", "--timeout=30s", what="the pod's end")


def test_claim_is_bound(cluster: Backend, kubectl: Kubectl) -> None:
    spec = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}
    claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"}, "spec": spec}
    kubectl.apply([claim], "a claim")
    wait_for(kubectl, "persistentvolumeclaim/data", phase_is("Bound"), what="the claim")
    assert cluster.volume_path("default", "data").is_dir()


def ray_cluster(name: str, workers: int) -> Object:
    def template(container: str, gpus: int) -> Object:
        resources = {"limits": {"cpu": "1", "memory": "1Gi", "nvidia.com/gpu": str(gpus)}}
        return {"spec": {"containers": [{"name": container, "image": "any:1", "resources": resources}]}}

    group = {"groupName": "trainer", "replicas": workers, "minReplicas": workers, "maxReplicas": workers}
    spec = {
        "rayVersion": "2.50.0",
        "headGroupSpec": {"rayStartParams": {}, "template": template("ray-head", 0)},
        "workerGroupSpecs": [{**group, "rayStartParams": {}, "template": template("worker", 8)}],
    }
    return {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": {"name": name}, "spec": spec}


def test_kuberay_works_and_a_lost_node_is_replaced(kubectl: Kubectl) -> None:
    """KubeRay's own operator makes the pods; a node that falls silent is given up, its pod made again elsewhere."""
    kubectl.apply([ray_cluster("ray", workers=2)], "a RayCluster")

    def state_is(wanted: str) -> Any:
        return lambda item: item.get("status", {}).get("state") == wanted

    wait_for(kubectl, "raycluster/ray", state_is("ready"), what="the RayCluster")

    def workers() -> dict[str, str]:
        pods = kubectl.get("pods", "--selector=ray.io/group=trainer", what="workers")["items"]
        alive = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"] and ready("True")(pod)]
        return {pod["metadata"]["name"]: pod["spec"]["nodeName"] for pod in alive}

    before = workers()
    assert len(set(before.values())) == 2, "eight GPUs each: one node each"
    name, node = next(iter(before.items()))
    annotate(kubectl, f"node/{node}", "lost=true")
    wait_for(kubectl, f"node/{node}", ready("Unknown"), what="the loss of the node")

    def evicted(pod: Object) -> bool:
        return "deletionTimestamp" in pod["metadata"]

    wait_for(kubectl, f"pod/{name}", evicted, what="the eviction")
    # The machine is gone for good: once its object is deleted, its pods are collected and made again.
    kubectl("delete", "node", node, what="deleting the node")
    # Kubernetes looks for such pods every 20 s and leaves them alone for the first 40 s after their node is gone.
    wait_until("two workers elsewhere", lambda: len(workers()) == 2 and node not in workers().values(), 120)
    kubectl("delete", "raycluster", "ray", what="deleting")
    wait_until("the workers' end", lambda: workers() == {}, 30)
