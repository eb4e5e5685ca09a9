"""Edits of a job: which are applied, which are not, and that it is said."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from operator_moments import FOLLOWED, GENERATION_2, NOW, READY, RECORD, Row, T, document, read, status
from operator_rows import ROWS, subject
from rltrain_api.job import RLTrainingJob
from rltrain_operator.reconcile import reasons
from rltrain_operator.reconcile.decide import decide
from rltrain_operator.reconcile.state import (
    CreateRecords,
    Subject,
)

EDITS: dict[str, tuple[Callable[[dict[str, Any]], None], bool]] = {
    "another learning rate": (
        lambda spec: spec["config"]["trainer"]["policy"]["optimizer_config"].update(lr=2e-3),
        True,
    ),
    "another image": (lambda spec: spec["runtime"].update(image="other"), True),
    "more engines count without a restart": (
        lambda spec: spec["config"]["generator"]["inference_engine"].update(num_engines=4),
        False,
    ),
    "another initializer counts with the next cluster": (
        lambda spec: spec["storage"]["initializers"][0].update(deadlineSeconds=77),
        False,
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
