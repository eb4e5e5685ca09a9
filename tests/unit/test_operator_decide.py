"""The decision, row by row of the table in `rltrain_operator.reconcile.decide`."""

from __future__ import annotations

import re
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
from rltrain_api.status import (
    Checkpoint,
    Condition,
    ConditionType,
    Failure,
    HandledRequests,
    RayClusterReference,
    Status,
    Stop,
)
from rltrain_api.status import ResolvedConfigReference as Record
from rltrain_api.validate import validate
from rltrain_api.wire import (
    CheckpointStatus,
    DriverError,
    DriverPhase,
    DriverStatus,
    EngineState,
    EngineStatus,
    History,
)
from rltrain_operator.plan import cluster_hash, spec_hash
from rltrain_operator.rayjobs import RayJob, RayJobState
from rltrain_operator.reconcile import decide as decide_module
from rltrain_operator.reconcile import reasons
from rltrain_operator.reconcile.coalesce import write_due
from rltrain_operator.reconcile.decide import decide
from rltrain_operator.reconcile.failing import restart_delay
from rltrain_operator.reconcile.stall import judge_pace
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
    PodEnd,
    RequestCheckpoint,
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
RECORD = Record(config_map="quickstart-config-1", hash=document_hash(resolved_document(JOB)), spec_hash=spec_hash(JOB))
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


def failed(attempt: int, seconds_ago: float, **fields: Any) -> Failure:
    return Failure(reason="DriverFailed", attempt=attempt, time=NOW - timedelta(seconds=seconds_ago), **fields)


def stop(reason: str, seconds_ago: float = 0, ended: bool = False, attempt: int = 1) -> Stop:
    requested = NOW - timedelta(seconds=seconds_ago)
    return Stop(attempt=attempt, reason=reason, requested=requested, ended=NOW if ended else None)


def edited_config() -> dict[str, Any]:
    config: dict[str, Any] = document()["spec"]["config"]
    config["trainer"]["policy"]["optimizer_config"]["lr"] = 2e-3
    return config


def annotated(name: str) -> dict[str, Any]:
    return {"annotations": {name: "monday"}}


RUNNING = RayJob(RayJobState.RUNNING)
FOLLOWED = Observed(cluster=READY, ray=RUNNING, driver=driver(step=5))
GENERATION_2 = {"generation": 2}
RECORD_2 = "quickstart-config-2"


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
    metadata: dict[str, Any] = field(default_factory=dict)


T = ConditionType
UNTOUCHED: dict[str, Row] = {
    "1 being deleted": Row(status(1, reasons.TRAINING), FOLLOWED, metadata={"deletion_timestamp": NOW}),
    "1 managed by somebody else": Row(Status(), Observed(), metadata={"managed": "else"}),
}
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
    "6 suspended before anything was made": Row(
        Status(),
        Observed(),
        phase="Suspended",
        holds={
            T.SUSPENDED: ("True", "Suspended"),
            T.READY: ("False", "Suspended"),
            T.RECONCILING: ("False", "Suspended"),
        },
        spec={"suspend": True},
    ),
    "6 suspended, its cluster gone": Row(
        status(1, phase="Suspending", stop=stop("Suspending", ended=True)),
        Observed(),
        phase="Suspended",
        holds={T.SUSPENDED: ("True", "Suspended"), T.CLUSTER_READY: ("False", "Suspended")},
        spec={"suspend": True},
    ),
    "7 its time was over in the queue": Row(
        status(ray_cluster=None),
        Observed(),
        phase="Failed",
        holds={T.FAILED: ("True", "ActiveDeadlineExceeded")},
        again=60,
        spec={"activeDeadlineSeconds": 100},
    ),
    "8 pods of the old cluster": Row(
        status(1, phase="Updating", stop=stop("Updating", ended=True)),
        Observed(leftovers=("head", "w-1")),
        phase="Updating",
        holds={T.CLUSTER_READY: ("False", "PodsLeaving")},
        again=5,
    ),
    "8 pods of a suspended cluster": Row(
        status(1, phase="Suspending", stop=stop("Suspending", ended=True)),
        Observed(leftovers=("head",)),
        phase="Suspending",
        holds={T.SUSPENDED: ("False", "NotSuspended")},
        again=5,
        spec={"suspend": True},
    ),
    "9 resumed": Row(
        status(
            1,
            phase="Suspended",
            ray_cluster=None,
            stop=stop("Suspending", ended=True),
            conditions=[stated(T.SUSPENDED, "True", "Suspended")],
        ),
        Observed(initializers=DONE),
        actions=[CreateRecords(), CreateRayCluster()],
        phase="Provisioning",
        holds={T.SUSPENDED: ("False", "Resumed")},
        metadata=GENERATION_2,
    ),
    "9 and 10 new": Row(
        Status(),
        Observed(),
        actions=[CreateRecords(), CreateInitializer("arithmetic")],
        phase="Initializing",
        holds={T.CONFIG_VALID: ("True", "Valid"), T.RECONCILING: ("True", "Initializing")},
    ),
    "9 edited before its cluster": Row(
        status(ray_cluster=None, resolved_config=Record(config_map="quickstart-config-0", hash="old")),
        Observed(initializers={"arithmetic": InitializerView(InitializerState.RUNNING)}),
        actions=[CreateRecords()],
        phase="Initializing",
    ),
    "11 an initializer runs": Row(
        status(ray_cluster=None),
        Observed(initializers={"arithmetic": InitializerView(InitializerState.RUNNING, "p: ImagePullBackOff: no")}),
        phase="Initializing",
        holds={T.CLUSTER_READY: ("False", "Initializing")},
    ),
    "11 an initializer failed": Row(
        status(ray_cluster=None),
        Observed(initializers={"arithmetic": InitializerView(InitializerState.FAILED, "disk full", "p", 3)}),
        phase="Failed",
        holds={T.FAILED: ("True", "InitializerFailed"), T.STALLED: ("True", "InitializerFailed")},
        again=60,
    ),
    "12 initializers complete": Row(
        status(ray_cluster=None),
        Observed(initializers=DONE),
        actions=[CreateRayCluster()],
        phase="Provisioning",
        holds={T.CLUSTER_READY: ("False", "Provisioning")},
    ),
    "12 somebody deleted the cluster": Row(status(1, reasons.TRAINING), Observed(), actions=[CreateRayCluster()]),
    "36 cluster not ready": Row(
        status(),
        Observed(cluster=NOT_READY),
        phase="Provisioning",
        holds={T.CLUSTER_READY: ("False", "ClusterNotReady"), T.READY: ("False", "Provisioning")},
        again=30,
    ),
    "36 cluster not ready in time": Row(
        status(),
        Observed(cluster=NOT_READY),
        phase="Failed",
        holds={T.FAILED: ("True", "StartupDeadlineExceeded"), T.STALLED: ("True", "StartupDeadlineExceeded")},
        again=30,
        spec={"startupDeadlineSeconds": 90},
    ),
    "38 cluster ready": Row(
        status(),
        Observed(cluster=READY),
        phase="Starting",
        attempt=1,
        again=0,
        holds={T.TRAINING: ("False", "AttemptPlanned"), T.CLUSTER_READY: ("True", "ClusterReady")},
    ),
    "13 planned, unknown to Ray": Row(
        status(1, reasons.ATTEMPT_PLANNED),
        Observed(cluster=READY, ray=None),
        actions=[Submit(1, ID_1, "quickstart-config-1")],
        phase="Starting",
        holds={T.TRAINING: ("False", "DriverStarting")},
        again=3,
    ),
    "13 planned, submitted before a crash": Row(
        status(1, reasons.ATTEMPT_PLANNED),
        Observed(cluster=READY, ray=RUNNING),
        holds={T.TRAINING: ("False", "DriverStarting")},
        again=3,
    ),
    "13 planned, Ray does not answer": Row(
        status(1, reasons.ATTEMPT_PLANNED),
        Observed(cluster=READY, ray=Unreachable("timeout")),
        holds={T.TRAINING: ("False", "AttemptPlanned")},
        again=3,
    ),
    "14 submitted, unknown to Ray": Row(
        status(1, reasons.TRAINING),
        Observed(cluster=READY, ray=None),
        phase="Restarting",
        holds={T.TRAINING: ("False", "DriverLost"), T.READY: ("False", "Restarting")},
        again=3,
    ),
    "15 driver prepares": Row(
        status(1, reasons.DRIVER_STARTING),
        Observed(cluster=READY, ray=RUNNING, driver=driver(DriverPhase.STARTING)),
        phase="Starting",
        holds={T.TRAINING: ("False", "DriverPreparing")},
        again=3,
    ),
    "15 driver trains": Row(
        status(1, reasons.DRIVER_PREPARING),
        Observed(cluster=READY, ray=RUNNING, driver=driver(), history=History()),
        actions=[WriteHistory(History())],
        phase="Running",
        holds={T.TRAINING: ("True", "Training"), T.READY: ("True", "Training"), T.RECONCILING: ("False", "Settled")},
        again=3,
    ),
    "15 driver trains, Ray does not answer": Row(
        status(1, reasons.TRAINING),
        Observed(cluster=READY, ray=Unreachable("timeout"), driver=driver()),
        phase="Running",
        holds={T.TRAINING: ("True", "Training")},
        again=3,
    ),
    "15 driver trains, a worker is missing": Row(
        status(1, reasons.TRAINING),
        Observed(cluster=replace(READY, ready_workers=2), ray=RUNNING, driver=driver()),
        phase="Running",
        holds={T.TRAINING: ("True", "Training"), T.READY: ("False", "ClusterNotReady")},
        again=3,
    ),
    "15 driver trains slowly": Row(
        status(1, reasons.TRAINING),
        replace(FOLLOWED, driver=driver(step=5, step_seconds=50, step_age_seconds=999)),
        phase="Running",
        holds={T.TRAINING: ("True", "Training"), T.READY: ("True", "Training")},
        again=3,
    ),
    "16 a checkpoint is asked for": Row(
        status(1, reasons.TRAINING),
        FOLLOWED,
        actions=[RequestCheckpoint("monday")],
        again=3,
        metadata=annotated("rltrain.io/checkpoint-requested-at"),
    ),
    "16 the checkpoint is committed": Row(
        status(1, reasons.TRAINING),
        replace(FOLLOWED, driver=driver(step=5, saved_request="monday")),
        again=3,
        metadata=annotated("rltrain.io/checkpoint-requested-at"),
    ),
    "16 the checkpoint was committed long ago": Row(
        status(1, reasons.TRAINING, handled_requests=HandledRequests(checkpoint="monday")),
        FOLLOWED,
        again=3,
        metadata=annotated("rltrain.io/checkpoint-requested-at"),
    ),
    "16 a checkpoint is asked for before training": Row(
        status(1, reasons.DRIVER_STARTING),
        replace(FOLLOWED, driver=driver(DriverPhase.STARTING)),
        again=3,
        metadata=annotated("rltrain.io/checkpoint-requested-at"),
    ),
    "17 driver finished": Row(
        status(1, reasons.TRAINING),
        Observed(cluster=READY, ray=RUNNING, driver=driver(DriverPhase.FINISHED), history=History()),
        actions=[WriteHistory(History())],
        holds={T.TRAINING: ("True", "Finished")},
        again=3,
    ),
    "17 driver finished, its history not had yet": Row(
        status(1, reasons.TRAINING),
        Observed(cluster=READY, ray=RUNNING, driver=driver(DriverPhase.FINISHED)),
        holds={T.TRAINING: ("True", "Training")},
        again=3,
    ),
    "17 driver finished and recorded": Row(
        status(1, reasons.FINISHED),
        Observed(cluster=READY, ray=RUNNING, driver=driver(DriverPhase.FINISHED)),
        actions=[StopDriver()],
        again=3,
    ),
    "18 driver reports its failure": Row(
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
    "19 driver silent for 60 s": Row(
        status(1, reasons.TRAINING),
        Observed(cluster=READY, ray=RUNNING, driver_silent_since=NOW - timedelta(seconds=60)),
        actions=[StopRayJob(ID_1)],
        phase="Restarting",
        holds={T.TRAINING: ("False", "DriverUnresponsive")},
        again=3,
    ),
    "19 driver silent for 59 s": Row(
        status(1, reasons.TRAINING),
        Observed(cluster=READY, ray=RUNNING, driver_silent_since=NOW - timedelta(seconds=59)),
        holds={T.TRAINING: ("True", "Training")},
        again=1,
    ),
    "19 an older attempt's driver is not an answer": Row(
        status(2, reasons.DRIVER_STARTING),
        Observed(cluster=READY, ray=RUNNING, driver=driver(attempt=1)),
        holds={T.TRAINING: ("False", "DriverStarting")},
        again=3,
    ),
    "21 driver never answered in time": Row(
        status(1, reasons.DRIVER_STARTING),
        Observed(cluster=READY, ray=RUNNING),
        actions=[StopRayJob(ID_1)],
        phase="Failed",
        holds={T.FAILED: ("True", "StartupDeadlineExceeded")},
        again=3,
        spec={"startupDeadlineSeconds": 100},
    ),
    "20 driver hangs": Row(
        status(1, reasons.TRAINING),
        replace(FOLLOWED, driver=driver(step=5, step_seconds=50, step_age_seconds=1000)),
        actions=[StopRayJob(ID_1)],
        phase="Restarting",
        holds={T.TRAINING: ("False", "TrainingStalled")},
        again=3,
    ),
    "22 succeeded": Row(
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
    "23 failed": Row(
        status(1, reasons.TRAINING),
        Observed(cluster=READY, ray=RayJob(RayJobState.FAILED, "exit code 137", 137)),
        phase="Restarting",
        holds={T.TRAINING: ("False", "DriverFailed")},
        again=3,
    ),
    "23 stopped": Row(
        status(1, reasons.TRAINING),
        Observed(cluster=READY, ray=RayJob(RayJobState.STOPPED)),
        phase="Restarting",
        holds={T.TRAINING: ("False", "DriverStopped")},
        again=3,
    ),
    "24 suspended while it trains": Row(
        status(1, reasons.TRAINING),
        FOLLOWED,
        phase="Suspending",
        holds={T.TRAINING: ("True", "Training"), T.READY: ("False", "Suspending")},
        again=0,
        spec={"suspend": True},
    ),
    "24 edited while it trains": Row(
        status(1, reasons.TRAINING),
        FOLLOWED,
        phase="Updating",
        holds={T.RECONCILING: ("True", "Updating")},
        again=0,
        spec={"config": edited_config()},
        metadata=GENERATION_2,
    ),
    "24 a restart is asked for": Row(
        status(1, reasons.TRAINING),
        FOLLOWED,
        phase="Restarting",
        holds={T.RECONCILING: ("True", "RestartRequested")},
        again=0,
        metadata=annotated("rltrain.io/restart-requested-at"),
    ),
    "24 its time is over": Row(
        status(1, reasons.TRAINING),
        FOLLOWED,
        holds={T.RECONCILING: ("True", "ActiveDeadlineExceeded")},
        again=0,
        spec={"activeDeadlineSeconds": 100},
    ),
    "23 failed before it was told to stop": Row(
        status(1, reasons.TRAINING),
        Observed(cluster=READY, ray=RayJob(RayJobState.FAILED, "exit code 137", 137)),
        phase="Restarting",
        holds={T.TRAINING: ("False", "DriverFailed")},
        again=3,
        spec={"suspend": True},
    ),
    "25 told to stop, and had finished": Row(
        status(1, reasons.TRAINING, stop=stop("Suspending")),
        Observed(cluster=READY, ray=RUNNING, driver=driver(DriverPhase.FINISHED), history=History()),
        actions=[WriteHistory(History())],
        holds={T.TRAINING: ("True", "Finished")},
        again=3,
        spec={"suspend": True},
    ),
    "25 told to stop, and had succeeded": Row(
        status(1, reasons.FINISHED, stop=stop("Suspending")),
        Observed(cluster=READY, ray=RayJob(RayJobState.SUCCEEDED)),
        phase="Succeeded",
        again=3,
        spec={"suspend": True},
    ),
    "26 told to stop": Row(
        status(1, reasons.TRAINING, stop=stop("Suspending", seconds_ago=20)),
        FOLLOWED,
        actions=[StopDriver(checkpoint=True, deadline_seconds=100)],
        phase="Suspending",
        holds={T.TRAINING: ("True", "Training")},
        again=3,
        spec={"suspend": True},
    ),
    "26 told to stop, and the wish is gone": Row(
        status(1, reasons.TRAINING, stop=stop("Suspending", seconds_ago=20)),
        FOLLOWED,
        actions=[StopDriver(checkpoint=True, deadline_seconds=100)],
        phase="Suspending",
        again=3,
    ),
    "27 has stopped as told and waits to be read": Row(
        status(1, reasons.TRAINING, stop=stop("Updating", seconds_ago=20)),
        replace(FOLLOWED, driver=driver(DriverPhase.STOPPED)),
        phase="Updating",
        holds={T.TRAINING: ("False", "Updating")},
        again=0,
    ),
    "26 told to stop, does not answer": Row(
        status(1, reasons.TRAINING, stop=stop("Suspending", seconds_ago=134)),
        replace(FOLLOWED, driver=None),
        phase="Suspending",
        again=3,
        spec={"suspend": True},
    ),
    "27 has ended as told": Row(
        status(1, reasons.TRAINING, stop=stop("Suspending", seconds_ago=20)),
        Observed(cluster=READY, ray=RayJob(RayJobState.FAILED, "exit code 3", 3)),
        phase="Suspending",
        holds={T.TRAINING: ("False", "Suspending")},
        again=0,
        spec={"suspend": True},
    ),
    "27 was told by its pods": Row(
        status(1, reasons.TRAINING),
        replace(FOLLOWED, driver=driver(DriverPhase.STOPPED)),
        phase="Restarting",
        holds={T.TRAINING: ("False", "DriverToldToStop")},
        again=0,
    ),
    "27 was never submitted": Row(
        status(1, reasons.ATTEMPT_PLANNED, stop=stop("Suspending")),
        Observed(cluster=READY, ray=None),
        again=0,
        spec={"suspend": True},
    ),
    "27 has lost its head": Row(
        status(1, reasons.TRAINING, stop=stop("Suspending")),
        Observed(cluster=NOT_READY, ray=Unreachable("the head pod is not running")),
        again=0,
        spec={"suspend": True},
    ),
    "28 does not stop in time": Row(
        status(1, reasons.TRAINING, stop=stop("Suspending", seconds_ago=135)),
        FOLLOWED,
        actions=[StopRayJob(ID_1)],
        phase="Suspending",
        holds={T.TRAINING: ("False", "Suspending")},
        again=0,
        spec={"suspend": True},
    ),
    "29 stopped, to be suspended": Row(
        status(1, reasons.SUSPENDING, stop=stop("Suspending", ended=True)),
        Observed(cluster=READY, ray=RayJob(RayJobState.FAILED)),
        actions=[DeleteRayCluster("cluster-uid")],
        phase="Suspending",
        holds={T.SUSPENDED: ("False", "NotSuspended"), T.CLUSTER_READY: ("False", "Suspending")},
        spec={"suspend": True},
    ),
    "29 suspended while it is provisioned": Row(
        status(),
        Observed(cluster=NOT_READY),
        actions=[DeleteRayCluster("cluster-uid")],
        phase="Suspending",
        spec={"suspend": True},
    ),
    "29 its cluster is being deleted": Row(
        status(),
        Observed(cluster=replace(NOT_READY, deleting=True)),
        phase="Suspending",
        spec={"suspend": True},
    ),
    "30 stopped, its time is over": Row(
        status(1, reasons.ACTIVE_DEADLINE_EXCEEDED, stop=stop("ActiveDeadlineExceeded", ended=True)),
        Observed(cluster=READY, ray=RayJob(RayJobState.FAILED)),
        phase="Failed",
        holds={T.FAILED: ("True", "ActiveDeadlineExceeded")},
        again=60,
        spec={"activeDeadlineSeconds": 100},
    ),
    "31 edited, other pods": Row(
        status(1, reasons.UPDATING, stop=stop("Updating", ended=True)),
        Observed(cluster=READY, ray=RayJob(RayJobState.FAILED)),
        actions=[DeleteRayCluster("cluster-uid")],
        phase="Updating",
        spec={"runtime": {"image": "other"}},
        metadata=GENERATION_2,
    ),
    "31 edited before the first attempt": Row(
        status(),
        Observed(cluster=NOT_READY),
        actions=[DeleteRayCluster("cluster-uid")],
        phase="Updating",
        spec={"runtime": {"image": "other"}},
        metadata=GENERATION_2,
    ),
    "32 edited, the same pods": Row(
        status(1, reasons.UPDATING, stop=stop("Updating", ended=True)),
        Observed(cluster=READY, ray=RayJob(RayJobState.FAILED)),
        actions=[CreateRecords()],
        phase="Updating",
        again=0,
        spec={"config": edited_config()},
        metadata=GENERATION_2,
    ),
    "33 a restart is asked for before the first attempt": Row(
        status(),
        Observed(cluster=READY),
        attempt=1,
        again=0,
        metadata=annotated("rltrain.io/restart-requested-at"),
    ),
    "34 a new cluster is needed": Row(
        status(1, last_failure=failed(1, 2, action="RestartCluster", cluster_uid="cluster-uid")),
        Observed(cluster=READY, ray=RayJob(RayJobState.FAILED)),
        actions=[DeleteRayCluster("cluster-uid")],
        phase="Restarting",
        again=1798,
    ),
    "38 the new cluster is ready": Row(
        status(1, last_failure=failed(1, 6, action="RestartCluster", cluster_uid="the one before")),
        Observed(cluster=READY, ray=None),
        attempt=2,
        again=0,
    ),
    "38 after a stop": Row(
        status(1, reasons.UPDATING, stop=stop("Updating", ended=True), last_failure=failed(0, 1)),
        Observed(cluster=READY, ray=RayJob(RayJobState.FAILED)),
        phase="Starting",
        attempt=2,
        again=0,
    ),
    "35 delay not over": Row(
        status(1, last_failure=failed(1, 2)),
        Observed(cluster=READY, ray=RayJob(RayJobState.FAILED)),
        phase="Restarting",
        again=3,
    ),
    "37 the old driver still runs": Row(
        status(1, last_failure=failed(1, 6)),
        Observed(cluster=READY, ray=RUNNING),
        actions=[StopRayJob(ID_1)],
        phase="Restarting",
        again=3,
    ),
    "38 delay over": Row(
        status(1, last_failure=failed(1, 6)),
        Observed(cluster=READY, ray=RayJob(RayJobState.STOPPED)),
        phase="Starting",
        attempt=2,
        again=0,
        holds={T.TRAINING: ("False", "AttemptPlanned")},
    ),
    "38 delay over, Ray forgot the old driver": Row(
        status(1, last_failure=failed(1, 6)), Observed(cluster=READY, ray=None), attempt=2, again=0
    ),
    "36 delay over, cluster not ready": Row(
        status(1, last_failure=failed(1, 6)), Observed(cluster=NOT_READY), phase="Restarting", attempt=1, again=3
    ),
    "23 retries used up": Row(
        status(2, reasons.TRAINING, last_failure=failed(1, 50), failures=1),
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
    given = row.metadata | metadata
    elsewhere = given.pop("managed", "") == "else"
    wire = document(**row.spec)
    wire["metadata"] |= {key: value for key, value in given.items() if key in ("generation", "annotations")}
    job = read(wire)
    return Subject(job.metadata.model_copy(update=given), row.status, job, tuple(validate(job)), elsewhere)


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
    for action in second.actions:
        if isinstance(action, CreateRecords | CreateInitializer | CreateRayCluster):
            assert action in first.actions, "what a status says is made is not made a second time"
    assert (second.status.attempt or 0) <= (row.status.attempt or 0) + 1
    assert (second.status.failures or 0) <= (row.status.failures or 0) + 1


@pytest.mark.parametrize("row", UNTOUCHED.values(), ids=UNTOUCHED.keys())
def test_what_is_not_ours_to_run_is_left_alone(row: Row) -> None:
    assert decide(subject(row), row.observed, NOW) == Decision(actions=(), status=row.status)


def test_every_row_of_the_table_has_a_case() -> None:
    documented = re.findall(r"^    (\d+) ", decide_module.__doc__ or "", re.MULTILINE)
    assert documented == [str(number) for number in range(1, 39)]
    numbers = [number for case in (*UNTOUCHED, *ROWS) for number in re.findall(r"^\d+(?= )|(?<=^9 and )\d+", case)]
    assert set(numbers) == set(documented)


def test_what_is_awaited_is_said_when_the_start_takes_too_long() -> None:
    row = ROWS["36 cluster not ready in time"]
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
    "more engines": (
        lambda spec: spec["config"]["generator"]["inference_engine"].update(num_engines=4),
        True,
    ),
    "another TTL applies at once": (lambda spec: spec.update(ttlSecondsAfterFinished=5), False),
}


def edited(edit: Callable[[dict[str, Any]], None], policy: str) -> RLTrainingJob:
    wire = document(updatePolicy=policy)
    edit(wire["spec"])
    wire["metadata"]["generation"] = 2
    return read(wire)


@pytest.mark.parametrize(("edit", "matters"), EDITS.values(), ids=EDITS.keys())
def test_an_edit_is_applied(edit: Callable[[dict[str, Any]], None], matters: bool) -> None:
    job, row = edited(edit, "RestartFromCheckpoint"), ROWS["15 driver trains"]
    decided = decide(Subject(job.metadata, row.status, job), row.observed, NOW).status
    assert (decided.stop is not None and decided.stop.reason == "Updating") is matters
    assert decided.phase == ("Updating" if matters else "Running")


@pytest.mark.parametrize(("edit", "matters"), EDITS.values(), ids=EDITS.keys())
def test_a_rejected_edit_is_not_applied_and_says_so(edit: Callable[[dict[str, Any]], None], matters: bool) -> None:
    job, row = edited(edit, "Reject"), ROWS["15 driver trains"]
    decision = decide(Subject(job.metadata, row.status, job), row.observed, NOW)
    reconciling = decision.status.condition(T.RECONCILING)
    assert reconciling is not None
    assert (reconciling.reason == "EditNotApplied") is matters
    assert ("updatePolicy is Reject" in reconciling.message) is matters
    assert (decision.status.phase, decision.status.resolved_config) == ("Running", RECORD)
    assert decision.status.stop is None
    assert CreateRecords() not in decision.actions


def test_an_edit_of_a_job_that_is_over_says_so() -> None:
    job, row = edited(EDITS["another image"][0], "RestartFromCheckpoint"), ROWS["3 complete, TTL not over"]
    reconciling = decide(Subject(job.metadata, row.status, job), row.observed, NOW).status.condition(T.RECONCILING)
    assert reconciling is not None
    assert reconciling.reason == "EditNotApplied"
    assert "the job is over" in reconciling.message


def test_pods_that_a_newer_operator_would_make_otherwise_stay_when_a_policy_is_edited() -> None:
    older = replace(FOLLOWED, cluster=replace(READY, spec_hash="of an older operator"))
    for spec, phase in (({"ttlSecondsAfterFinished": 5}, "Running"), ({"priorityClassName": "high"}, "Updating")):
        row = Row(status(1, reasons.TRAINING), older, spec=spec, metadata=GENERATION_2)
        assert decide(subject(row), row.observed, NOW).status.phase == phase


def test_a_lost_record_is_made_again() -> None:
    """The cluster was made, and the operator died before it had written the status that names the record."""
    row = ROWS["36 cluster not ready"]
    lost = row.status.model_copy(update={"resolved_config": None, "ray_cluster": None})
    decision = decide(replace(subject(row), status=lost), row.observed, NOW)
    assert decision.actions == (CreateRecords(),)
    assert decision.status.resolved_config == RECORD


def test_requests_are_handled_once() -> None:
    for case, field_name in (
        ("16 the checkpoint is committed", "checkpoint"),
        ("24 a restart is asked for", "restart"),
        ("33 a restart is asked for before the first attempt", "restart"),
    ):
        row = ROWS[case]
        handled = decide(subject(row), row.observed, NOW).status.handled_requests
        assert handled is not None, case
        assert getattr(handled, field_name) == "monday", case


def test_the_last_checkpoint_is_in_the_status_with_the_end_of_the_stop() -> None:
    """Both in one write, and at once: a driver that has stopped can be read for seconds only."""
    row = ROWS["27 has stopped as told and waits to be read"]
    saved = CheckpointStatus(step=10, path="/c/10", time=NOW, bytes=1)
    observed = replace(row.observed, driver=driver(DriverPhase.STOPPED, step=10, checkpoint=saved))
    decided = decide(subject(row), observed, NOW).status
    assert decided.checkpoint is not None
    assert decided.checkpoint.latest_step == 10
    assert decided.stop is not None
    assert decided.stop.ended == NOW
    assert write_due(row.status, decided, NOW, NOW) == NOW


def test_a_stop_costs_no_retry() -> None:
    row = ROWS["27 has ended as told"]
    decided = decide(subject(row), row.observed, NOW).status
    assert (decided.failures, decided.last_failure) == (None, None)
    assert decided.stop is not None
    assert decided.stop.ended == NOW


def test_time_suspended_does_not_count_towards_the_deadline() -> None:
    row = ROWS["24 its time is over"]
    old = row.status.model_copy(update={"durations": {"suspended": 30.0}})
    decision = decide(replace(subject(row), status=old), row.observed, NOW)
    assert decision.status.phase == "Running"


POLICY = {"backoffLimit": 1, "restartDelaySeconds": 5, "maxRestartDelaySeconds": 30}
RULES: dict[str, tuple[dict[str, Any], str, str, int | None]] = {
    "none matches": ({"reasons": ["DriverLost"], "action": "FailJob"}, "Restarting", "RestartDriver", 1),
    "by reason": ({"reasons": ["DriverLost", "DriverFailed"], "action": "FailJob"}, "Failed", "FailJob", 1),
    "by exit code": ({"exitCodes": [137], "action": "RestartCluster"}, "Restarting", "RestartCluster", 1),
    "by role and exit code": (
        {"roles": ["head"], "exitCodes": [1], "action": "Ignore"},
        "Restarting",
        "RestartDriver",
        1,
    ),
    "everything": ({"action": "Ignore"}, "Restarting", "Ignore", 0),
}


@pytest.mark.parametrize(("rule", "phase", "action", "failures"), RULES.values(), ids=RULES.keys())
def test_rules_map_failures_to_actions(rule: dict[str, Any], phase: str, action: str, failures: int | None) -> None:
    row = replace(ROWS["23 failed"], spec={"failurePolicy": {**POLICY, "rules": [rule]}})
    decided = decide(subject(row), row.observed, NOW).status
    assert (decided.phase, decided.failures) == (phase, failures)
    assert decided.last_failure is not None
    assert (decided.last_failure.action, decided.last_failure.cluster_uid) == (action, "cluster-uid")
    failed_condition = decided.condition(T.FAILED)
    assert failed_condition is not None
    if phase == "Failed":
        assert failed_condition.reason == "FailedByRule"
        assert "spec.failurePolicy.rules[0]" in failed_condition.message


DELAYS = {0: 5.0, 1: 5.0, 2: 10.0, 3: 20.0, 4: 30.0, 1000: 30.0}


def test_delays_grow_to_their_bound() -> None:
    policy = read(document(failurePolicy=POLICY)).spec.failure_policy
    assert {failures: restart_delay(policy, failures) for failures in DELAYS} == DELAYS
    long = policy.model_copy(update={"restart_delay_seconds": 60})
    assert restart_delay(long, 3) == 60.0


HEALTH: dict[str, tuple[int, int | None, int]] = {
    "a newer checkpoint and long enough": (600, 6, 0),
    "not long enough": (599, 6, 2),
    "no newer checkpoint": (600, 4, 2),
    "no checkpoint": (600, None, 2),
}


@pytest.mark.parametrize(("seconds", "step", "failures"), HEALTH.values(), ids=HEALTH.keys())
def test_the_budget_is_restored_by_healthy_progress(seconds: int, step: int | None, failures: int) -> None:
    row = ROWS["15 driver trains"]
    since = NOW - timedelta(seconds=seconds)
    old = row.status.model_copy(
        update={
            "failures": 2,
            "last_failure": failed(0, 9999, checkpoint_step=4),
            "conditions": [stated(T.TRAINING, "True", "Training", since)],
        }
    )
    saved = CheckpointStatus(step=step, path="/c", time=NOW, bytes=1) if step is not None else None
    observed = replace(row.observed, driver=driver(step=6, checkpoint=saved))
    assert decide(replace(subject(row), status=old), observed, NOW).status.failures == failures


def test_a_failure_has_its_pod_its_exit_code_and_the_log_s_end() -> None:
    row = ROWS["18 driver reports its failure"]
    error = DriverError(reason="RankCrashed", message="a rank died", remedy="look", role="trainer")
    ends = (
        PodEnd("t-1", "trainer", "Error", 1, NOW - timedelta(days=1)),
        PodEnd("t-2", "trainer", "OOMKilled", 137, NOW - timedelta(seconds=5)),
        PodEnd("i-1", "inference", "Error", 2, NOW),
    )
    observed = Observed(
        cluster=replace(READY, ends=ends),
        ray=RayJob(RayJobState.RUNNING, log_tail="the last words"),
        driver=driver(DriverPhase.FAILED, error=error),
    )
    failure = decide(subject(row), observed, NOW).status.last_failure
    assert failure is not None
    assert (failure.role, failure.pod, failure.exit_code, failure.log) == ("trainer", "t-2", 137, "the last words")
    assert failure.message == "a rank died; pod t-2 ended: OOMKilled, exit code 137"
    assert failure.remedy == "look"


PACES: dict[str, tuple[float | None, float | None, int, bool, bool]] = {
    "no median yet": (None, 9999, 20, False, False),
    "between steps": (1, None, 20, False, False),
    "as ever": (100, 299, 20, False, False),
    "slow": (100, 300, 20, True, False),
    "slow, of fast steps": (1, 60, 20, True, False),
    "nearly hung": (100, 1999, 20, True, False),
    "hung": (100, 2000, 20, True, True),
    "hung, of fast steps, not before ten minutes": (1, 599, 20, True, False),
    "hung, of fast steps": (1, 600, 20, True, True),
    "never": (1, 99999, 0, True, False),
}


@pytest.mark.parametrize(("median", "age", "limit", "slow", "stalled"), PACES.values(), ids=PACES.keys())
def test_pace(median: float | None, age: float | None, limit: int, slow: bool, stalled: bool) -> None:
    pace = judge_pace(driver(step_seconds=median, step_age_seconds=age), limit)
    assert (bool(pace.words), pace.stalled) == (slow, stalled)
    assert not judge_pace(driver(DriverPhase.EVALUATING, step_seconds=1, step_age_seconds=9999), 20).stalled


def test_engines_that_do_not_serve_are_a_condition() -> None:
    row = ROWS["15 driver trains"]
    serving, dead = (EngineStatus(name=state.value, state=state) for state in (EngineState.SERVING, EngineState.DEAD))
    for engines, expected in (([serving, serving], "True"), ([serving, dead], "False"), ([], "False")):
        observed = replace(row.observed, driver=driver(engines=engines))
        condition = decide(subject(row), observed, NOW).status.condition(T.ENGINES_READY)
        assert condition is not None
        assert condition.status == expected


def test_an_unreadable_edit_does_not_stop_the_run() -> None:
    row = ROWS["14 submitted, unknown to Ray"]
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
    row = ROWS["15 driver prepares"]
    old = row.status.model_copy(update={"checkpoint": known})
    decided = decide(replace(subject(row), status=old), row.observed, NOW).status
    assert decided.progress is not None
    assert decided.progress.step == 8
    assert decided.progress.percent == 80
    assert decided.checkpoint == known


def test_the_first_checkpoint_is_a_condition() -> None:
    row = ROWS["15 driver trains"]
    found = CheckpointStatus(step=4, path="/checkpoints/4", time=NOW, bytes=9)
    observed = replace(row.observed, driver=driver(checkpoint=found, step=5))
    decided = decide(subject(row), observed, NOW).status
    condition = decided.condition(T.CHECKPOINTED)
    assert condition is not None
    assert condition.status == "True"
    assert decided.checkpoint == Checkpoint(latest_step=4, path="/checkpoints/4", time=NOW, bytes=9)


def test_names_of_the_ids_come_from_the_contract() -> None:
    decided = decide(subject(ROWS["38 cluster ready"]), ROWS["38 cluster ready"].observed, NOW).status
    assert decided.submission_id == names.submission_id("quickstart", "aaaabbbb-cccc", 1)
