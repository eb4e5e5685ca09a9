"""Queues: what a RayCluster says to a scheduler, what Kueue answers, and what a job makes of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from rltrain_api import names
from rltrain_api.job import ObjectMeta, RLTrainingJob
from rltrain_api.parse import parse_job
from rltrain_api.resolve import document_hash, resolved_document
from rltrain_api.status import (
    Condition,
    ConditionType,
    Phase,
    RayClusterReference,
    ResolvedConfigReference,
    Status,
    Stop,
)
from rltrain_api.wire import CheckpointStatus, DriverPhase, DriverStatus
from rltrain_operator import plan
from rltrain_operator.cache import WATCHED_CHILDREN, Cache
from rltrain_operator.kube import Body, NotFoundError, Resource
from rltrain_operator.kube.resources import RAY_CLUSTERS, RL_TRAINING_JOBS, WORKLOADS
from rltrain_operator.rayjobs import RayJob, RayJobState
from rltrain_operator.reconcile.decide import decide
from rltrain_operator.reconcile.observe import view_cluster
from rltrain_operator.reconcile.state import ClusterView, Observed, QueueView, StopDriver, Subject, Unreachable
from rltrain_operator.resync import resync

EXAMPLE = Path(__file__).parents[2] / "examples" / "quickstart.yaml"
KEY = ("team", "quickstart")
NOW = datetime(2026, 1, 2, tzinfo=UTC)
BORN = NOW - timedelta(seconds=100)
LEVEL = "cloud.provider.com/topology-rack"


def make_job(**spec: Any) -> RLTrainingJob:
    document = yaml.safe_load(EXAMPLE.read_text())
    document["metadata"] = {"name": "quickstart", "namespace": "team", "uid": "job-uid-1", "generation": 1}
    document["spec"] |= spec
    job = parse_job(document)
    assert isinstance(job, RLTrainingJob), job
    return job


# --- what is asked --------------------------------------------------------------------------------------------------

LABELS: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "no queue": ({}, {}),
    "no queue, and a topology that Kueue would read": ({"scheduling": {"topology": {"level": LEVEL}}}, {}),
    "Kueue": ({"queueName": "research"}, {"kueue.x-k8s.io/queue-name": "research"}),
    "Kueue, by priority": (
        {"queueName": "research", "scheduling": {"workloadPriorityClass": "urgent"}},
        {"kueue.x-k8s.io/queue-name": "research", "kueue.x-k8s.io/priority-class": "urgent"},
    ),
    "Volcano": (
        {"queueName": "research", "priorityClassName": "high", "scheduling": {"scheduler": "volcano"}},
        {"volcano.sh/queue-name": "research", "ray.io/priority-class-name": "high"},
    ),
    "Volcano, near to each other": (
        {"scheduling": {"scheduler": "volcano", "topology": {"level": "2", "mode": "Required"}}},
        {
            "volcano.sh/network-topology-mode": "hard",
            "volcano.sh/network-topology-highest-tier-allowed": "2",
        },
    ),
    "YuniKorn": (
        {"queueName": "root.research", "scheduling": {"scheduler": "yunikorn"}},
        {
            "ray.io/gang-scheduling-enabled": "true",
            "yunikorn.apache.org/queue": "root.research",
            "yunikorn.apache.org/app-id": "team-quickstart",
        },
    ),
    "KAI": ({"queueName": "research", "scheduling": {"scheduler": "kai"}}, {"kai.scheduler/queue": "research"}),
}
SCHEDULERS = ("kueue.x-k8s.io/", "volcano.sh/", "yunikorn.apache.org/", "kai.scheduler/", "ray.io/")


@pytest.mark.parametrize("case", LABELS)
def test_labels_of_the_cluster(case: str) -> None:
    spec, expected = LABELS[case]
    cluster = plan.plan_ray_cluster(make_job(**spec))
    found = {key: value for key, value in cluster["metadata"]["labels"].items() if key.startswith(SCHEDULERS)}
    assert found == expected
    assert cluster["metadata"]["labels"][names.JOB_LABEL] == "quickstart"


def test_only_kueue_is_waited_for() -> None:
    assert plan.plan_ray_cluster(make_job(queueName="q"))["spec"]["suspend"] is True
    assert "suspend" not in plan.plan_ray_cluster(make_job())["spec"]
    for scheduler in ("volcano", "yunikorn", "kai"):
        job = make_job(queueName="q", scheduling={"scheduler": scheduler})
        assert "suspend" not in plan.plan_ray_cluster(job)["spec"], scheduler


PODS: dict[str, tuple[dict[str, Any], str | None, dict[str, str]]] = {
    "no queue": ({}, None, {}),
    "Kueue, within a rack if that fits": (
        {"queueName": "q", "scheduling": {"topology": {"level": LEVEL}}},
        None,
        {"kueue.x-k8s.io/podset-preferred-topology": LEVEL},
    ),
    "Kueue, within a rack or not at all": (
        {"queueName": "q", "scheduling": {"topology": {"level": LEVEL, "mode": "Required"}}},
        None,
        {"kueue.x-k8s.io/podset-required-topology": LEVEL},
    ),
    "Volcano": ({"scheduling": {"scheduler": "volcano"}}, "volcano", {}),
    "YuniKorn": ({"scheduling": {"scheduler": "yunikorn"}}, "yunikorn", {}),
    "KAI, near to each other": (
        {"queueName": "q", "scheduling": {"scheduler": "kai", "topology": {"level": LEVEL, "name": "cluster"}}},
        "kai-scheduler",
        {"kai.scheduler/topology": "cluster", "kai.scheduler/topology-preferred-placement": LEVEL},
    ),
}


@pytest.mark.parametrize("case", PODS)
def test_what_the_pods_say(case: str) -> None:
    spec, scheduler, expected = PODS[case]
    cluster = plan.plan_ray_cluster(make_job(**spec))["spec"]
    templates = {group["groupName"]: group["template"] for group in cluster["workerGroupSpecs"]}
    templates["head"] = cluster["headGroupSpec"]["template"]
    for role, template in templates.items():
        assert template["spec"].get("schedulerName") == scheduler, role
        annotations = template["metadata"]["annotations"]
        found = {key: value for key, value in annotations.items() if key.startswith(SCHEDULERS)}
        assert found == ({} if role == "head" else expected), role


def test_another_queue_is_another_cluster() -> None:
    assert plan.cluster_hash(make_job(queueName="a")) != plan.cluster_hash(make_job(queueName="b"))


# --- what Kueue says ------------------------------------------------------------------------------------------------


def condition(kind: str, status: str, reason: str, message: str = "") -> Body:
    return {"type": kind, "status": status, "reason": reason, "message": message}


def ray_cluster(*, suspend: bool = True, queue: str | None = "research") -> Body:
    labels = {names.JOB_LABEL: "quickstart"} | ({"kueue.x-k8s.io/queue-name": queue} if queue else {})
    metadata = {
        "name": "quickstart",
        "namespace": "team",
        "uid": "cluster-uid",
        "resourceVersion": "1",
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "labels": labels,
        "ownerReferences": [{"kind": names.KIND, "name": "quickstart", "uid": "job-uid-1"}],
    }
    return {"metadata": metadata, "spec": {"suspend": suspend, "workerGroupSpecs": []}}


def workload(*conditions: Body, owner: str = "cluster-uid", name: str = "raycluster-quickstart-1") -> Body:
    metadata = {
        "name": name,
        "namespace": "team",
        "uid": f"uid-of-{name}",
        "resourceVersion": "1",
        "creationTimestamp": "2026-01-01T00:00:01Z",
        "labels": {"kueue.x-k8s.io/job-uid": owner},
        "ownerReferences": [{"kind": "RayCluster", "name": "quickstart", "uid": owner}],
    }
    return {"metadata": metadata, "status": {"conditions": list(conditions)}}


def seen(body: Body, *workloads: Body) -> QueueView | None:
    cache = Cache()
    cache.upsert(RAY_CLUSTERS, body)
    for one in workloads:
        assert cache.upsert(WORKLOADS, one) == KEY
    view = view_cluster(cache, KEY, "job-uid-1")
    assert view is not None
    return view.queue


SHORT = "couldn't assign flavors to pod set trainer: insufficient unused quota for nvidia.com/gpu in flavor any"
WAITING = condition("QuotaReserved", "False", "Pending", SHORT)
RESERVED = condition("QuotaReserved", "True", "QuotaReserved", "Quota reserved in ClusterQueue gpus")
EVICTED = condition("Evicted", "True", "Preempted", "Preempted to accommodate a workload")
DETAIL = condition("Preempted", "True", "InClusterQueue", "to accommodate a workload (UID: u) due to prioritization")

WORDS: dict[str, tuple[list[Body], str, list[str], bool]] = {
    "no word yet": ([], "Queued", [], False),
    "not looked at yet": ([workload()], "Queued", ["in LocalQueue research"], False),
    "no quota": ([workload(WAITING)], "Pending", [SHORT], False),
    "no such queue": (
        [workload(condition("QuotaReserved", "False", "Inadmissible", "LocalQueue research doesn't exist"))],
        "Inadmissible",
        ["LocalQueue research doesn't exist"],
        True,
    ),
    "deactivated, because it did not get ready": (
        [workload(WAITING, condition("Evicted", "True", "DeactivatedDueToRequeuingLimitExceeded", "too often"))],
        "DeactivatedDueToRequeuingLimitExceeded",
        ["evicted: too often", SHORT],
        True,
    ),
    "evicted once and queued anew": (
        [workload(WAITING, condition("Evicted", "False", "DeactivatedByHand", "long ago"))],
        "Pending",
        [SHORT],
        False,
    ),
    "an admission check": (
        [workload(RESERVED, condition("Admitted", "False", "UnsatisfiedChecks", "the check nodes is pending"))],
        "UnsatisfiedChecks",
        ["quota is reserved", "nodes is pending"],
        False,
    ),
    "preempted": ([workload(WAITING, EVICTED, DETAIL)], "Preempted", ["evicted: to accommodate", SHORT], False),
    "admitted this moment": (
        [workload(RESERVED, condition("Admitted", "True", "Admitted", "The workload is admitted"))],
        "Queued",
        ["about to let the cluster go"],
        False,
    ),
    "the Workload of a cluster before": ([workload(WAITING, owner="old-uid")], "Queued", [], False),
}


@pytest.mark.parametrize("case", WORDS)
def test_the_wait_is_told_in_kueue_s_words(case: str) -> None:
    workloads, reason, words, lasting = WORDS[case]
    view = seen(ray_cluster(), *workloads)
    assert view is not None
    assert (view.queue, view.suspended, view.reason, view.lasting) == ("research", True, reason, lasting)
    assert bool(view.message) == bool(words)
    for word in words:
        assert word in view.message


def test_a_cluster_in_no_queue_is_not_asked_about() -> None:
    assert seen(ray_cluster(queue=None, suspend=False)) is None


class Lister:
    """An API server that serves `kinds`, with nothing in them."""

    def __init__(self, *kinds: Resource) -> None:
        self.kinds = kinds
        self.selectors: dict[str, str] = {}

    async def list_objects(
        self, resource: Resource, namespace: str | None, *, label_selector: str = ""
    ) -> AsyncIterator[Body]:
        self.selectors[resource.plural] = label_selector
        if resource not in self.kinds:
            raise NotFoundError(404, f"no {resource.plural}")
        for body in ():
            yield body


async def test_the_operator_does_without_kueue() -> None:
    needed = (RL_TRAINING_JOBS, *WATCHED_CHILDREN)
    lister = Lister(*needed)
    assert await resync(lister, Cache(), [None], lambda *_: None) == needed
    assert await resync(Lister(*needed, WORKLOADS), Cache(), [None], lambda *_: None) == (*needed, WORKLOADS)
    assert lister.selectors["workloads"] == "kueue.x-k8s.io/job-uid"


def test_a_workload_of_something_else_is_nobody_s() -> None:
    other = workload(WAITING)
    other["metadata"]["ownerReferences"] = [{"kind": "Job", "name": "quickstart", "uid": "u"}]
    assert Cache().upsert(WORKLOADS, other) is None


# --- what the job makes of it ---------------------------------------------------------------------------------------

JOB = make_job(queueName="research", startupDeadlineSeconds=60)
HELD = QueueView("research", suspended=True, reason="Pending", message=SHORT)
TAKEN = QueueView("research", suspended=True, reason="Preempted", message="evicted: to accommodate a workload")
LET_GO = QueueView("research", suspended=False, reason="Admitted", message="")
CLUSTER = ClusterView(uid="cluster-uid", created=BORN, spec_hash=plan.cluster_hash(JOB), wanted_workers=3)
READY = replace(CLUSTER, head_ready=True, ready_workers=3, head_host="10.0.0.1")


def subject(**fields: Any) -> Subject:
    record = ResolvedConfigReference(config_map="quickstart-config-1", hash=document_hash(resolved_document(JOB)))
    given = {"attempt": 0, "resolved_config": record, "start_time": BORN}
    status = Status(**(given | {"ray_cluster": RayClusterReference(name="quickstart")} | fields))
    return Subject(ObjectMeta(name="quickstart", namespace="team", uid="job-uid-1", generation=1), status, JOB)


def decided(cluster: ClusterView | None, now: datetime = NOW, **fields: Any) -> Any:
    return decide(subject(**fields), Observed(cluster=cluster, ray=Unreachable("no head")), now)


RUNNING: dict[str, Any] = {
    "attempt": 1,
    "submission_id": "quickstart-job-uid-1",
    "attempt_start_time": BORN,
    "conditions": [
        Condition(type="Training", status="True", reason="Training", last_transition_time=BORN),
        Condition(type="QuotaReserved", status="True", reason="QuotaReserved", last_transition_time=BORN),
    ],
}


def test_a_job_without_quota_is_queued_and_may_be_so_for_ever() -> None:
    decision = decided(replace(CLUSTER, queue=HELD), now=NOW + timedelta(days=30))
    assert decision.actions == ()
    assert decision.status.phase is Phase.QUEUED
    quota = decision.status.condition(ConditionType.QUOTA_RESERVED)
    assert (quota.status, quota.reason, quota.message) == ("False", "Pending", SHORT)
    assert decision.status.condition(ConditionType.FAILED).status == "False"
    assert decision.status.condition(ConditionType.STALLED).status == "False"


def test_a_queue_without_anybody_behind_it_is_doubted_after_a_while() -> None:
    silent = replace(CLUSTER, queue=QueueView("research", suspended=True, reason="Queued"))
    early = decided(replace(silent, created=NOW))
    assert early.status.condition(ConditionType.QUOTA_RESERVED).message == "waits in LocalQueue research"
    late = decided(silent, now=NOW + timedelta(seconds=early.requeue_after))
    assert "does Kueue run" in late.status.condition(ConditionType.QUOTA_RESERVED).message


@pytest.mark.parametrize("cluster", [None, READY], ids=["no cluster", "a cluster in no queue"])
def test_no_word_of_quota_outlives_it(cluster: ClusterView | None) -> None:
    had = {"conditions": RUNNING["conditions"]}
    assert decided(cluster, **had).status.condition(ConditionType.QUOTA_RESERVED).reason == "NotQueued"
    assert decided(cluster).status.condition(ConditionType.QUOTA_RESERVED) is None


def test_a_wait_that_nobody_but_a_person_ends_is_stalled() -> None:
    decision = decided(replace(CLUSTER, queue=replace(HELD, reason="Inadmissible", lasting=True)))
    assert decision.status.condition(ConditionType.STALLED).status == "True"


def test_time_in_the_queue_is_not_time_to_start_in() -> None:
    admitted = decided(replace(CLUSTER, queue=LET_GO))
    assert admitted.status.phase is Phase.PROVISIONING
    quota = admitted.status.condition(ConditionType.QUOTA_RESERVED)
    assert quota.status == "True"
    later = {"conditions": admitted.status.conditions}
    assert decided(replace(CLUSTER, queue=LET_GO), NOW + timedelta(seconds=59), **later).status.phase == "Provisioning"
    assert decided(replace(CLUSTER, queue=LET_GO), NOW + timedelta(seconds=61), **later).status.phase == "Failed"


LOSSES: dict[str, Callable[[], dict[str, Any]]] = {
    "in training": lambda: {},
    "while it was asked to stop": lambda: {"stop": Stop(attempt=1, reason="RestartRequested", requested=BORN)},
}


@pytest.mark.parametrize("case", LOSSES)
def test_the_loss_of_quota_ends_the_attempt_and_costs_no_retry(case: str) -> None:
    lost = decided(replace(CLUSTER, queue=TAKEN), **(RUNNING | LOSSES[case]()))
    assert lost.actions == ()
    assert lost.status.phase is Phase.QUEUED
    assert lost.status.condition(ConditionType.TRAINING).status == "False"
    assert lost.status.condition(ConditionType.QUOTA_RESERVED).reason == "Preempted"
    assert (lost.status.stop.attempt, lost.status.stop.ended) == (1, NOW)
    assert lost.status.last_failure is None
    assert not lost.status.failures
    again = decide(
        Subject(subject().metadata, lost.status, JOB), Observed(cluster=replace(READY, queue=LET_GO), ray=None), NOW
    )
    assert again.status.attempt == 2
    assert again.status.condition(ConditionType.QUOTA_RESERVED).status == "True"


def saved(phase: DriverPhase) -> DriverStatus:
    checkpoint = CheckpointStatus(step=7, path="/checkpoints/7", time=NOW)
    return DriverStatus(phase=phase, attempt=1, step=7, total_steps=9, checkpoint=checkpoint, updated=NOW)


def test_the_last_words_of_an_evicted_driver_are_heard_before_it_is_sent_away() -> None:
    """Its pods ask it to save, and it waits to be read for a moment: the checkpoint must not be lost on the way."""
    leaving = replace(READY, queue=TAKEN, head_leaving=True)
    observed = Observed(cluster=leaving, ray=RayJob(RayJobState.RUNNING), driver=saved(DriverPhase.STOPPED))
    heard = decide(subject(**RUNNING), observed, NOW)
    assert heard.actions == ()
    assert heard.status.checkpoint.latest_step == heard.status.progress.step == 7
    assert heard.requeue_after == 3
    again = decide(Subject(subject().metadata, heard.status, JOB), observed, NOW)
    assert again.actions == (StopDriver(),), "once it is in the status"
    assert again.status.phase is Phase.QUEUED
