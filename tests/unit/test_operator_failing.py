"""Failed attempts: rules and their actions, delays, the budget, steps that hang, what a failure tells."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from operator_moments import NOW, READY, T, document, driver, failed, read, stated
from operator_rows import ROWS, subject
from rltrain_api.wire import (
    CheckpointStatus,
    DriverError,
    DriverPhase,
)
from rltrain_operator.rayjobs import RayJob, RayJobState
from rltrain_operator.reconcile.decide import decide
from rltrain_operator.reconcile.failing import restart_delay
from rltrain_operator.reconcile.stall import judge_pace
from rltrain_operator.reconcile.state import (
    Observed,
    PodEnd,
)

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
