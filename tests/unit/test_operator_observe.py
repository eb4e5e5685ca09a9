"""From the cluster's objects to what decisions read: caches, views, coalescing, Events, resync."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from rltrain_api import names
from rltrain_api.job import ObjectMeta
from rltrain_api.status import Condition, ConditionType, Failure, InitializerStatus, Progress, Status
from rltrain_api.wire import DriverPhase, DriverStatus, History
from rltrain_operator.cache import Cache
from rltrain_operator.events import EventRecorder, Note, notes
from rltrain_operator.kube import AlreadyExistsError, Body, ForbiddenError, NotFoundError, Resource
from rltrain_operator.kube.resources import BATCH_JOBS, PODS, RAY_CLUSTERS, RL_TRAINING_JOBS
from rltrain_operator.rayjobs import RayJob, RayJobState
from rltrain_operator.reconcile.coalesce import write_due
from rltrain_operator.reconcile.observe import Poller, view_cluster, view_initializers, view_leftovers, view_subject
from rltrain_operator.reconcile.state import InitializerState, PodEnd, Subject
from rltrain_operator.resync import resync
from rltrain_operator.tokens import TokenIssuer

KEY = ("team", "train")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
OWNER = [{"kind": names.KIND, "name": "train", "uid": "job-uid"}]


def obj(name: str, *, version: int = 1, uid: str = "", owners: Any = None, labels: Any = None, **rest: Any) -> Body:
    metadata = {
        "name": name,
        "namespace": "team",
        "uid": uid or f"uid-of-{name}",
        "resourceVersion": str(version),
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "labels": {names.JOB_LABEL: "train", **(labels or {})},
        "ownerReferences": OWNER if owners is None else owners,
    }
    return {"metadata": metadata, **rest}


def pod(name: str, role: str, **status: Any) -> Body:
    labels = {names.ROLE_LABEL: role, "ray.io/cluster": "train", "job-name": f"train-init-{name}"}
    return obj(name, labels=labels, status=status)


def waiting(reason: str, message: str = "") -> Body:
    return {"name": "ray", "state": {"waiting": {"reason": reason, "message": message}}}


def test_an_older_version_never_replaces_a_newer_one() -> None:
    cache = Cache()
    assert cache.upsert(PODS, obj("p", version=5, status={"phase": "Running"})) == KEY
    assert cache.upsert(PODS, obj("p", version=4, status={"phase": "Pending"})) is None
    assert cache.upsert(PODS, obj("p", version=5, status={"phase": "Pending"})) is None
    kept = cache.child(KEY, PODS, "p")
    assert kept is not None
    assert kept["status"]["phase"] == "Running"


def test_a_new_object_of_the_same_name_replaces_the_old_and_outlives_its_deletion() -> None:
    cache = Cache()
    cache.upsert(PODS, obj("p", version=50, uid="old"))
    assert cache.upsert(PODS, obj("p", version=60, uid="new")) == KEY
    assert cache.upsert(PODS, obj("p", version=55, uid="old")) is None
    assert cache.remove(PODS, obj("p", version=55, uid="old")) is None
    assert cache.child(KEY, PODS, "p") is not None
    assert cache.remove(PODS, obj("p", uid="new")) == KEY
    assert cache.child(KEY, PODS, "p") is None


def test_an_object_without_the_label_is_nobody_s() -> None:
    cache = Cache()
    stray = obj("p")
    del stray["metadata"]["labels"][names.JOB_LABEL]
    assert cache.upsert(PODS, stray) is None


def test_nothing_is_kept_of_a_job_that_is_gone() -> None:
    cache = Cache()
    cache.upsert(RL_TRAINING_JOBS, obj("train"))
    cache.upsert(PODS, obj("p"))
    cache.remove(RL_TRAINING_JOBS, obj("train"))
    assert cache.job(KEY) is None
    assert len(cache.children(KEY, PODS)) == 1
    cache.remove(PODS, obj("p"))
    assert cache.known(PODS) == {}
    assert list(cache.jobs()) == []


def cluster(**changes: Any) -> Body:
    body = obj("train", uid="cluster-uid")
    body["metadata"]["annotations"] = {names.SPEC_HASH_ANNOTATION: "h"}
    body["spec"] = {
        "workerGroupSpecs": [{"groupName": "trainer", "replicas": 1}, {"groupName": "inference", "replicas": 2}]
    }
    body["status"] = {
        "state": "ready",
        "readyWorkerReplicas": 3,
        "conditions": [{"type": "HeadPodReady", "status": "True"}],
        **changes,
    }
    return body


def view(body: Body, *pods: Body) -> Any:
    cache = Cache()
    cache.upsert(RAY_CLUSTERS, body)
    for one in pods:
        cache.upsert(PODS, one)
    return view_cluster(cache, KEY, "job-uid")


HEAD = pod("head", names.ROLE_HEAD, phase="Running", podIP="10.0.0.1")


def test_a_ready_cluster() -> None:
    seen = view(cluster(), HEAD)
    assert seen.ready
    assert (seen.wanted_workers, seen.wanted_engines, seen.head_host, seen.spec_hash) == (3, 2, "10.0.0.1", "h")
    assert seen.created == NOW


NOT_READY: dict[str, Body] = {
    "KubeRay's sticky state alone": cluster(readyWorkerReplicas=2),
    "no head": cluster(conditions=[{"type": "HeadPodReady", "status": "False", "reason": "HeadPodNotFound"}]),
    "nothing known yet": cluster(conditions=[], readyWorkerReplicas=0),
}


@pytest.mark.parametrize("body", NOT_READY.values(), ids=NOT_READY.keys())
def test_not_ready(body: Body) -> None:
    assert not view(body, HEAD).ready


def test_a_cluster_of_somebody_else_is_none_of_ours() -> None:
    body = cluster()
    body["metadata"]["ownerReferences"] = [{"kind": names.KIND, "name": "train", "uid": "an-older-job"}]
    assert view(body) is None


def test_a_cluster_being_deleted_is_not_ready() -> None:
    body = cluster()
    body["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    seen = view(body, HEAD)
    assert seen.deleting
    assert not seen.ready


PULL = 'Back-off pulling image "x": ErrImagePull: not found'
TROUBLES: dict[str, tuple[list[Body], list[str]]] = {
    "unschedulable": (
        [
            pod(
                "w",
                names.ROLE_TRAINER,
                conditions=[
                    {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes: GPU"}
                ],
            )
        ],
        ["w: Unschedulable: 0/1 nodes: GPU"],
    ),
    "image, in both of the kubelet's moods, told once": (
        [
            pod("a", names.ROLE_HEAD, containerStatuses=[waiting("ErrImagePull", "not found")]),
            pod("b", names.ROLE_TRAINER, initContainerStatuses=[waiting("ImagePullBackOff", PULL)]),
        ],
        ["a, b: ImagePullBackOff: not found"],
    ),
    "crash loop with the last words": (
        [
            pod(
                "w",
                names.ROLE_TRAINER,
                containerStatuses=[
                    {
                        **waiting("CrashLoopBackOff", "back-off 10s"),
                        "lastState": {"terminated": {"reason": "OOMKilled", "exitCode": 137, "message": "the end"}},
                    }
                ],
            )
        ],
        ["w: CrashLoopBackOff: back-off 10s (last: OOMKilled, exit code 137: the end)"],
    ),
    "just starting is no trouble": (
        [pod("w", names.ROLE_TRAINER, containerStatuses=[waiting("ContainerCreating")])],
        [],
    ),
}


@pytest.mark.parametrize(("pods", "expected"), TROUBLES.values(), ids=TROUBLES.keys())
def test_troubles_of_pods(pods: list[Body], expected: list[str]) -> None:
    assert list(view(cluster(), *pods).troubles) == expected


def test_kuberay_s_own_failure_comes_first() -> None:
    failure = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreateWorkerPod", "message": "quota"}
    seen = view(cluster(conditions=[failure]))
    assert seen.troubles == ("KubeRay: FailedCreateWorkerPod: quota",)


HEADS: dict[str, Body] = {
    "not running": pod("head", names.ROLE_HEAD, phase="Pending", podIP="10.0.0.1"),
    "of a worker": pod("w", names.ROLE_TRAINER, phase="Running", podIP="10.0.0.1"),
}


@pytest.mark.parametrize("body", HEADS.values(), ids=HEADS.keys())
def test_no_address_without_a_running_head(body: Body) -> None:
    assert view(cluster(), body).head_host is None


def test_a_head_on_its_way_out_is_heard_to_its_end_and_takes_nothing_new() -> None:
    leaving = pod("head", names.ROLE_HEAD, phase="Running", podIP="10.0.0.1")
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    seen = view(cluster(), leaving)
    assert (seen.head_host, seen.head_leaving, seen.ready) == ("10.0.0.1", True, False)
    next_head = pod("head-2", names.ROLE_HEAD, phase="Running", podIP="10.0.0.2")
    seen = view(cluster(), leaving, next_head)
    assert (seen.head_host, seen.head_leaving, seen.ready) == ("10.0.0.2", False, True)


def test_the_engines_pods() -> None:
    labels = {"ray.io/worker-group-replica-name": "inference-x"}
    pods = [pod(f"e-{host}", names.ROLE_INFERENCE, conditions=[{"type": "Ready", "status": "True"}]) for host in (0, 1)]
    for one in pods:
        one["metadata"]["labels"] |= labels
    leaving, single = pod("e-2", names.ROLE_INFERENCE), pod("e-3", names.ROLE_INFERENCE)
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    group = view(cluster(), HEAD, *pods, leaving, single).engine_group
    assert (group.number, group.replicas, group.hosts) == (1, 2, 1)
    assert [(one.name, one.replica, one.ready) for one in group.pods] == [
        ("e-0", "inference-x", True),
        ("e-1", "inference-x", True),
        ("e-3", "e-3", False),
    ]


ENDED = {"name": "initializer", "state": {"terminated": {"exitCode": 3, "message": "disk full"}}}
INITIALIZERS: dict[str, tuple[Body, Body | None, tuple[InitializerState, str, int | None]]] = {
    "running": ({"active": 1}, None, (InitializerState.RUNNING, "", None)),
    "waiting for its image": (
        {"active": 1},
        pod("data", names.ROLE_INITIALIZER, containerStatuses=[waiting("ErrImagePull", "no")]),
        (InitializerState.RUNNING, "data: ImagePullBackOff: no", None),
    ),
    "complete": (
        {"conditions": [{"type": "Complete", "status": "True"}]},
        None,
        (InitializerState.COMPLETE, "", None),
    ),
    "failed with its last words": (
        {"conditions": [{"type": "Failed", "status": "True", "message": "backoff limit"}]},
        pod("data", names.ROLE_INITIALIZER, containerStatuses=[ENDED]),
        (InitializerState.FAILED, "disk full", 3),
    ),
    "failed without a pod left": (
        {"conditions": [{"type": "Failed", "status": "True", "message": "deadline"}]},
        None,
        (InitializerState.FAILED, "deadline", None),
    ),
}


@pytest.mark.parametrize(("status", "own_pod", "expected"), INITIALIZERS.values(), ids=INITIALIZERS.keys())
def test_initializers(status: Body, own_pod: Body | None, expected: tuple[InitializerState, str, int | None]) -> None:
    cache = Cache()
    cache.upsert(BATCH_JOBS, obj("train-init-data", status=status))
    if own_pod is not None:
        cache.upsert(PODS, own_pod)
    seen = view_initializers(cache, KEY, "job-uid")["data"]
    assert (seen.state, seen.message, seen.exit_code) == expected
    assert view_initializers(cache, KEY, "another-job") == {}


def ended(code: int, reason: str, at: str) -> Body:
    return {"terminated": {"exitCode": code, "reason": reason, "finishedAt": at}}


def test_ends_of_pods_are_seen_good_ones_left_out() -> None:
    worker = pod(
        "w",
        names.ROLE_TRAINER,
        containerStatuses=[
            {"name": "ray", "state": {"running": {}}, "lastState": ended(137, "OOMKilled", "2026-01-01T00:00:00Z")},
            {"name": "well", "state": ended(0, "Completed", "2026-01-01T00:00:00Z")},
        ],
    )
    assert view(cluster(), HEAD, worker).ends == (PodEnd("w", "trainer", "OOMKilled", 137, NOW),)
    assert view(cluster(), HEAD, worker).head_pod == "head"


def test_pods_of_a_cluster_that_is_gone_are_left_over() -> None:
    cache = Cache()
    cache.upsert(PODS, HEAD)
    initializer = pod("data", names.ROLE_INITIALIZER)
    del initializer["metadata"]["labels"]["ray.io/cluster"]
    cache.upsert(PODS, initializer)
    assert view_leftovers(cache, KEY) == ("head",)


MANAGERS: dict[str, tuple[Any, bool]] = {
    "nobody is named": ({}, False),
    "we": ({"managedBy": "rltrain.io/operator"}, False),
    "somebody else, and what they read is not ours to judge": ({"managedBy": "example.com/other", "x": 1}, True),
    "no spec at all": (None, False),
}


@pytest.mark.parametrize(("spec", "elsewhere"), MANAGERS.values(), ids=MANAGERS.keys())
def test_jobs_of_other_managers_are_seen_as_such(spec: Any, elsewhere: bool) -> None:
    subject = view_subject({**obj("train"), "spec": spec})
    assert subject.managed_elsewhere is elsewhere
    assert bool(subject.errors) is not elsewhere


class Ray:
    """Ray with one driver that runs, and its log."""

    def __init__(self) -> None:
        self.asked = 0

    async def status(self, host: str, token: str, submission_id: str) -> RayJob | None:
        return RayJob(RayJobState.RUNNING, node="n")

    async def log(self, host: str, token: str, submission_id: str, node: str, lines: int) -> str:
        self.asked += 1
        return "first\n" + "x" * 2000 + "\nlast words\n"


@dataclass
class Answering:
    """A driver with one answer."""

    answer: DriverStatus

    async def status(self, host: str, token: str) -> DriverStatus:
        return self.answer

    async def history(self, host: str, token: str) -> History:
        return History()


ANSWERS: dict[str, tuple[dict[str, Any], bool]] = {
    "trains": ({"phase": DriverPhase.TRAINING, "step_seconds": 1.0, "step_age_seconds": 9.0}, False),
    "has failed": ({"phase": DriverPhase.FAILED}, True),
    "hangs": ({"phase": DriverPhase.TRAINING, "step_seconds": 1.0, "step_age_seconds": 900.0}, True),
}


@pytest.mark.parametrize(("answer", "asks"), ANSWERS.values(), ids=ANSWERS.keys())
async def test_the_log_of_a_failing_driver_is_read_before_it_is_stopped(answer: dict[str, Any], asks: bool) -> None:
    ray, cache = Ray(), Cache()
    cache.upsert(RAY_CLUSTERS, cluster())
    cache.upsert(PODS, HEAD)
    driver = Answering(DriverStatus(attempt=1, updated=NOW, **answer))
    poller = Poller(ray, driver, TokenIssuer(b"k" * 32))  # type: ignore[arg-type]  # what is not asked is not there
    metadata = ObjectMeta(name="train", namespace="team", uid="job-uid")
    subject = Subject(metadata, Status(attempt=1, submission_id="train-1"), None)
    observed = await poller.observe(cache, KEY, subject, NOW)
    assert isinstance(observed.ray, RayJob)
    assert observed.ray.log_tail.endswith("x\nlast words") is asks
    assert (ray.asked, len(observed.ray.log_tail) <= 2000) == (int(asks), True)


def test_a_status_edited_by_hand_counts_as_none() -> None:
    subject = view_subject({**obj("train"), "spec": {}, "status": {"conditions": "nonsense", "attempt": 7}})
    assert subject.status == Status()
    assert subject.job is None
    assert subject.errors


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def training(status: Any = "True", message: str = "") -> Condition:
    return Condition(type="Training", status=status, reason="R", message=message, last_transition_time=NOW)


def fetched(*, state: str = "Running", **progress: int) -> list[InitializerStatus]:
    return [InitializerStatus(name="data", state=state, attempts=1, **progress)]


OLD = Status(attempt=1, progress=Progress(step=1, updated=NOW), conditions=[training()], initializers=fetched(bytes=1))
WRITES: dict[str, tuple[dict[str, Any], datetime | None, datetime | None]] = {
    "nothing": ({}, NOW, None),
    "only clocks": ({"progress": Progress(step=1, updated=at(9), eta_seconds=7)}, NOW, None),
    "only the loop's durations": ({"durations": {"train/generate": 3.0}}, NOW, None),
    "a step, just after a write": ({"progress": Progress(step=2)}, at(8), at(18)),
    "a step, long after a write": ({"progress": Progress(step=2)}, at(0), at(10)),
    "a step, after a restart": ({"progress": Progress(step=2)}, None, at(10)),
    "other words": ({"conditions": [training(message="new")]}, at(8), at(18)),
    "more of a fetch": ({"initializers": fetched(bytes=2)}, at(8), at(18)),
    "the size of a fetch": ({"initializers": fetched(bytes=1, total_bytes=9)}, at(8), at(18)),
    "the end of a fetch": ({"initializers": fetched(state="Complete")}, at(10), at(10)),
    "a condition": ({"conditions": [training("False")]}, at(10), at(10)),
    "an attempt": ({"attempt": 2, "progress": Progress(step=2)}, at(10), at(10)),
}


@pytest.mark.parametrize(("change", "last", "due"), WRITES.values(), ids=WRITES.keys())
def test_when_a_status_is_written(change: dict[str, Any], last: datetime | None, due: datetime | None) -> None:
    assert write_due(OLD, OLD.model_copy(update=change), last, at(10)) == due


@dataclass
class Recorded:
    """The one verb the recorder has a right to."""

    events: dict[str, Body] = field(default_factory=dict)
    error: Exception | None = None

    async def create(self, manifest: Body) -> Body:
        if self.error is not None:
            raise self.error
        name = manifest["metadata"]["name"]
        if name in self.events:
            raise AlreadyExistsError(409, "there")
        self.events[name] = manifest
        return manifest


JOB_META = ObjectMeta(name="train", namespace="team", uid="job-uid")


async def test_one_event_however_often_it_is_said_and_by_whom() -> None:
    api = Recorded()
    for _ in range(2):
        recorder = EventRecorder(api)  # type: ignore[arg-type]  # it creates and does nothing else
        await recorder.record(JOB_META, Note("NaNLoss", "loss is NaN", warning=True), NOW)
    (event,) = api.events.values()
    assert (event["type"], event["reason"], event["message"]) == ("Warning", "NaNLoss", "loss is NaN")
    assert event["involvedObject"]["uid"] == "job-uid"


async def test_an_event_that_cannot_be_written_stops_nothing() -> None:
    recorder = EventRecorder(Recorded(error=ForbiddenError(403, "no")))  # type: ignore[arg-type]
    await recorder.record(JOB_META, Note("R", "m", warning=False), NOW)


def test_what_is_worth_an_event() -> None:
    failure = Failure(reason="NaNLoss", message="loss is NaN", attempt=1, time=NOW)
    invalid = Condition(type="ConfigValid", status="False", reason="InvalidSpec", message="m", last_transition_time=NOW)
    stalled = invalid.model_copy(update={"type": ConditionType.STALLED, "status": "True"})
    new = Status(conditions=[training(), invalid, stalled], last_failure=failure)
    assert [(note.reason, note.warning) for note in notes(Status(), new)] == [
        ("R", False),
        ("InvalidSpec", True),
        ("NaNLoss", True),
    ]
    assert notes(new, new) == []


def test_a_wish_is_told_once_whatever_words_follow() -> None:
    def on_its_way(reason: str, message: str) -> Status:
        reconciling = training(message=message).model_copy(update={"type": "Reconciling", "reason": reason})
        return Status(conditions=[reconciling])

    begun = on_its_way("Suspending", "attempt 1 is about to stop")
    assert [(note.reason, note.warning) for note in notes(Status(), begun)] == [("Suspending", False)]
    assert notes(begun, on_its_way("Suspending", "attempt 1 saves a checkpoint and stops")) == []
    assert [note.warning for note in notes(begun, on_its_way("EditNotApplied", "Reject"))] == [True]


class Listing:
    """What a fresh LIST says."""

    def __init__(self, objects: dict[str, list[Body]]) -> None:
        self.objects = objects
        self.selectors: dict[str, str] = {}

    async def list_objects(
        self, resource: Resource, namespace: str | None, *, label_selector: str = ""
    ) -> AsyncIterator[Body]:
        self.selectors[resource.plural] = label_selector
        if resource.plural not in self.objects:
            raise NotFoundError(404, "no such kind")
        for body in self.objects[resource.plural]:
            yield body


def listing(**objects: list[Body]) -> Listing:
    kinds = ("rltrainingjobs", "rayclusters", "jobs", "pods", "persistentvolumeclaims")
    return Listing({kind: objects.get(kind, []) for kind in kinds})


async def test_a_resync_finds_what_the_watches_missed() -> None:
    cache = Cache()
    cache.upsert(PODS, obj("gone"))
    cache.upsert(PODS, obj("same"))
    cache.upsert(PODS, obj("changed", version=1))
    lister = listing(pods=[obj("same"), obj("changed", version=2), obj("new")])
    found: list[tuple[str, tuple[str, str]]] = []
    await resync(lister, cache, [None], lambda resource, key: found.append((resource.plural, key)))
    assert found == [("pods", KEY)] * 3
    assert {name for _, name in cache.known(PODS)} == {"same", "changed", "new"}
    assert lister.selectors["pods"] == names.JOB_LABEL
    assert lister.selectors["rltrainingjobs"] == ""


async def test_a_missing_kind_is_named_with_its_remedy() -> None:
    lister = listing()
    del lister.objects["rayclusters"]
    with pytest.raises(ValueError, match=r"rayclusters.*install"):
        await resync(lister, Cache(), [None], lambda *_: None)


def test_tokens_differ_by_job_purpose_and_key_and_repeat_otherwise() -> None:
    one, same, other = TokenIssuer(b"a" * 32), TokenIssuer(b"a" * 32), TokenIssuer(b"b" * 32)
    tokens = {one.driver_token("j"), one.ray_token("j"), one.driver_token("k"), other.driver_token("j")}
    assert len(tokens) == 4
    assert one.driver_token("j") == same.driver_token("j")


def test_a_short_key_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 32"):
        TokenIssuer(b"short")
