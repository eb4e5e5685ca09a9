"""What the driver knows of its own run, kept in the shape that the operator asks for.

The loop writes here; the HTTP server only reads, and sets the two requests. Everything happens on one event loop, so
there are no locks. It must know neither Ray nor torch.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from rltrain_api.wire import (
    HISTORY_MAX_POINTS,
    CheckpointStatus,
    DriverError,
    DriverPhase,
    DriverStatus,
    EngineStatus,
    History,
    HistoryPoint,
)

# The time of one step is averaged with this weight for the newest, so that an ETA follows a change within ten steps.
STEP_TIME_SMOOTHING = 0.2

# A median of so many steps follows a change of pace, and one slow step does not move it.
MEDIAN_STEPS = 32
FEWEST_STEPS = 3

# Kubernetes kills a pod 30 s after SIGTERM unless told otherwise: a stop without a deadline of its own fits that.
DEFAULT_STOP_SECONDS = 25.0


class RunState:
    """Progress of one attempt, and what has been asked of it."""

    def __init__(self, attempt: int, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.attempt = attempt
        self.phase = DriverPhase.STARTING
        self.message = "starting"
        self.step = 0
        self.total_steps: int | None = None
        self.epoch = 0
        self.weight_version = 0
        self.checkpoint: CheckpointStatus | None = None
        self.error: DriverError | None = None
        self.checkpoint_requested = asyncio.Event()
        self.saved_request: str | None = None
        self.stop_requested = asyncio.Event()
        self.dismissed = asyncio.Event()
        self.stop_wants_checkpoint = False
        self.stop_deadline_seconds = DEFAULT_STOP_SECONDS
        self.metrics: dict[str, float] = {}
        self._open_request: str | None = None
        self._step_began: float | None = None
        self._step_times: deque[float] = deque(maxlen=MEDIAN_STEPS)
        self.engines_wanted: int | None = None
        self._engines: Callable[[], list[EngineStatus]] = list
        self._keep_engines: Callable[[int], None] = lambda _: None
        self._durations: dict[str, float] = {}
        self._points: list[HistoryPoint] = []
        self._seconds_per_step: float | None = None
        self._monotonic = monotonic

    def request_stop(self, *, checkpoint: bool, deadline_seconds: float) -> None:
        """Ask the loop to end at the next step boundary, `deadline_seconds` from now at the latest.

        Without a checkpoint there is nothing left to be read either: a driver that lingers at its end is dismissed.
        """
        if not checkpoint:
            self.dismissed.set()
        if self.stop_requested.is_set() and not checkpoint:
            return  # a checkpoint that was promised is still written
        self.stop_wants_checkpoint = checkpoint
        self.stop_deadline_seconds = deadline_seconds
        self.stop_requested.set()

    def request_checkpoint(self, request: str | None) -> None:
        """Ask the loop for a checkpoint at the next step boundary; a request that is saved asks for nothing."""
        if request is not None and request == self.saved_request:
            return
        self._open_request = request
        self.checkpoint_requested.set()

    def take_checkpoint_request(self) -> str | None:
        """The request that the checkpoint about to be written answers; later ones ask for another."""
        request, self._open_request = self._open_request, None
        self.checkpoint_requested.clear()
        return request

    def watch_engines(self, statuses: Callable[[], list[EngineStatus]]) -> None:
        """From now on ask `statuses` for the health of the engines."""
        self._engines = statuses

    def want_engines(self, count: int) -> None:
        """So many engines shall run from now on, or as soon as there is who keeps them."""
        self.engines_wanted = count
        self._keep_engines(count)

    def keep_engines(self, keep: Callable[[int], None]) -> None:
        """`keep` is told how many engines shall run, now and whenever that changes."""
        self._keep_engines = keep
        if self.engines_wanted is not None:
            keep(self.engines_wanted)

    def restore(self, history: History, *, step: int) -> None:
        """Take over the curve of the attempt that wrote the checkpoint of `step`; later points are dropped."""
        self._points = [point for point in history.points if point.step <= step]
        self._durations = dict(history.durations)
        self.step = step

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Count the seconds spent inside towards the phase `name` of the loop."""
        began = self._monotonic()
        try:
            yield
        finally:
            self._durations[name] = self._durations.get(name, 0.0) + self._monotonic() - began

    def begin_step(self) -> None:
        """A training step begins now."""
        self._step_began = self._monotonic()

    def step_done(self, step: int, metrics: dict[str, float], *, seconds: float, trained_tokens: int) -> None:
        """Record one training step that took `seconds` and trained on `trained_tokens`."""
        previous = self._seconds_per_step
        self._seconds_per_step = seconds if previous is None else previous + STEP_TIME_SMOOTHING * (seconds - previous)
        self._step_began = None
        self._step_times.append(seconds)
        self.step = step
        self.metrics.update(metrics)
        self._points.append(
            HistoryPoint(
                step=step,
                reward=metrics["reward/avg_raw_reward"],
                tokens_per_second=trained_tokens / seconds,
            )
        )

    def evaluated(self, step: int, metrics: dict[str, float]) -> None:
        """Record one evaluation made with the weights after `step` steps."""
        self.metrics.update(metrics)
        self._points.append(HistoryPoint(step=step, eval_score=metrics["eval/all/avg_score"]))

    def _newest(self, field: str) -> float | None:
        values = (getattr(point, field) for point in reversed(self._points))
        return next((value for value in values if value is not None), None)

    def status(self) -> DriverStatus:
        """The answer to GET /status."""
        remaining = None if self.total_steps is None else max(self.total_steps - self.step, 0)
        eta = None if remaining is None or self._seconds_per_step is None else remaining * self._seconds_per_step
        return DriverStatus(
            phase=self.phase,
            attempt=self.attempt,
            step=self.step,
            total_steps=self.total_steps,
            epoch=self.epoch,
            reward=self._newest("reward"),
            eval_score=self._newest("eval_score"),
            tokens_per_second=self._newest("tokens_per_second"),
            weight_version=self.weight_version,
            eta_seconds=eta,
            engines=self._engines(),
            engines_wanted=self.engines_wanted,
            checkpoint=self.checkpoint,
            durations=dict(self._durations),
            error=self.error,
            message=self.message,
            step_seconds=statistics.median(self._step_times) if len(self._step_times) >= FEWEST_STEPS else None,
            step_age_seconds=None if self._step_began is None else self._monotonic() - self._step_began,
            saved_request=self.saved_request,
            stopping=self.stop_requested.is_set(),
            updated=datetime.now(UTC),
        )

    def history(self) -> History:
        """The answer to GET /history."""
        return History(points=thinned(self._points, HISTORY_MAX_POINTS), durations=dict(self._durations))


def thinned(points: list[HistoryPoint], limit: int) -> list[HistoryPoint]:
    """At most about `limit` points: evaluations and the newest step stay, other steps thin out evenly.

    When there are more evaluations than `limit`, they alone stay: they are rare, and they are the result.
    """
    evaluations = sum(point.eval_score is not None for point in points)
    room = max(limit - evaluations, 1)
    steps = len(points) - evaluations
    stride = -(-steps // room)
    kept: list[HistoryPoint] = []
    seen = 0
    for point in points:
        if point.eval_score is not None:
            kept.append(point)
            continue
        seen += 1
        if (steps - seen) % max(stride, 1) == 0:  # counted from the end, so that the newest step stays
            kept.append(point)
    return kept
