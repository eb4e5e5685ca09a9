"""Where the metrics of steps go: one tracker or several, each fed by a thread of its own.

Training never waits for a tracker and never fails for one: what a tracker raises is said once, counted, and the tracker
is left alone after a few failures in a row. Run ids go into checkpoints, so that a resumed run is the same run at its
tracker. It must not know what the metrics mean.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace

from rltrain_trainer.tracking.backends import BACKENDS, Backend, RunDescription

log = logging.getLogger(__name__)

MOST_WAITING = 1024  # steps; a tracker that is further behind loses the newest
FAILURES_UNTIL_LEFT = 10  # in a row
CLOSE_SECONDS = 60.0
_SECRET_ENDINGS = ("_KEY", "_TOKEN", "_SECRET", "PASSWORD")
_CREDENTIALS_IN_URL = re.compile(r"(\w+://)[^/@\s]+@")


def without_secrets(text: str, environment: Mapping[str, str]) -> str:
    """The text with the values of secret variables blotted out: a client may repeat what it was given."""
    for name, value in environment.items():
        if value and name.endswith(_SECRET_ENDINGS):
            text = text.replace(value, "***")
    return _CREDENTIALS_IN_URL.sub(r"\1***@", text)


class Feed:
    """One tracker and the thread that feeds it."""

    def __init__(self, name: str, make: Callable[[RunDescription], Backend], run: RunDescription) -> None:
        self.name = name
        self.run_id = run.run_id
        self.failures = 0
        self.dropped = 0
        self._opened = threading.Event()
        self._in_a_row = 0
        self._waiting: queue.Queue[tuple[Mapping[str, float], int] | None] = queue.Queue(MOST_WAITING)
        self._thread = threading.Thread(target=self._work, args=(make, run), name=f"tracker {name}", daemon=True)
        self._thread.start()

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Hand the metrics over; at once, whatever the tracker does."""
        try:
            self._waiting.put_nowait((dict(metrics), step))
        except queue.Full:
            self.dropped += 1

    def opened(self, seconds: float) -> bool:
        """Wait until the tracker has a run, or has failed to get one; whether that came in time."""
        return self._opened.wait(seconds)

    def end(self, seconds: float) -> None:
        """Let the tracker write what it has, and wait for it that long."""
        deadline = time.monotonic() + seconds
        with suppress(queue.Full):  # said below
            self._waiting.put(None, timeout=seconds)
            self._thread.join(max(deadline - time.monotonic(), 0))
        if self._thread.is_alive():
            log.warning("tracker %s is not done %.0f s after the run; its newest steps may be lost", self.name, seconds)

    def _work(self, make: Callable[[RunDescription], Backend], run: RunDescription) -> None:
        backend: Backend | None = None
        with self._noted("begin the run"):
            backend = make(run)
            self.run_id = backend.run_id
        self._opened.set()
        while (item := self._waiting.get()) is not None:
            metrics, step = item
            if backend is None or self._in_a_row >= FAILURES_UNTIL_LEFT:
                self.dropped += 1
                continue
            with self._noted(f"take step {step}"):
                backend.log(metrics, step)
        if backend is not None:
            with self._noted("end the run"):
                backend.close()

    @contextmanager
    def _noted(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 - a tracker is somebody else's code and network; it must not end the training
            self.failures += 1
            self._in_a_row += 1
            if self.failures == 1:
                reason = without_secrets(f"{type(error).__name__}: {error}", os.environ)
                log.warning("tracker %s could not %s (%s); training goes on", self.name, what, reason)
        else:
            self._in_a_row = 0


class Trackers:
    """All trackers of a run."""

    def __init__(self, names: Sequence[str], run: RunDescription, *, run_ids: Mapping[str, str] | None = None) -> None:
        """run_ids: by tracker, of the run that is continued."""
        self._feeds = [Feed(name, BACKENDS[name], replace(run, run_id=(run_ids or {}).get(name))) for name in names]

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Hand the metrics of a step to all trackers."""
        for feed in self._feeds:
            feed.log(metrics, step)

    def run_ids(self) -> dict[str, str]:
        """By tracker, what a resume needs to go on with the same run."""
        return {feed.name: feed.run_id for feed in self._feeds if feed.run_id is not None}

    def metrics(self) -> dict[str, float]:
        """Failures and steps that a tracker has not got, where there are any."""
        counts: dict[str, int] = {}
        for feed in self._feeds:
            counts |= {f"trackers/{feed.name}_failures": feed.failures, f"trackers/{feed.name}_dropped": feed.dropped}
        return {name: float(count) for name, count in counts.items() if count}

    async def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Let all trackers write what they have, side by side, and wait for them that long."""
        await asyncio.gather(*(asyncio.to_thread(feed.end, seconds) for feed in self._feeds))
