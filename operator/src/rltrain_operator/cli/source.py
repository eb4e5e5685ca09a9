"""Everything that happens to one job, as a stream that outlives API errors, expired watches and restarted servers.

Knows when to read again, when to wait and when to give up. Must not know what is shown.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

from rltrain_operator.cli.cluster import Expired, Unavailable
from rltrain_operator.cli.errors import CommandError

# Pauses between tries in s; the last one repeats. A restarted API server is found within seconds.
BACK_OFF_SECONDS = (1.0, 2.0, 4.0, 8.0, 15.0)
GIVE_UP_TRIES = 60  # about a quarter of an hour
# After a watch that ended by itself without news: a proxy that closes at once must not be asked in a tight loop.
IDLE_PAUSE_SECONDS = 1.0
CLOSE_SECONDS = 5.0


class JobReader(Protocol):
    """What is needed of the cluster (`cluster.Cluster`)."""

    def read_job(self, name: str) -> dict[str, Any] | None:
        """The job, None when there is none."""

    def watch_job(self, name: str, resource_version: str) -> Iterable[tuple[str, dict[str, Any]]]:
        """Changes after a version."""

    def stop_watching(self) -> None:
        """End a `watch_job` that runs in another thread."""


@dataclass(frozen=True)
class Seen:
    """The job as it is now."""

    job: dict[str, Any]


@dataclass(frozen=True)
class Deleted:
    """The job is gone, or another one has taken its name."""


@dataclass(frozen=True)
class Lost:
    """The API server cannot be asked; the next try is in `retry_seconds`."""

    reason: str
    retry_seconds: float


@dataclass(frozen=True)
class Restored:
    """The API server answers again."""


@dataclass(frozen=True)
class Refused:
    """Nothing more will come: `error` says why."""

    error: CommandError


Event = Seen | Deleted | Lost | Restored | Refused


def job_events(reader: JobReader, job: dict[str, Any], pause: Callable[[float], object]) -> Iterator[Event]:
    """`job` itself, then every later state of it, until it is deleted or the server refuses.

    Args:
        reader: The cluster.
        job: The job as it was read first.
        pause: Sleeps for so many seconds.
    """
    name, uid = job["metadata"]["name"], job["metadata"]["uid"]
    version = job["metadata"]["resourceVersion"]
    must_read, failures = False, 0
    yield Seen(job)
    while True:
        try:
            if must_read:
                found = reader.read_job(name)
                must_read = False
                if failures:
                    yield Restored()
                if found is None or found["metadata"]["uid"] != uid:
                    yield Deleted()
                    return
                version = found["metadata"]["resourceVersion"]
                yield Seen(found)
            had_news = False
            for kind, changed in reader.watch_job(name, version):
                had_news, failures = True, 0
                if kind == "DELETED" or changed["metadata"]["uid"] != uid:
                    yield Deleted()
                    return
                version = changed["metadata"]["resourceVersion"]
                yield Seen(changed)
            failures = 0
            if not had_news:
                pause(IDLE_PAUSE_SECONDS)
        except Expired:
            must_read = True
        except Unavailable as error:
            must_read = True
            failures += 1
            if failures > GIVE_UP_TRIES:
                yield Refused(CommandError(f"{error} ({GIVE_UP_TRIES} tries)", "The job itself goes on."))
                return
            retry_seconds = BACK_OFF_SECONDS[min(failures, len(BACK_OFF_SECONDS)) - 1]
            yield Lost(str(error), retry_seconds)
            pause(retry_seconds)
        except CommandError as error:
            yield Refused(error)
            return


class _ClosedError(Exception):
    """Nobody wants any more events."""


class EventQueue:
    """The events of one job, read in a thread of its own so that the reader of the queue can look at the clock.

    A context manager: leaving it ends the thread. The interpreter must not end while the thread reads from the network,
    for that aborts the process.
    """

    def __init__(self, reader: JobReader, job: dict[str, Any]) -> None:
        self._reader = reader
        self._queue: queue.Queue[Event] = queue.Queue()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._pump, args=(job,), name="job-events", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        deadline = time.monotonic() + CLOSE_SECONDS
        while self._thread.is_alive() and time.monotonic() < deadline:
            # More than once: the thread may be about to begin another watch.
            self._reader.stop_watching()
            self._thread.join(0.05)

    def next(self, seconds: float) -> Event | None:
        """The next event, or None when there was none for so many seconds."""
        try:
            return self._queue.get(timeout=max(0.0, seconds))
        except queue.Empty:
            return None

    def _pause(self, seconds: float) -> None:
        if self._closing.wait(seconds):
            raise _ClosedError

    def _pump(self, job: dict[str, Any]) -> None:
        try:
            for event in job_events(self._reader, job, self._pause):
                self._queue.put(event)
                self._pause(0)
        except _ClosedError:
            return
        finally:
            # After the last word nobody reads this; before it, the thread has died of a defect and printed its trace.
            self._queue.put(Refused(CommandError("the watch ended by itself", "Start it again.")))
