"""The decision, row by row of the table in `rltrain_operator.reconcile.decide`."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from operator_moments import (
    NOW,
    RECORD,
    Row,
    T,
    document,
    driver,
)
from operator_rows import ROWS, UNTOUCHED, subject
from operator_scaling_rows import SCALING_ROWS
from rltrain_api import names
from rltrain_api.job import ObjectMeta
from rltrain_api.parse import parse_job
from rltrain_api.status import (
    Checkpoint,
)
from rltrain_api.wire import (
    CheckpointStatus,
    DriverPhase,
    EngineState,
    EngineStatus,
)
from rltrain_operator.reconcile import decide as decide_module
from rltrain_operator.reconcile.coalesce import write_due
from rltrain_operator.reconcile.decide import decide
from rltrain_operator.reconcile.state import (
    CreateInitializer,
    CreateRayCluster,
    CreateRecords,
    Decision,
    Subject,
)

CASES = ROWS | SCALING_ROWS


@pytest.mark.parametrize("row", CASES.values(), ids=CASES.keys())
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


@pytest.mark.parametrize("row", CASES.values(), ids=CASES.keys())
def test_every_status_obeys_the_conventions(row: Row) -> None:
    decided = decide(subject(row, generation=7), row.observed, NOW).status
    assert decided.observed_generation == 7
    assert {condition.type for condition in decided.conditions} >= {T.COMPLETE, T.FAILED, T.TRAINING, T.CLUSTER_READY}
    for condition in decided.conditions:
        before = row.status.condition(condition.type)
        moved = before is None or before.status != condition.status
        assert condition.last_transition_time == (NOW if moved else before.last_transition_time if before else None)


@pytest.mark.parametrize("row", CASES.values(), ids=CASES.keys())
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
    assert documented == [str(number) for number in range(1, 45)]
    numbers = [number for case in (*UNTOUCHED, *CASES) for number in re.findall(r"^\d+(?= )|(?<=^9 and )\d+", case)]
    assert set(numbers) == set(documented)


def test_what_is_awaited_is_said_when_the_start_takes_too_long() -> None:
    row = ROWS["36 cluster not ready in time"]
    failure = decide(subject(row), row.observed, NOW).status.last_failure
    assert failure is not None
    assert "w-1: Unschedulable: no GPU" in failure.message
    assert "90 s" in failure.message


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
