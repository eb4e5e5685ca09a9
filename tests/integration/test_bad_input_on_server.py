"""Bad input on a real API server: each gives a condition or a clear rejection, nothing is lost, nothing loops hot.

What the definition alone refuses (types, ranges, unknown keys) has its tests in `test_api_*_on_server`; here the
operator is at work, KubeRay's too, and everything that is wrong is wrong at the same time.
"""

from __future__ import annotations

import json
import re
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from api_server import changed
from chart_cluster import Object, attempt, bare_job
from operator_process import running_operator
from rltrain_cluster.control_plane_only import free_ports
from rltrain_cluster.kubectl import Kubectl
from rltrain_cluster.waiting import wait_until

pytestmark = [pytest.mark.controlplane, pytest.mark.timeout(600)]

SECONDS = 120
QUIET_SECONDS = 12.0
WAITING = "fake.rltrain.io/waiting"  # fake nodes look for no Secret; a real one waits with this reason
REQUESTS = re.compile(r'^rltrain_api_requests_total\{code="(\d+)",resource="(\w+)",verb="(\w+)"\} (\S+)$', re.MULTILINE)
# KubeRay leaves a cluster alone that names another manager: only ours could change it.
ELSEWHERE = "kueue.x-k8s.io/multikueue"


@dataclass(frozen=True)
class Wrong:
    """A job that cannot run as it is, and where that is said.

    Args:
        changes: What is wrong, on top of a job that runs.
        condition: The condition that tells it, which is not well: (type, reason).
        words: What its message must hold.
    """

    changes: Mapping[str, Any]
    condition: tuple[str, str]
    words: tuple[str, ...]


CHECKPOINTS = "spec.storage.checkpoints"
TRAINER_POD = "spec.pools.trainer.podPatch"
WRONG: dict[str, Wrong] = {
    "claim": Wrong({CHECKPOINTS: {"claimName": "nowhere"}}, ("Stalled", "ClaimNotFound"), ("claimName", "nowhere")),
    "script": Wrong(
        {"spec.storage.initializers": [{"name": "one", "script": {"configMap": "nowhere", "key": "run.py"}}]},
        ("Stalled", "ScriptNotFound"),
        ("nowhere",),
    ),
    "priority": Wrong({"spec.priorityClassName": "nowhere"}, ("ClusterReady", "ClusterNotReady"), ("nowhere",)),
    "runtime": Wrong(
        {"spec.pools.head.runtimeClassName": "nowhere"}, ("ClusterReady", "ClusterNotReady"), ("nowhere",)
    ),
    "storage": Wrong(
        {CHECKPOINTS: {"claimTemplate": {"storage": "1Gi", "storageClassName": "nowhere"}}},
        ("ClusterReady", "ClusterNotReady"),
        ("PersistentVolumeClaim",),
    ),
    "secret": Wrong(
        {
            "spec.runtime.envFrom": [{"secretRef": {"name": "nowhere"}}],
            "spec.pools.head.annotations": {WAITING: "CreateContainerConfigError"},
        },
        ("ClusterReady", "ClusterNotReady"),
        ("CreateContainerConfigError",),
    ),
    "queue": Wrong({"spec.queueName": "nowhere"}, ("QuotaReserved", "Queued"), ("nowhere", "Kueue")),
    "quantity": Wrong(
        {TRAINER_POD: {"spec": {"containers": [{"name": "ray", "resources": {"limits": {"memory": "lots"}}}]}}},
        ("Stalled", "CreationRefused"),
        ("lots",),
    ),
    "override": Wrong(
        {"spec.overrides": ["trainer.epochs=many"]}, ("ConfigValid", "InvalidSpec"), ("trainer.epochs", "many")
    ),
    "unknown": Wrong({"spec.overrides": ["trainer.epocs=2"]}, ("ConfigValid", "InvalidSpec"), ("trainer.epocs",)),
    "engine": Wrong(
        {"spec.config.generator.inference_engine.backend": "vllm"}, ("ConfigValid", "InvalidSpec"), ("vllm",)
    ),
}


@dataclass(frozen=True)
class Place:
    """A namespace that the operator serves, another one that will be deleted, and the operator's own count of calls."""

    kubectl: Kubectl
    namespace: str
    leaving: str
    metrics: int

    def get(self, kind: str, name: str) -> Object:
        found: Object = self.kubectl.get(kind, name, f"--namespace={self.namespace}", what=f"getting {kind} {name}")
        return found

    def wait(self, kind: str, name: str, holds: Callable[[Object], bool], what: str) -> Object:
        """The object as soon as it is so."""
        last: Object = {}

        def so() -> bool:
            last.clear()
            last.update(self.get(kind, name))
            return holds(last)

        wait_until(f"{kind} {name}: {what}", so, SECONDS, explain=lambda: str(last.get("status")))
        return last

    def patch_status(self, name: str, operations: list[Object]) -> None:
        """What a person does with `kubectl patch --subresource=status --type=json`."""
        options = ("--subresource=status", "--type=json", f"--patch={json.dumps(operations)}")
        self.kubectl("patch", "rltrainingjob", name, f"--namespace={self.namespace}", *options, what="editing a status")

    def requests(self) -> dict[tuple[str, str], float]:
        """The operator's requests so far by verb and kind, but for its Lease."""
        straight = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with straight.open(f"http://127.0.0.1:{self.metrics}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        found: dict[tuple[str, str], float] = {}
        for _, resource, verb, count in REQUESTS.findall(text):
            found[(verb, resource)] = found.get((verb, resource), 0.0) + float(count)
        return found


def stated(job: Object, kind: str) -> Object:
    conditions = (job.get("status") or {}).get("conditions") or []
    return next((one for one in conditions if one["type"] == kind), {"status": "", "reason": "", "message": ""})


def says(wrong: Wrong) -> Callable[[Object], bool]:
    kind, reason = wrong.condition

    def holds(job: Object) -> bool:
        found = stated(job, kind)
        well = "False" if kind == "Stalled" else "True"
        message = str(found.get("message"))
        return (
            found["reason"] == reason and found["status"] not in ("", well) and all(w in message for w in wrong.words)
        )

    return holds


def ready(job: Object) -> bool:
    return bool(stated(job, "ClusterReady")["status"] == "True")


@pytest.fixture(scope="module")
def place(control_plane: Kubectl, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The operator, everything that is wrong, and one job in its midst that is right."""
    unique = uuid.uuid4().hex[:6]
    namespace, leaving = f"bad-{unique}", f"leaving-{unique}"
    spaces = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in (namespace, leaving)]
    control_plane.apply(spaces, "namespaces")
    for name in (namespace, leaving):
        control_plane("wait", "--for=create", "serviceaccount/default", f"--namespace={name}", what="an account")
    (metrics,) = free_ports(1)
    assert control_plane.kubeconfig is not None
    options = (f"--namespace={namespace}", f"--namespace={leaving}", f"--lease-namespace={namespace}")
    directory = tmp_path_factory.mktemp("operator")
    with running_operator(control_plane.kubeconfig, directory, *options, f"--metrics-port={metrics}"):
        jobs = [changed(bare_job(name, namespace), wrong.changes) for name, wrong in WRONG.items()]
        control_plane.apply([*jobs, bare_job("right", namespace)], "jobs")
        yield Place(control_plane, namespace, leaving, metrics)
    control_plane("delete", "namespace", namespace, leaving, "--ignore-not-found", "--wait=false", what="cleaning up")


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said(case: str, place: Place) -> None:
    place.wait("rltrainingjob", case, says(WRONG[case]), "its condition")


def test_the_job_in_their_midst_gets_its_cluster(place: Place) -> None:
    place.wait("rltrainingjob", "right", ready, "its cluster")


def test_a_missing_claim_that_comes_is_found(place: Place) -> None:
    place.kubectl.apply([changed(bare_job("late", place.namespace), {CHECKPOINTS: {"claimName": "to-come"}})], "a job")
    missing = Wrong({}, ("Stalled", "ClaimNotFound"), ("to-come",))
    place.wait("rltrainingjob", "late", says(missing), "its condition")
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    metadata = {"name": "to-come", "namespace": place.namespace}
    place.kubectl.apply(
        [{"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec}], "the claim"
    )
    place.wait("rltrainingjob", "late", ready, "its cluster")


REFUSED: dict[str, tuple[Mapping[str, Any], str]] = {
    "a name too long": ({"metadata.name": "a" * 46}, "at most 45 characters"),
    "a name that no Service can have": ({"metadata.name": "1-job"}, "must begin with a letter"),
    "text for a number": ({"spec.ttlSecondsAfterFinished": "soon"}, "ttlSecondsAfterFinished"),
    "a quantity that is none": ({"spec.pools.head.resources.memory": "lots"}, "spec.pools.head.resources.memory"),
    "a list for a map": ({"spec.config": []}, "spec.config"),
    "an unknown key": ({"spec.pool": {}}, 'unknown field "spec.pool"'),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_server_refuses_names_the_field(case: str, place: Place) -> None:
    changes, words = REFUSED[case]
    document = changed(bare_job("refused", place.namespace), changes)
    call = attempt(place.kubectl, "create", "--validate=strict", "--filename=-", documents=[document])
    assert call.returncode != 0
    assert words in call.stderr


def test_a_cluster_of_somebody_else_is_neither_adopted_nor_deleted(place: Place) -> None:
    template = {"spec": {"containers": [{"name": "ray", "image": "ray"}]}}
    spec = {"managedBy": ELSEWHERE, "headGroupSpec": {"rayStartParams": {}, "template": template}}
    metadata = {"name": "theirs", "namespace": place.namespace, "labels": {"team": "other"}}
    place.kubectl.apply([{"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": metadata, "spec": spec}], "it")
    before = place.get("raycluster", "theirs")
    place.kubectl.apply([bare_job("theirs", place.namespace)], "a job of that name")
    foreign = Wrong({}, ("Stalled", "ForeignObject"), ("RayCluster theirs", "does not belong to this job"))
    place.wait("rltrainingjob", "theirs", says(foreign), "its condition")
    assert place.get("raycluster", "theirs")["metadata"] == before["metadata"]
    place.kubectl("delete", "rltrainingjob", "theirs", f"--namespace={place.namespace}", what="deleting the job")
    gone = ("secret", "theirs-tokens")
    kind = f"--namespace={place.namespace}"
    place.kubectl("wait", "--for=delete", "/".join(gone), kind, "--timeout=60s", what="its own children go", limit=70)
    assert place.get("raycluster", "theirs")["metadata"] == before["metadata"]


# By name, what somebody writes over the status of a job whose cluster is being made.
EDITS: dict[str, list[Object]] = {
    "taken away": [{"op": "replace", "path": "/status", "value": {}}],
    "said to be over": [{"op": "replace", "path": "/status/phase", "value": "Succeeded"}],
    "without conditions": [{"op": "replace", "path": "/status/conditions", "value": []}],
    "without its record": [{"op": "remove", "path": "/status/resolvedConfig"}],
    "without its cluster": [{"op": "remove", "path": "/status/rayCluster"}],
}
EDITED = "edited"


@pytest.mark.parametrize("case", EDITS)
def test_a_status_edited_by_hand_is_derived_anew_and_costs_nothing(case: str, place: Place) -> None:
    pulls = {"spec.pools.head.annotations": {WAITING: "ImagePullBackOff"}}
    place.kubectl.apply([changed(bare_job(EDITED, place.namespace), pulls)], "a job")

    def whole(job: Object) -> bool:
        status, cluster = job.get("status") or {}, stated(job, "ClusterReady")
        described = "resolvedConfig" in status and "rayCluster" in status
        return described and status["phase"] == "Provisioning" and "ImagePullBackOff" in cluster["message"]

    place.wait("rltrainingjob", EDITED, whole, "its cluster's trouble")
    children = [("raycluster", EDITED), ("configmap", f"{EDITED}-config-1"), ("secret", f"{EDITED}-tokens")]
    before = [place.get(kind, name)["metadata"]["uid"] for kind, name in children]
    place.patch_status(EDITED, EDITS[case])
    job = place.wait("rltrainingjob", EDITED, whole, "its status derived anew")
    assert stated(job, "Failed")["status"] == stated(job, "Complete")["status"] == "False"
    assert [place.get(kind, name)["metadata"]["uid"] for kind, name in children] == before


def test_a_word_that_is_no_phase_is_refused(place: Place) -> None:
    patch = json.dumps([{"op": "replace", "path": "/status/phase", "value": "Training hard"}])
    options = ("--subresource=status", "--type=json", f"--patch={patch}")
    call = attempt(place.kubectl, "patch", "rltrainingjob", "right", f"--namespace={place.namespace}", *options)
    assert call.returncode != 0
    assert "status.phase" in call.stderr


def test_nothing_is_made_in_a_namespace_that_is_being_deleted(place: Place) -> None:
    """A finalizer of somebody keeps the job there, so that the operator sees it go for a while."""
    namespace, kubectl = f"--namespace={place.leaving}", place.kubectl
    held = changed(bare_job("held", place.leaving), {"metadata.finalizers": ["test.rltrain.io/held"]})
    kubectl.apply([held], "a job")

    def cluster_is_there() -> bool:
        return attempt(kubectl, "get", "raycluster", "held", namespace).returncode == 0

    wait_until("its cluster", cluster_is_there, SECONDS)
    kubectl("delete", "namespace", place.leaving, "--wait=false", what="deleting the namespace")
    gone = ("wait", "--for=delete", "raycluster/held", namespace, "--timeout=60s")
    kubectl(*gone, what="its cluster goes", limit=70)
    time.sleep(3)  # what is awaited is that nothing happens
    ours = ("rayclusters,secrets,configmaps", namespace, "--selector=rltrain.io/job=held")
    assert kubectl.get(*ours, what="looking for what was made again")["items"] == []
    free = ("patch", "rltrainingjob", "held", namespace, "--type=merge", '--patch={"metadata":{"finalizers":null}}')
    kubectl(*free, what="letting go of the job")
    kubectl("wait", "--for=delete", f"namespace/{place.leaving}", "--timeout=60s", what="the end of it", limit=70)


def test_nothing_loops_hot(place: Place) -> None:
    """With all that wrong at once: what is blocked is looked at again every 30 s, and the rest only when told of."""
    for name, wrong in WRONG.items():
        place.wait("rltrainingjob", name, says(wrong), "its condition")
    before, began = place.requests(), time.monotonic()
    time.sleep(QUIET_SECONDS)
    after, seconds = place.requests(), time.monotonic() - began
    made = {key: count - before.get(key, 0) for key, count in after.items() if count > before.get(key, 0)}
    jobs = len(WRONG) + 3
    assert sum(made.values()) <= jobs * (1 + seconds / 10), made
