"""What `kubectl rltrain watch` says at the end."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from rltrain_api.wire import History, HistoryPoint
from rltrain_operator.cli.summary import points_gained, summary, time_table
from rltrain_operator.cli.view import read_job

NOW = datetime(2026, 5, 1, 13, 0, tzinfo=UTC)
CONDITION = {"reason": "Because", "message": "", "lastTransitionTime": "2026-05-01T12:00:00Z"}
CURVE = History(
    points=[
        HistoryPoint(step=0, eval_score=0.273),
        HistoryPoint(step=1, reward=0.25, tokens_per_second=900),
        HistoryPoint(step=2, reward=0.5, tokens_per_second=1100),
        HistoryPoint(step=3, reward=0.75, tokens_per_second=2600, eval_score=0.617),
    ],
    durations={"generate": 80, "train": 30},
)


def closing(history: History | None, **status: Any) -> list[str]:
    metadata = {"name": "quickstart", "generation": 1, "creationTimestamp": "2026-05-01T11:59:00Z"}
    return summary(read_job({"metadata": metadata, "status": status}), history, NOW)


COMPLETE: dict[str, Any] = {
    "phase": "Succeeded",
    "attempt": 1,
    "startTime": "2026-05-01T12:00:00Z",
    "completionTime": "2026-05-01T12:03:40Z",
    "conditions": [CONDITION | {"type": "Complete", "status": "True"}],
    "progress": {"step": 3, "totalSteps": 3},
    "checkpoint": {"latestStep": 3, "path": "/checkpoints/global_step_3"},
    "durations": {"initializing": 60, "running": 160},
}
FAILED = [CONDITION | {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": "4 of 4"}]

SUMMARIES: dict[str, tuple[list[str], list[str]]] = {
    "complete": (
        closing(CURVE, **COMPLETE),
        [
            "quickstart: Complete after 3m40s",
            "  steps       3 of 3",
            "  reward      0.250 → 0.750",
            "  eval        0.273 → 0.617  (+34.4 points)",
            "  tokens/s    1,100 in the median step",
            "  checkpoint  /checkpoints/global_step_3 (step 3)",
            "",
            "Where the time went",
            "  initializing    1m00s   27%  ███████",
            "  running         2m40s   73%  █████████████████",
            "    generate      1m20s   36%  █████████",
            "    train           30s   14%  ███",
        ],
    ),
    "complete, with what it used": (
        closing(
            None,
            conditions=COMPLETE["conditions"],
            accounting={
                "gpuSeconds": 9000,
                "clusterSeconds": 250,
                "usefulSeconds": 200,
                "goodput": 0.8,
                "updated": "2026-05-01T12:03:40Z",
            },
        ),
        ["quickstart: Complete after 1h01m", "  used        2.50 GPU-hours, goodput 80%"],
    ),
    "complete, nothing but the condition": (
        closing(None, conditions=COMPLETE["conditions"]),
        ["quickstart: Complete after 1h01m"],
    ),
    "complete at the second attempt, learned less": (
        closing(
            History(points=[HistoryPoint(step=0, eval_score=0.5), HistoryPoint(step=1, eval_score=0.25)]),
            **COMPLETE | {"attempt": 2, "durations": {}, "checkpoint": None},
        ),
        [
            "quickstart: Complete after 3m40s, 2 attempts",
            "  steps       3 of 3",
            "  eval        0.500 → 0.250  (-25.0 points)",
        ],
    ),
    "a score that is no rate has no points": (
        closing(
            History(points=[HistoryPoint(step=0, eval_score=-2.0), HistoryPoint(step=1, eval_score=5.5)]),
            conditions=COMPLETE["conditions"],
        ),
        ["quickstart: Complete after 1h01m", "  eval        -2.000 → 5.500"],
    ),
    "failed, with the last failure": (
        closing(
            None,
            conditions=FAILED,
            progress={"step": 7},
            lastFailure={"reason": "HeadLost", "attempt": 4, "remedy": "look at the node"},
        ),
        [
            "quickstart: Failed after 1h01m",
            "  steps       7",
            "  attempt 4 failed: HeadLost",
            "    what to do: look at the node",
        ],
    ),
    "failed, the condition alone says why": (
        closing(None, conditions=FAILED),
        ["quickstart: Failed after 1h01m", "  BackoffLimitExceeded: 4 of 4"],
    ),
    "invalid": (
        closing(
            None,
            conditions=[
                CONDITION
                | {"type": "Stalled", "status": "True", "reason": "InvalidSpec", "message": "see ConfigValid"},
                CONDITION | {"type": "ConfigValid", "status": "False", "reason": "InvalidSpec", "message": "epochs: 0"},
            ],
        ),
        ["quickstart: Stalled after 1h01m", "  InvalidSpec: epochs: 0"],
    ),
}


@pytest.mark.parametrize(("lines", "expected"), SUMMARIES.values(), ids=SUMMARIES.keys())
def test_summary(lines: list[str], expected: list[str]) -> None:
    assert lines == expected


TABLES: dict[str, tuple[dict[str, float], dict[str, float], list[str]]] = {
    "nothing": ({}, {}, []),
    "only zeros": ({"running": 0}, {}, []),
    "the loop alone": (
        {},
        {"generate": 30, "train": 10},
        ["    generate      30s   75%", "    train         10s   25%"],
    ),
    "status has the loop, the history another part": (
        {"running": 100, "train/generate": 60},
        {"generate": 55, "sync": 10},
        ["  running       1m40s  100%", "    generate    1m00s   60%", "    sync          10s   10%"],
    ),
    "the order of life, whatever order the server gives": (
        {"restarting": 10, "running": 50, "custom": 10, "initializing": 20, "starting": 10},
        {"generate": 25},
        [
            "  initializing      20s   20%",
            "  starting          10s   10%",
            "  running           50s   50%",
            "    generate        25s   25%",
            "  restarting        10s   10%",
            "  custom            10s   10%",
        ],
    ),
    "a part longer than the whole keeps its bar in bounds": (
        {"running": 10},
        {"generate": 20},
        ["  running         10s  100%", "    generate      20s  200%"],
    ),
}


@pytest.mark.parametrize(("life", "loop", "expected"), TABLES.values(), ids=TABLES.keys())
def test_time_table(life: dict[str, float], loop: dict[str, float], expected: list[str]) -> None:
    table = time_table(life, loop)
    assert [line.rstrip("█ ") for line in table] == expected
    assert all(line.count("█") <= 24 for line in table)


def test_points_gained() -> None:
    assert points_gained(CURVE) == pytest.approx(34.4)
    assert points_gained(History(points=[HistoryPoint(step=0, eval_score=0.2)])) is None
