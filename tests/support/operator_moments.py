"""Moments in a job's life, as `decide` sees them: builders of jobs, statuses, clusters and drivers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from rltrain_api.job import RLTrainingJob
from rltrain_api.parse import parse_job
from rltrain_api.resolve import document_hash, resolved_document
from rltrain_api.status import (
    Condition,
    ConditionType,
    Failure,
    RayClusterReference,
    Status,
    Stop,
)
from rltrain_api.status import ResolvedConfigReference as Record
from rltrain_api.wire import (
    DriverPhase,
    DriverStatus,
)
from rltrain_operator.plan import cluster_hash, spec_hash
from rltrain_operator.rayjobs import RayJob, RayJobState
from rltrain_operator.reconcile import reasons
from rltrain_operator.reconcile.state import (
    ClusterView,
    EngineGroup,
    EnginePod,
    InitializerState,
    InitializerView,
    Observed,
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


RECORD = Record(
    config_map="quickstart-config-1",
    hash=document_hash(resolved_document(JOB)),
    spec_hash=spec_hash(JOB),
    engines=2,
)


def engine_group(replicas: int, *ready: bool) -> EngineGroup:
    """The group with so many replicas, and a pod for each of `ready`."""
    pods = tuple(EnginePod(f"e-{number}", f"e-{number}", is_ready) for number, is_ready in enumerate(ready))
    return EngineGroup(number=1, replicas=replicas, pods=pods)


READY = ClusterView(
    uid="cluster-uid",
    created=BORN,
    spec_hash=cluster_hash(JOB),
    head_ready=True,
    ready_workers=3,
    wanted_workers=3,
    engine_group=engine_group(2, True, True),
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
