"""Trackers: each writes where nobody listens on a network, none holds a step up, and a resumed run is the same run."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from rltrain_trainer.tracking import backends
from rltrain_trainer.tracking.backends import BACKENDS, MLflow, RunDescription, TensorBoard
from rltrain_trainer.tracking.trackers import FAILURES_UNTIL_LEFT, MOST_WAITING, Trackers, without_secrets

RUN = RunDescription(project="words", name="first", config={"trainer": {"seed": 1}})

# A fresh process for clients that keep hooks and threads of their own until the end of the interpreter.
LOG_TWICE = """
import asyncio, json, sys
from pathlib import Path
from rltrain_trainer.tracking.backends import RunDescription
from rltrain_trainer.tracking.trackers import Trackers

seen = [{}]
for step in (1, 2):
    run = RunDescription(project="words", name="first", config={"seed": 1}, directory=Path(sys.argv[1]))
    trackers = Trackers(["wandb", "swanlab"], run, run_ids=seen[-1])
    trackers.log({"reward/avg_raw_reward": step / 2}, step)
    asyncio.run(trackers.close())
    assert not trackers.metrics(), trackers.metrics()
    seen.append(trackers.run_ids())
print(json.dumps(seen[1:]))
"""


@pytest.mark.proves("trainer.logger", "trainer.project_name", "trainer.run_name")
def test_hosted_trackers_write_offline_and_go_on_with_their_run(
    tmp_path: Path, python_environment: dict[str, str]
) -> None:
    offline = {"WANDB_MODE": "offline", "SWANLAB_MODE": "offline", "HOME": str(tmp_path)}
    command = [sys.executable, "-c", LOG_TWICE, str(tmp_path / "trackers")]
    environment = {**python_environment, **offline}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    first, again = json.loads(done.stdout.splitlines()[-1])
    assert first == again
    written = [str(path) for path in (tmp_path / "trackers").rglob("*") if path.is_file() and path.stat().st_size]
    for name in ("wandb", "swanlab"):
        assert any(first[name] in path and name in path for path in written), written


def test_mlflow_keeps_metrics_by_step_in_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.tracking import MlflowClient

    monkeypatch.delenv(backends.MLFLOW_ADDRESS, raising=False)
    run = replace(RUN, directory=tmp_path)
    first = MLflow(run)
    first.log({"eval/all/avg_score": 0.25, "eval/größe #1/avg_score": 1.0}, 0)
    first.close()
    again = MLflow(replace(run, run_id=first.run_id))
    again.log({"eval/all/avg_score": 0.5}, 5)
    again.close()
    client = MlflowClient(tracking_uri=(tmp_path / "mlflow").as_uri())
    assert again.run_id == first.run_id
    history = client.get_metric_history(str(first.run_id), "eval/all/avg_score")
    assert [(point.step, point.value) for point in history] == [(0, 0.25), (5, 0.5)]
    kept = client.get_run(str(first.run_id))
    assert (kept.info.run_name, kept.info.status) == ("first", "FINISHED")
    assert client.get_experiment_by_name("words") is not None


def test_tensorboard_writes_scalars_by_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.delenv(backends.TENSORBOARD_DIRECTORY, raising=False)
    tracker = TensorBoard(replace(RUN, directory=tmp_path))
    for step in (1, 2):
        tracker.log({"timing/step": step / 4}, step)
    tracker.close()
    events = EventAccumulator(str(tmp_path / "tensorboard" / "words" / "first")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("timing/step")] == [(1, 0.25), (2, 0.5)]


async def test_the_console_has_a_line_for_each_step(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "rltrain.metrics"):
        trackers = Trackers(["console"], RUN)
        trackers.log({"b": 1 / 3, "a": 2.0}, 4)
        await trackers.close()
    assert [json.loads(line) for line in caplog.messages] == [{"step": 4, "a": 2.0, "b": 0.333333}]


class Scripted:
    """A tracker that waits or fails as it is told."""

    def __init__(self, run: RunDescription) -> None:
        self.run_id: str | None = run.run_id or "made"
        self.steps: list[int] = []
        self.closed = False
        Scripted.latest = self

    latest: Scripted
    gate = threading.Event()
    failing: frozenset[int] = frozenset()

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        assert self.gate.wait(20)
        if step in self.failing:
            raise ConnectionError(f"no route for {os.environ['A_TRACKER_KEY']} at https://me:pass@host/x")
        self.steps.append(step)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> type[Scripted]:
    monkeypatch.setitem(BACKENDS, "scripted", Scripted)
    monkeypatch.setenv("A_TRACKER_KEY", "s3cret-of-a-tracker")
    monkeypatch.setattr(Scripted, "gate", threading.Event())
    monkeypatch.setattr(Scripted, "failing", frozenset())
    return Scripted


async def test_a_slow_tracker_holds_nobody_up_and_gets_everything(scripted: type[Scripted]) -> None:
    trackers = Trackers(["scripted"], RUN)
    for step in range(5):
        trackers.log({"x": 1.0}, step)  # would wait for the gate, if it waited for the tracker
    scripted.gate.set()
    await trackers.close()
    assert scripted.latest.steps == [0, 1, 2, 3, 4]
    assert scripted.latest.closed
    assert trackers.run_ids() == {"scripted": "made"}


async def test_a_tracker_that_is_too_far_behind_loses_steps_and_they_are_counted(scripted: type[Scripted]) -> None:
    trackers = Trackers(["scripted"], RUN)
    for step in range(MOST_WAITING + 10):
        trackers.log({}, step)
    scripted.gate.set()
    await trackers.close()
    lost = trackers.metrics()["trackers/scripted_dropped"]
    assert 0 < lost <= 10
    assert len(scripted.latest.steps) == MOST_WAITING + 10 - lost


async def test_a_failing_tracker_is_said_once_and_counted(
    scripted: type[Scripted], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scripted, "failing", frozenset({1, 3}))
    scripted.gate.set()
    trackers = Trackers(["scripted", "console"], RUN)
    for step in range(5):
        trackers.log({}, step)
    await trackers.close()
    assert scripted.latest.steps == [0, 2, 4]
    assert trackers.metrics() == {"trackers/scripted_failures": 2.0}
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "tracker scripted could not take step 1 (ConnectionError: no route for *** at https://***@host/x)" in warning


async def test_a_tracker_that_is_gone_is_left_alone(scripted: type[Scripted], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scripted, "failing", frozenset(range(1000)))
    scripted.gate.set()
    trackers = Trackers(["scripted"], RUN)
    for step in range(FAILURES_UNTIL_LEFT + 5):
        trackers.log({}, step)
    await trackers.close()
    assert trackers.metrics() == {
        "trackers/scripted_failures": float(FAILURES_UNTIL_LEFT),
        "trackers/scripted_dropped": 5.0,
    }


async def test_a_tracker_that_cannot_begin_does_not_end_the_run(
    scripted: type[Scripted], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(run: RunDescription) -> Scripted:
        raise PermissionError("no key")

    monkeypatch.setitem(BACKENDS, "scripted", refuse)
    trackers = Trackers(["scripted"], RUN, run_ids={"scripted": "of the checkpoint"})
    trackers.log({}, 1)
    await trackers.close()
    assert trackers.run_ids() == {"scripted": "of the checkpoint"}  # the next attempt may have a key
    assert trackers.metrics() == {"trackers/scripted_failures": 1.0, "trackers/scripted_dropped": 1.0}
    assert "could not begin the run (PermissionError: no key)" in caplog.text


def test_secrets_are_blotted_out() -> None:
    text = "sent k-123 to http://user:pw@host:1/a"
    assert without_secrets(text, {"X_API_KEY": "k-123", "EMPTY_TOKEN": ""}) == "sent *** to http://***@host:1/a"
