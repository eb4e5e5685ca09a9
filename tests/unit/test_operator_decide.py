"""The decision, row by row of the table in `rltrain_operator.reconcile.decide`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from rltrain_api import names
from rltrain_api.job import ObjectMeta, RLTrainingJob
from rltrain_api.parse import parse_job
from rltrain_api.resolve import document_hash, resolved_document
from rltrain_api.status import Checkpoint, Condition, ConditionType, Failure, RayClusterReference, Status
from rltrain_api.status import ResolvedConfigReference as Record
from rltrain_api.validate import validate
from rltrain_api.wire import CheckpointStatus, DriverError, DriverPhase, DriverStatus, History
from rltrain_operator.plan import cluster_hash
from rltrain_operator.rayjobs import RayJob, RayJobState
from rltrain_operator.reconcile import reasons
from rltrain_operator.reconcile.decide import decide
from rltrain_operator.reconcile.state import (
    Blocked,
    ClusterView,
    CreateInitializer,
    CreateRayCluster,
    CreateRecords,
    Decision,
    DeleteRayCluster,
    InitializerState,
    InitializerView,
    Observed,
    StopDriver,
    StopRayJob,
    Subject,
    Submit,
    Unreachable,
    WriteHistory,
)

NOW = datetime(2026, 1, 2, tzinfo=UTC)
BORN = NOW - timedelta(seconds=100)
ID_1 = "quickstart-aaaabbbb-1"
EXAMPLE = Path(__file__).parents[2] / "examples" / "quickstart.yaml"


def document(**spec: Any) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text())
    loaded["metadata"] = {"name": "quickstart", "namespace": "team", "uid": "aaaabbbb-cccc", "generation": 1}
    loaded["spec"] |= {"failurePolicy": {"backoffLimit": 1, "restartDelaySeconds": 5}, **spec}
    return loaded


def read(wire: dict[str, Any]) -> RLTrainingJob:
    job = parse_job(wire)
    assert isinstance(job, RLTrainingJob), job
    return job


JOB = read(document())
RECORD = Record(config_map="quickstart-config-1", hash=document_hash(resolved_document(JOB)))
READY = ClusterView(
    uid="cluster-uid",
    created=BORN,
    spec_hash=cluster_hash(JOB),
    head_ready=True,
    ready_workers=3,
    wanted_workers=3,
    wanted_engines=2,
    head_host="10.0.0.1",
)
NOT_READY = replace(READY, head_ready=False, ready_workers=1, head_host=None, troubles=("w-1: Unschedulable: no GPU",))
DONE = {"arithmetic": InitializerView(InitializerState.COMPLETE)}


def stated(kind: ConditionType, status: Any, reason: str, since: datetime = BORN) -> Condition:
    return Condition(type=kind, status=status, reason=reason, last_transition_time=since)


def status(attempt: int = 0, training: str = "", **fields: Any) -> Status:
    """A status with a cluster; `training` is the reason of condition Training."""
    given: dict[str, Any] = {
        "attempt": attempt,
        "resolved_config": RECORD,
        "ray_cluster": RayClusterReference(name="quickstart"),
        "start_time": BORN,
    }
    if attempt:
        given |= {"submission_id": f"quickstart-aaaabbbb-{attempt}", "attempt_start_time": BORN}
    if training:
        truth = "True" if training in (reasons.TRAINING, reasons.FINISHED) else "False"
        given["conditions"] = [stated(ConditionType.TRAINING, truth, training)]
    return Status(**(given | fields))


def driver(phase: DriverPhase = DriverPhase.TRAINING, attempt: int = 1, **fields: Any) -> DriverStatus:
    return DriverStatus(phase=phase, attempt=attempt, total_steps=10, updated=NOW, **fields)


def failed(attempt: int, seconds_ago: float) -> Failure:
    return Failure(reason="DriverFailed", attempt=attempt, time=NOW - timedelta(seconds=seconds_ago))


RUNNING = RayJob(RayJobState.RUNNING)


@dataclass(frozen=True)
class Row:
    """One row of the table: what is, and what must follow."""

    status: Status
    observed: Observed
    actions: list[Any] = field(default_factory=list)
    phase: str | None = None
    holds: dict[ConditionType, tuple[str, str]] = field(default_factory=dict)
    attempt: int | None = None
    again: float | None = None
    spec: dict[str, Any] = field(default_factory=dict)


T = ConditionType
ROWS: dict[str, Row] = {
    "2 complete, TTL over": Row(
        status(1, completion_time=NOW - timedelta(seconds=60), conditions=[stated(T.COMPLETE, "True", "Completed")]),
        Observed(cluster=READY),
        actions=[DeleteRayCluster("cluster-uid")],
        again=30,
    ),
    "3 complete, TTL not over": Row(
        status(1, completion_time=NOW - timedelta(seconds=20), conditions=[stated(T.COMPLETE, "True", "Completed")]),
        Observed(cluster=READY),
        again=40,
    ),
    "3 failed, cluster gone": Row(
        status(1, completion_time=NOW - timedelta(days=1), conditions=[stated(T.FAILED, "True", "DriverFailed")]),
        Observed(),
    ),
    "4 invalid, no cluster": Row(
        Status(),
        Observed(),
        phase="Pending",
        holds={
            T.CONFIG_VALID: ("False", "InvalidSpec"),
            T.STALLED: ("True", "InvalidSpec"),
            T.READY: ("False", "InvalidSpec"),
            T.RECONCILING: ("False", "InvalidSpec"),
        },
        spec={"storage": {**document()["spec"]["storage"], "data": []}},
    ),
    "5 a foreign object has the name": Row(
        status(ray_cluster=None),
        Observed(blocked=Blocked(reasons.FOREIGN_OBJECT, "RayCluster quickstart is somebody else's")),
        holds={T.STALLED: ("True", "ForeignObject"), T.CLUSTER_READY: ("False", "ForeignObject")},
        again=30,
    ),
    "5 the predecessor is being removed": Row(
        status(ray_cluster=None),
        Observed(blocked=Blocked(reasons.AWAITING_GARBAGE_COLLECTION, "soon", passing=True)),
        holds={T.STALLED: ("False", "AwaitingGarbageCollection"), T.RECONCILING: ("True", "AwaitingGarbageCollection")},
        again=2,
    ),
    "6 and 7 new": Row(
        Status(),
        Observed(),
        actions=[CreateRecords(), CreateInitializer("arithmetic")],
        phase="Initializing",
        holds={T.CONFIG_VALID: ("True", "Valid"), T.RECONCILING: ("True", "Initializing")},
    ),
    "6 edited before its cluster": Row(
        status(ray_cluster=None, resolved_config=Record(config_map="quickstart-config-0", hash="old")),
        Observed(initializers={"arithmetic": InitializerView(InitializerState.RUNNING)}),
        actions=[CreateRecords()],
        phase="Initializing",
    ),
    "8 an initializer runs": Row(
        status(ray_cluster=None),
        Observed(initializers={"arithmetic": InitializerView(InitializerState.RUNNING, "p: ImagePullBackOff: no")}),
        phase="Initializing",
        holds={T.CLUSTER_READY: ("False", "Initializing")},
    ),
    "8 an initializer failed": Row(
        status(ray_cluster=None),
        Observed(initializers={"arithmetic": InitializerView(InitializerState.FAILED, "disk full", "p", 3)}),
        phase="Failed",
        holds={T.FAILED: ("True", "InitializerFailed"), T.STALLED: ("True", "InitializerFailed")},
        again=60,
    ),
    "9 initializers complete": Row(
        status(ray_cluster=None),
        Observed(initializers=DONE),
        actions=[CreateRayCluster()],
        phase="Provisioning",
        holds={T.CLUSTER_READY: ("False", "Provisioning")},
    ),
    "9 somebody deleted the cluster": Row(status(1, reasons.TRAINING), Observed(), actions=[CreateRayCluster()]),
    "10 cluster not ready": Row(
        status(),
        Observed(cluster=NOT_READY),
        phase="Provisioning",
        holds={T.CLUSTER_READY: ("False", "ClusterNotReady"), T.READY: ("False", "Provisioning")},
        again=30,
    ),
    "10 cluster not ready in time": Row(
        status(),
        Observed(cluster=NOT_READY),
        phase="Failed",
        holds={T.FAILED: ("True", "StartupDeadlineExceeded"), T.STALLED: ("True", "StartupDeadlineExceeded")},
        again=30,
        spec={"startupDeadlineSeconds": 90},
    ),
    "11 cluster ready": Row(
        status(),
        Observed(cluster=READY),
        phase="Starting",
        attempt=1,
        again=0,
        holds={T.TRAINING: ("False", "AttemptPlanned"), T.CLUSTER_READY: ("True", "ClusterReady")},
    ),
    "12 planned, unknown to Ray": Row(
        status(1, reasons.ATTEMPT_PLANNED),
        Observed(cluster=READY, ray=None),
        actions=[Submit(1, ID_1, "quickstart-config-1")],
        phase="Starting",
        holds={T.TRAINING: ("False", "DriverStarting")},
        again=3,
    ),
    "12 planned, submitted before a crash": Row(
        status(1, reasons.ATTEMPT_PLANNED),
        Observed(cluster=READY, ray=RUNNING),
        holds={T.TRAINING: ("False", "DriverStarting")},
        again=3,
    ),
    "12 planned, Ray does not answer": Row(
        status(1, reasons.ATTEMPT_PLANNED),
        Observed(cluster=READY, ray=Unreachable("timeout")),
        holds={T.TRAINING: ("False", "AttemptPlanned")},
        again=3,
    ),
    "13 submitted, unknown to Ray": Row(
        status(1, reasons.TRAINING),
        Observed(cluster=READY, ray=None),
        phase="Restarting",
        holds={T.TRAINING: ("False", "DriverLost"), T.READY: ("False", "Restarting")},
        again=3,
    ),
    "14 driver prepares": Row(
        status(1, reasons.DRIVER_STARTING),
        Observed(cluster=READY, ray=RUNNING, driver=driver(DriverPhase.STARTING)),
        phase="Starting",
        holds={T.TRAINING: ("False", "DriverPreparing")},
        again=3,
    ),
    "14 driver trains": Row(
        status(1, reasons.DRIVER_PREPARING),
        Observed(cluster=READY, ray=RUNNING, driver=driver(), history=History()),
        actions=[WriteHistory(History())],
        phase="Running",
        holds={T.TRAINING: ("True", "Training"), T.READY: ("True", "Training"), T.RECONCILING: ("False", "Settled")},
        again=3,
    ),
    "14 driver trains, Ray does not answer": Row(
        status(1, reasons.TRAINING),
        Observed(cluster=READY, ray=Unreachable("timeout"), driver=driver()),
        phase="Running",
        holds={T.TRAINING: ("True", "Training")},
        again=3,
    ),
    "14 driver trains, a worker is missing": Row(
        status(1, reasons.TRAINING),
        Observed(cluster=replace(READY, ready_workers=2), ray=RUNNING, driver=driver()),
        phase="Running",
        holds={T.TRAINING: ("True", "Training"), T.READY: ("False", "ClusterNotReady")},
        again=3,
    ),
    "15 driver finished": Row(
        status(1, reasons.TRAINING),
        Observed(cluster=READY, ray=RUNNING, driver=driver(DriverPhase.FINISHED), history=History()),
        actions=[WriteHistory(History())],
        holds={T.TRAINING: ("True", "Finished")},
        again=3,
    ),
    "15 driver finished, its history not had yet": Row(
        status(1, reasons.TRAINING),
        Observed(cluster=READY, ray=RUNNING, driver=driver(DriverPhase.FINISHED)),
        holds={T.TRAINING: ("True", "Training")},
        again=3,
    ),
    "15 driver finished and recorded": Row(
        status(1, reasons.FINISHED),
        Observed(cluster=READY, ray=RUNNING, driver=driver(DriverPhase.FINISHED)),
        actions=[StopDriver()],
        again=3,
    ),
    "16 driver reports its failure": Row(
        status(1, reasons.TRAINING),
        Observed(
            cluster=READY,
            ray=RUNNING,
            driver=driver(DriverPhase.FAILED, error=DriverError(reason="NaNLoss", message="loss is NaN")),
        ),
        actions=[StopRayJob(ID_1)],
        phase="Restarting",
        holds={T.TRAINING: ("False", "NaNLoss")},
        again=3,
    ),
    "17 driver silent for 60 s": Row(
        status(1, reasons.TRAINING),
        Observed(cluster=READY, ray=RUNNING, driver_silent_since=NOW - timedelta(seconds=60)),
        actions=[StopRayJob(ID_1)],
        phase="Restarting",
        holds={T.TRAINING: ("False", "DriverUnresponsive")},
        again=3,
    ),
    "17 driver silent for 59 s": Row(
        status(1, reasons.TRAINING),
        Observed(cluster=READY, ray=RUNNING, driver_silent_since=NOW - timedelta(seconds=59)),
        holds={T.TRAINING: ("True", "Training")},
        again=1,
    ),
    "17 an older attempt's driver is not an answer": Row(
        status(2, reasons.DRIVER_STARTING),
        Observed(cluster=READY, ray=RUNNING, driver=driver(attempt=1)),
        holds={T.TRAINING: ("False", "DriverStarting")},
        again=3,
    ),
    "17 driver never answered in time": Row(
        status(1, reasons.DRIVER_STARTING),
        Observed(cluster=READY, ray=RUNNING),
        actions=[StopRayJob(ID_1)],
        phase="Failed",
        holds={T.FAILED: ("True", "StartupDeadlineExceeded")},
        again=3,
        spec={"startupDeadlineSeconds": 100},
    ),
    "18 succeeded": Row(
        status(1, reasons.FINISHED),
        Observed(cluster=READY, ray=RayJob(RayJobState.SUCCEEDED)),
        phase="Succeeded",
        holds={
            T.COMPLETE: ("True", "Completed"),
            T.READY: ("True", "Completed"),
            T.TRAINING: ("False", "Completed"),
            T.RECONCILING: ("False", "Completed"),
        },
        again=3,
    ),
    "19 failed": Row(
        status(1, reasons.TRAINING),
        Observed(cluster=READY, ray=RayJob(RayJobState.FAILED, "exit code 137", 137)),
        phase="Restarting",
        holds={T.TRAINING: ("False", "DriverFailed")},
        again=3,
    ),
    "19 stopped": Row(
        status(1, reasons.TRAINING),
        Observed(cluster=READY, ray=RayJob(RayJobState.STOPPED)),
        phase="Restarting",
        holds={T.TRAINING: ("False", "DriverStopped")},
        again=3,
    ),
    "20 delay not over": Row(
        status(1, last_failure=failed(1, 2)),
        Observed(cluster=READY, ray=RayJob(RayJobState.FAILED)),
        phase="Restarting",
        again=3,
    ),
    "21 the old driver still runs": Row(
        status(1, last_failure=failed(1, 6)),
        Observed(cluster=READY, ray=RUNNING),
        actions=[StopRayJob(ID_1)],
        phase="Restarting",
        again=3,
    ),
    "22 delay over": Row(
        status(1, last_failure=failed(1, 6)),
        Observed(cluster=READY, ray=RayJob(RayJobState.STOPPED)),
        phase="Starting",
        attempt=2,
        again=0,
        holds={T.TRAINING: ("False", "AttemptPlanned")},
    ),
    "22 delay over, Ray forgot the old driver": Row(
        status(1, last_failure=failed(1, 6)), Observed(cluster=READY, ray=None), attempt=2, again=0
    ),
    "22 delay over, cluster not ready": Row(
        status(1, last_failure=failed(1, 6)), Observed(cluster=NOT_READY), phase="Restarting", attempt=1, again=3
    ),
    "23 retries used up": Row(
        status(2, reasons.TRAINING, last_failure=failed(1, 50)),
        Observed(cluster=READY, ray=RayJob(RayJobState.FAILED, "exit code 1", 1)),
        phase="Failed",
        holds={
            T.FAILED: ("True", "BackoffLimitExceeded"),
            T.STALLED: ("True", "BackoffLimitExceeded"),
            T.READY: ("False", "BackoffLimitExceeded"),
            T.COMPLETE: ("False", "BackoffLimitExceeded"),
        },
        again=3,
    ),
}


def subject(row: Row, **metadata: Any) -> Subject:
    job = read(document(**row.spec))
    return Subject(job.metadata.model_copy(update=metadata), row.status, job, tuple(validate(job)))


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())
def test_row(row: Row) -> None:
    decision = decide(subject(row), row.observed, NOW)
    assert list(decision.actions) == row.actions
    assert decision.requeue_after == row.again
    if row.phase is not None:
        assert decision.status.phase == row.phase
    assert decision.status.attempt == (row.attempt if row.attempt is not None else row.status.attempt or 0)
    for kind, expected in row.holds.items():
        condition = decision.status.condition(kind)
        assert condition is not None
        assert (condition.status, condition.reason) == expected, kind


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())
def test_every_status_obeys_the_conventions(row: Row) -> None:
    decided = decide(subject(row, generation=7), row.observed, NOW).status
    assert decided.observed_generation == 7
    assert {condition.type for condition in decided.conditions} >= {T.COMPLETE, T.FAILED, T.TRAINING, T.CLUSTER_READY}
    for condition in decided.conditions:
        before = row.status.condition(condition.type)
        moved = before is None or before.status != condition.status
        assert condition.last_transition_time == (NOW if moved else before.last_transition_time if before else None)


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())
def test_deciding_again_on_the_written_status_does_nothing_new_to_the_cluster(row: Row) -> None:
    """After a pass, the same observation may repeat an action at most; it never creates or counts a second time."""
    first = decide(subject(row), row.observed, NOW)
    second = decide(replace(subject(row), status=first.status), row.observed, NOW)
    repeatable = (StopDriver, StopRayJob, WriteHistory, CreateInitializer, CreateRayCluster, DeleteRayCluster, Submit)
    planned_now = first.status.attempt != row.status.attempt
    for action in second.actions:
        assert isinstance(action, repeatable)
        assert action in first.actions or planned_now or isinstance(action, StopDriver | StopRayJob)
    assert (second.status.attempt or 0) <= (first.status.attempt or 0) or row.observed.ray is None


def test_a_job_being_deleted_is_left_to_the_garbage_collector() -> None:
    row = ROWS["11 cluster ready"]
    decision = decide(subject(row, deletion_timestamp=NOW), row.observed, NOW)
    assert decision == Decision(actions=(), status=row.status)


def test_what_is_awaited_is_said_when_the_start_takes_too_long() -> None:
    row = ROWS["10 cluster not ready in time"]
    failure = decide(subject(row), row.observed, NOW).status.last_failure
    assert failure is not None
    assert "w-1: Unschedulable: no GPU" in failure.message
    assert "90 s" in failure.message


EDITS: dict[str, tuple[Callable[[dict[str, Any]], None], bool]] = {
    "another learning rate": (
        lambda spec: spec["config"]["trainer"]["policy"]["optimizer_config"].update(lr=2e-3),
        True,
    ),
    "another image": (lambda spec: spec["runtime"].update(image="other"), True),
    "another TTL applies at once": (lambda spec: spec.update(ttlSecondsAfterFinished=5), False),
}


@pytest.mark.parametrize(("edit", "refused"), EDITS.values(), ids=EDITS.keys())
def test_an_edit_of_a_running_job_is_not_applied_and_says_so(
    edit: Callable[[dict[str, Any]], None], refused: bool
) -> None:
    edited = document()
    edit(edited["spec"])
    edited["metadata"]["generation"] = 2
    job = read(edited)
    row = ROWS["14 driver trains"]
    decided = decide(Subject(job.metadata, row.status, job), row.observed, NOW)
    reconciling = decided.status.condition(T.RECONCILING)
    assert reconciling is not None
    assert (reconciling.reason == "EditNotApplied") is refused
    assert decided.status.phase == "Running"
    assert decided.status.resolved_config == RECORD
    assert CreateRecords() not in decided.actions


def test_an_unreadable_edit_does_not_stop_the_run() -> None:
    row = ROWS["13 submitted, unknown to Ray"]
    broken = document()
    broken["spec"]["runtime"] = {"image": 5}
    errors = parse_job(broken)
    assert isinstance(errors, list)
    decided = decide(Subject(ObjectMeta(**broken["metadata"]), row.status, None, tuple(errors)), row.observed, NOW)
    assert decided.status.phase == "Restarting"
    valid = decided.status.condition(T.CONFIG_VALID)
    assert valid is not None
    assert (valid.status, valid.reason) == ("False", "InvalidEdit")


def test_a_new_attempt_shows_no_step_below_the_newest_checkpoint() -> None:
    known = Checkpoint(latest_step=8, path="/checkpoints/8")
    row = ROWS["14 driver prepares"]
    old = row.status.model_copy(update={"checkpoint": known})
    decided = decide(replace(subject(row), status=old), row.observed, NOW).status
    assert decided.progress is not None
    assert decided.progress.step == 8
    assert decided.progress.percent == 80
    assert decided.checkpoint == known


def test_the_first_checkpoint_is_a_condition() -> None:
    row = ROWS["14 driver trains"]
    found = CheckpointStatus(step=4, path="/checkpoints/4", time=NOW, bytes=9)
    observed = replace(row.observed, driver=driver(checkpoint=found, step=5))
    decided = decide(subject(row), observed, NOW).status
    condition = decided.condition(T.CHECKPOINTED)
    assert condition is not None
    assert condition.status == "True"
    assert decided.checkpoint == Checkpoint(latest_step=4, path="/checkpoints/4", time=NOW, bytes=9)


def test_time_in_training_adds_up_over_attempts() -> None:
    row = ROWS["19 failed"]
    old = row.status.model_copy(update={"durations": {"running": 10.0}})
    decided = decide(replace(subject(row), status=old), row.observed, NOW).status
    assert decided.durations == {"running": 110.0, "provisioning": 100.0}


def test_names_of_the_ids_come_from_the_contract() -> None:
    decided = decide(subject(ROWS["11 cluster ready"]), ROWS["11 cluster ready"].observed, NOW).status
    assert decided.submission_id == names.submission_id("quickstart", "aaaabbbb-cccc", 1)
