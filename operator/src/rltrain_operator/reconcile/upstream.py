"""Upstream's trainer, told in the words of our own driver: from Ray's state and the job's log to a DriverStatus.

Upstream SkyRL has no status route, so all that is known of a run is whether Ray runs it and what it prints. These forms
were read off SkyRL 0.1.0, and all of them stand in the log whatever the tracker is, but for the first:

    Step 7:                                        with `trainer.logger: console` only; the step's metrics follow, one
    {'reward/avg_raw_reward': '0.2500',            on a line, as pprint writes a dict
    Training Batches Processed:  35%|…| 7/20 [     the progress bar: steps done of all steps
    Started: 'step'                                and, at its end, Finished: 'step', time cost: 31.02s
    Resuming from global_step: 4
    Successfully saved checkpoint for global_step_8 to: /checkpoints/run/global_step_8

A log without them (another version, a higher LOG_LEVEL) leaves the numbers out and fails nothing. Pure; must not know
how the log is fetched.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from statistics import median

from rltrain_api.wire import CheckpointStatus, DriverPhase, DriverStatus

STEP_TIMES_KEPT = 16
_ENOUGH_STEP_TIMES = 3

# Ray puts the process in front of each line, loguru colours, and the progress bar is drawn over itself.
_ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_ORIGIN = re.compile(r"^\([^()]*pid=\d+[^()]*\) ?")
_BAR = re.compile(r"^Training Batches Processed:.*?\| (\d+)/(\d+) \[")
# Only what SkyRL's logger writes counts: what a model answers is printed, too.
_RECORD = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)\S* \| [A-Z]+ +\| \S+:\d+ - (.*)$")
_STEP = re.compile(r"Step (\d+): ?$")
_METRICS = re.compile(r"'([^']+)': (?:np\.\w+\()?'?(-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)\b")
_STEP_BEGUN = re.compile(r"Started: 'step'$")
_STEP_TIME = re.compile(r"Finished: 'step', time cost: (\d+\.\d+)s$")
_RESUMED = re.compile(r"Resuming from global_step: (\d+)$")
_SAVED = re.compile(r"Successfully saved checkpoint for global_step_(\d+) to: (.*\S)\s*$")

_REWARD = "reward/avg_raw_reward"
_EVALUATION = "eval/all/avg_score"
_EPOCH = "trainer/epoch"


@dataclass(frozen=True)
class RunLog:
    """What a run's log has said so far.

    Args:
        trains: Whether the training loop has begun.
        step: Training steps done, resumed ones included.
        total_steps: Training steps of the whole run.
        epoch: The pass over the training data, from 0.
        reward: Mean raw reward of the newest step.
        eval_score: Mean score of the newest evaluation.
        step_seconds: Times of the newest steps, in order.
        checkpoint: The newest checkpoint; its size is not told.
        in_step: Whether a step is under way; None where nothing says so.
    """

    trains: bool = False
    step: int = 0
    total_steps: int | None = None
    epoch: int = 0
    reward: float | None = None
    eval_score: float | None = None
    step_seconds: tuple[float, ...] = ()
    checkpoint: CheckpointStatus | None = None
    in_step: bool | None = None


def read_log(lines: Iterable[str], *, bar_counts_steps: bool) -> RunLog:
    """What a log says.

    Args:
        lines: The log or its end, as Ray gives it.
        bar_counts_steps: False with dynamic sampling, where SkyRL's bar counts batches that were thrown away, too.
    """
    reader = _Reader(bar_counts_steps)
    for line in lines:
        # What the bar wrote over itself stands before the last text of the line.
        for part in _ESCAPES.sub("", line).replace("\r", "\n").split("\n"):
            reader.read(_ORIGIN.sub("", part))
    return reader.seen


def joined(before: RunLog, newer: RunLog) -> RunLog:
    """The same run's log, read in two pieces that may overlap: nothing that was known is forgotten."""
    return RunLog(
        trains=before.trains or newer.trains,
        step=max(before.step, newer.step),
        total_steps=newer.total_steps if newer.total_steps is not None else before.total_steps,
        epoch=max(before.epoch, newer.epoch),
        reward=newer.reward if newer.reward is not None else before.reward,
        eval_score=newer.eval_score if newer.eval_score is not None else before.eval_score,
        step_seconds=newer.step_seconds or before.step_seconds,
        checkpoint=newer.checkpoint or before.checkpoint,
        in_step=newer.in_step if newer.in_step is not None else before.in_step,
    )


def as_driver(log: RunLog, attempt: int, now: datetime, step_seen: datetime) -> DriverStatus:
    """The status that a driver of ours would give in the place of upstream's.

    The weights that engines serve are those of the newest step: SkyRL sends them at the end of each.

    Args:
        log: What the run's log has said.
        attempt: The attempt's number.
        now: The time.
        step_seen: When the log was first seen to be where it is; a step's age counts from here, and not by the clock
            in the log, which may be another's.
    """
    step_seconds = median(log.step_seconds) if len(log.step_seconds) >= _ENOUGH_STEP_TIMES else None
    # SkyRL names its last checkpoint after the step that would have come next.
    step = log.step if log.total_steps is None else min(log.step, log.total_steps)
    left = log.total_steps - step if log.total_steps is not None else None
    return DriverStatus(
        phase=DriverPhase.TRAINING if log.trains else DriverPhase.STARTING,
        attempt=attempt,
        step=step,
        total_steps=log.total_steps,
        epoch=log.epoch,
        reward=log.reward,
        eval_score=log.eval_score,
        tokens_per_second=None,
        weight_version=step,
        eta_seconds=left * step_seconds if left is not None and step_seconds is not None else None,
        checkpoint=log.checkpoint,
        step_seconds=step_seconds,
        durations={},
        saved_request=None,
        step_age_seconds=max(0.0, (now - step_seen).total_seconds()) if log.in_step else None,
        message="" if log.trains else "SkyRL's log shows no training step yet",
        updated=now,
    )


@dataclass
class _Reader:
    """Reads a log line by line."""

    bar_counts_steps: bool
    seen: RunLog = field(default_factory=RunLog)
    in_metrics: bool = False

    def read(self, line: str) -> None:
        if self.in_metrics and line[:2] in ("{'", " '"):
            for metric in _METRICS.finditer(line):
                self._metric(metric[1], float(metric[2]))
            return
        self.in_metrics = False
        if bar := _BAR.search(line):
            self._bar(int(bar[1]), int(bar[2]))
        if record := _RECORD.search(line):
            self._record(record[1], record[2])

    def _record(self, time: str, message: str) -> None:
        if found := _STEP.match(message):
            self._at_step(int(found[1]))
            self.in_metrics = True
        elif found := _STEP_TIME.match(message):
            times = (*self.seen.step_seconds, float(found[1]))[-STEP_TIMES_KEPT:]
            self.seen = replace(self.seen, step_seconds=times, in_step=False, trains=True)
        elif _STEP_BEGUN.match(message):
            self.seen = replace(self.seen, in_step=True, trains=True)
        elif found := _RESUMED.match(message):
            self._at_step(int(found[1]))
        elif found := _SAVED.match(message):
            # The containers' clocks are UTC's unless an image says otherwise.
            saved = datetime.fromisoformat(time).replace(tzinfo=UTC)
            self.seen = replace(
                self.seen, checkpoint=CheckpointStatus(step=int(found[1]), path=found[2], time=saved, bytes=None)
            )
            self._at_step(int(found[1]))

    def _metric(self, name: str, value: float) -> None:
        if name == _REWARD:
            self.seen = replace(self.seen, reward=value)
        elif name == _EVALUATION:
            self.seen = replace(self.seen, eval_score=value)
        elif name == _EPOCH:
            self.seen = replace(self.seen, epoch=int(value), trains=True)

    def _bar(self, done: int, total: int) -> None:
        self.seen = replace(self.seen, trains=True, total_steps=total)
        if self.bar_counts_steps:
            self._at_step(done)

    def _at_step(self, step: int) -> None:
        self.seen = replace(self.seen, step=max(step, self.seen.step))
