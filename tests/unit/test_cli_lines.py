"""The lines of `kubectl rltrain watch`: what a status looks like in one line, and which changes are worth a line."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from rltrain_operator.cli.errors import CommandError
from rltrain_operator.cli.lines import (
    condition_lines,
    duration,
    failure_lines,
    live_line,
    plain_line,
    progress_key,
    truncate,
)
from rltrain_operator.cli.view import JobView, Outcome, read_job

NOW = datetime(2026, 5, 1, 12, 3, 20, tzinfo=UTC)
TRANSITION = "2026-05-01T12:00:00Z"


def job(generation: int = 1, **status: Any) -> JobView:
    metadata = {
        "name": "quickstart",
        "uid": "u1",
        "generation": generation,
        "creationTimestamp": "2026-05-01T12:00:00Z",
    }
    return read_job({"metadata": metadata, "status": status} if status else {"metadata": metadata})


def condition(
    kind: str, status: str, reason: str = "Because", message: str = "", generation: int = 1
) -> dict[str, Any]:
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "observedGeneration": generation,
        "lastTransitionTime": TRANSITION,
    }


RUNNING: dict[str, Any] = {
    "phase": "Running",
    "attempt": 1,
    "startTime": "2026-05-01T12:00:10Z",
    "progress": {
        "step": 12,
        "totalSteps": 40,
        "etaSeconds": 120,
        "reward": 0.6125,
        "evalScore": 0.55,
        "tokensPerSecond": 1234.4,
        "weightVersion": 12,
        "phase": "Training",
        "updated": "2026-05-01T12:03:00Z",
    },
}

LINES: dict[str, tuple[JobView, str]] = {
    "first seconds, no status": (job(), "Pending  elapsed 3m20s  waiting for the operator to look at the job"),
    "provisioning, with what it waits for": (
        job(phase="Provisioning", conditions=[condition("ClusterReady", "False", "PodsPending", "3 of 5 pods ready")]),
        "Provisioning  elapsed 3m20s  3 of 5 pods ready",
    ),
    "starting, the driver says what it does": (
        job(phase="Starting", progress={"message": "loading the model"}),
        "Starting  elapsed 3m20s  loading the model",
    ),
    "running": (
        job(**RUNNING),
        "Running  ███░░░░░░░░░  step 12/40  reward 0.613  eval 0.550  1,234 tokens/s  weights v12  ETA 1m40s"
        "  elapsed 3m10s",
    ),
    "running, the driver evaluates": (
        job(phase="Running", progress={"step": 0, "totalSteps": 40, "phase": "Evaluating"}),
        "Running (Evaluating)  ░░░░░░░░░░░░  step 0/40  elapsed 3m20s",
    ),
    "running, total unknown": (job(phase="Running", progress={"step": 3}), "Running  step 3  elapsed 3m20s"),
    "running, estimate used up": (
        job(phase="Running", progress={"etaSeconds": 5, "updated": "2026-05-01T12:03:00Z"}),
        "Running  ETA 0s  elapsed 3m20s",
    ),
    "restarting": (
        job(phase="Restarting", attempt=2, progress={"step": 10, "totalSteps": 40, "message": "waiting 5 s"}),
        "Restarting  ███░░░░░░░░░  step 10/40  elapsed 3m20s  waiting 5 s",
    ),
    "finished: no estimate, the clock stands": (
        job(
            **RUNNING | {"phase": "Succeeded", "completionTime": "2026-05-01T12:02:10Z"},
            conditions=[condition("Complete", "True")],
        ),
        "Succeeded  ███░░░░░░░░░  step 12/40  reward 0.613  eval 0.550  1,234 tokens/s  weights v12  elapsed 2m00s",
    ),
    "clock of this machine behind the cluster's": (
        job(phase="Running", startTime="2026-05-01T13:00:00Z"),
        "Running  elapsed 0s",
    ),
}


@pytest.mark.parametrize(("view", "expected"), LINES.values(), ids=LINES.keys())
def test_live_line(view: JobView, expected: str) -> None:
    assert live_line(view, NOW, width=200) == expected


NARROW: dict[str, tuple[int, str]] = {
    "100 columns lose the bar": (
        100,
        "Running  step 12/40  reward 0.613  eval 0.550  1,234 tokens/s  ETA 1m40s  elapsed 3m10s",
    ),
    "60 columns keep the clocks": (60, "Running  step 12/40  reward 0.613  ETA 1m40s  elapsed 3m10s"),
    "59 columns keep the elapsed time": (59, "Running  step 12/40  reward 0.613  elapsed 3m10s"),
    "30 columns": (30, "Running  step 12/40"),
    "10 columns": (10, "Running …"),
}


@pytest.mark.parametrize(("width", "expected"), NARROW.values(), ids=NARROW.keys())
def test_live_line_drops_what_matters_least(width: int, expected: str) -> None:
    line = live_line(job(**RUNNING), NOW, width)
    assert line == expected
    assert len(line) < width


def test_plain_line_has_the_time_and_no_bar() -> None:
    assert plain_line(job(**RUNNING), NOW) == (
        "2026-05-01T12:03:20Z  Running  step 12/40  reward 0.613  eval 0.550  1,234 tokens/s  weights v12  ETA 1m40s"
        "  elapsed 3m10s"
    )


def with_progress(**changes: Any) -> JobView:
    return job(**RUNNING | {"progress": RUNNING["progress"] | changes})


NEWS: dict[str, tuple[JobView, bool]] = {
    "nothing": (with_progress(), False),
    "only clocks and rates": (
        with_progress(etaSeconds=90, tokensPerSecond=1300, updated="2026-05-01T12:03:10Z"),
        False,
    ),
    "the driver evaluates between steps": (with_progress(phase="Evaluating"), False),
    "a step": (with_progress(step=13), True),
    "an evaluation": (with_progress(evalScore=0.6), True),
    "a phase": (job(**RUNNING | {"phase": "Restarting"}), True),
    "an attempt": (job(**RUNNING | {"attempt": 2}), True),
}


@pytest.mark.parametrize(("view", "is_news"), NEWS.values(), ids=NEWS.keys())
def test_progress_key_tells_news(view: JobView, is_news: bool) -> None:
    assert (progress_key(view) != progress_key(job(**RUNNING))) == is_news


def conditions(*entries: dict[str, Any]) -> JobView:
    return job(phase="Running", conditions=list(entries))


CONDITIONS: dict[str, tuple[JobView | None, JobView, list[str]]] = {
    "absent to Unknown": (job(), conditions(condition("Training", "Unknown")), []),
    "becomes true": (
        conditions(condition("ClusterReady", "Unknown")),
        conditions(condition("ClusterReady", "True", "PodsReady", "5 of 5 pods ready")),
        ["ClusterReady=True  PodsReady: 5 of 5 pods ready"],
    ),
    "no message": (job(), conditions(condition("ConfigValid", "True", "Valid")), ["ConfigValid=True  Valid"]),
    "another reason while false is told by the progress line": (
        conditions(condition("ClusterReady", "False", "PodsPending", "3 of 5")),
        conditions(condition("ClusterReady", "False", "Unschedulable", "no node has nvidia.com/gpu: 8")),
        [],
    ),
    "lost after it was ready": (
        conditions(condition("ClusterReady", "True", "PodsReady", "5 of 5")),
        conditions(condition("ClusterReady", "False", "HeadLost", "4 of 5")),
        ["ClusterReady=False  HeadLost: 4 of 5"],
    ),
    "two turn for one reason": (
        job(),
        conditions(
            condition("ConfigValid", "False", "InvalidSpec", "epochs: 0"),
            condition("Stalled", "True", "InvalidSpec", "epochs: 0"),
        ),
        ["ConfigValid=False  InvalidSpec: epochs: 0", "Stalled=True  InvalidSpec"],
    ),
    "only another message": (
        conditions(condition("ClusterReady", "False", "PodsPending", "3 of 5")),
        conditions(condition("ClusterReady", "False", "PodsPending", "4 of 5")),
        [],
    ),
    "resting at false": (job(), conditions(condition("Failed", "False"), condition("Complete", "False")), []),
    "training stops": (
        conditions(condition("Training", "True", "Stepping")),
        conditions(condition("Training", "False", "Restarting")),
        ["Training=False  Restarting"],
    ),
    "Ready and Reconciling repeat others": (
        job(),
        conditions(condition("Ready", "False"), condition("Reconciling", "True")),
        [],
    ),
    "first sight of a healthy job": (None, conditions(condition("ClusterReady", "True")), []),
    "first sight of an invalid job is left to the summary": (
        None,
        conditions(condition("ConfigValid", "False", "InvalidSpec", "train_batch_size")),
        [],
    ),
}


@pytest.mark.parametrize(("before", "after", "expected"), CONDITIONS.values(), ids=CONDITIONS.keys())
def test_condition_lines(before: JobView | None, after: JobView, expected: list[str]) -> None:
    assert condition_lines(before, after) == expected


CRASH = {
    "reason": "EngineCrashed",
    "role": "inference",
    "pod": "quickstart-inference-0",
    "exitCode": 137,
    "message": "killed by the kernel",
    "remedy": "give the pool more memory",
    "attempt": 1,
}
FAILURES: dict[str, tuple[JobView | None, JobView, list[str]]] = {
    "none": (job(), job(phase="Running"), []),
    "new, with everything": (
        job(),
        job(lastFailure=CRASH),
        [
            "attempt 1 failed: EngineCrashed (inference, quickstart-inference-0, exit code 137): killed by the kernel",
            "  what to do: give the pool more memory",
        ],
    ),
    "the same again": (job(lastFailure=CRASH), job(lastFailure=CRASH), []),
    "the next attempt fails alike": (
        job(lastFailure=CRASH),
        job(lastFailure={"reason": "EngineCrashed", "attempt": 2}),
        ["attempt 2 failed: EngineCrashed"],
    ),
    "seen on arrival": (None, job(lastFailure={"reason": "HeadLost"}), ["the job failed: HeadLost"]),
}


@pytest.mark.parametrize(("before", "after", "expected"), FAILURES.values(), ids=FAILURES.keys())
def test_failure_lines(before: JobView | None, after: JobView, expected: list[str]) -> None:
    assert failure_lines(before, after) == expected


OUTCOMES: dict[str, tuple[JobView, Outcome | None]] = {
    "no status": (job(), None),
    "complete": (conditions(condition("Complete", "True"), condition("Failed", "False")), Outcome.COMPLETE),
    "failed": (conditions(condition("Complete", "False"), condition("Failed", "True")), Outcome.FAILED),
    "failed and stalled": (conditions(condition("Stalled", "True"), condition("Failed", "True")), Outcome.FAILED),
    "stalled": (conditions(condition("Stalled", "True")), Outcome.STALLED),
    "stalled before the last edit": (job(generation=2, conditions=[condition("Stalled", "True", generation=1)]), None),
    "the phase alone decides nothing": (job(phase="Succeeded"), None),
}


@pytest.mark.parametrize(("view", "expected"), OUTCOMES.values(), ids=OUTCOMES.keys())
def test_outcome(view: JobView, expected: Outcome | None) -> None:
    assert view.outcome == expected


def test_unknown_fields_are_no_error_but_unreadable_ones_name_their_path() -> None:
    assert job(phase="Running", gpuSeconds=5).status.phase == "Running"
    with pytest.raises(CommandError, match=r"status\.phase of quickstart.*older than the operator"):
        job(phase="Levitating")


DURATIONS: dict[float, str] = {
    -3: "0s",
    0.4: "0s",
    59.4: "59s",
    59.6: "1m00s",
    3599: "59m59s",
    7500: "2h05m",
    273600: "3d04h",
}


@pytest.mark.parametrize(("seconds", "expected"), DURATIONS.items())
def test_duration(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected


def test_truncate_keeps_what_fits() -> None:
    assert [truncate("abcdef", width) for width in (6, 5, 1, 0)] == ["abcdef", "abcd…", "…", "…"]
