"""The stream of events of one job, over a scripted cluster: it outlives what an API server does to its clients."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from rltrain_operator.cli.cluster import Expired, Unavailable
from rltrain_operator.cli.errors import CommandError
from rltrain_operator.cli.source import Deleted, Event, EventQueue, Lost, Refused, Restored, Seen, job_events


def job(version: int, uid: str = "u1") -> dict[str, Any]:
    return {"metadata": {"name": "quickstart", "uid": uid, "resourceVersion": str(version)}}


class ScriptEndedError(Exception):
    """The script has nothing more to say."""


class ScriptedCluster:
    """Answers reads and watches from a script; an exception in it is raised where it stands."""

    def __init__(self, reads: list[Any], watches: list[list[Any]]) -> None:
        self.reads = iter(reads)
        self.watches = iter(watches)
        self.watched_from: list[str] = []

    def read_job(self, name: str) -> dict[str, Any] | None:
        answer = next(self.reads)
        if isinstance(answer, Exception):
            raise answer
        found: dict[str, Any] | None = answer
        return found

    def watch_job(self, name: str, resource_version: str) -> Iterator[tuple[str, dict[str, Any]]]:
        self.watched_from.append(resource_version)
        for item in next(self.watches, [ScriptEndedError()]):
            if isinstance(item, Exception):
                raise item
            yield item

    def stop_watching(self) -> None:
        """Nothing to do: its watches end by themselves."""


def play(cluster: ScriptedCluster) -> tuple[list[Event], list[float]]:
    """The events and the pauses until the stream or the script ends."""
    events: list[Event] = []
    pauses: list[float] = []
    stream = job_events(cluster, job(1), pauses.append)
    with contextlib.suppress(ScriptEndedError):
        events.extend(stream)
    return events, pauses


GONE = Expired("410 Gone")
AWAY = Unavailable("the API server does not answer: Connection refused")
FORBIDDEN = CommandError("the API server refused the request: 403 Forbidden")

SCRIPTS: dict[str, tuple[list[Any], list[list[Any]], list[Event], list[float], list[str]]] = {
    "changes, over two watches": (
        [],
        [[("MODIFIED", job(2)), ("MODIFIED", job(3))], [("MODIFIED", job(4))]],
        [Seen(job(1)), Seen(job(2)), Seen(job(3)), Seen(job(4))],
        [],
        ["1", "3", "4"],
    ),
    "a watch without news": ([], [[], []], [Seen(job(1))], [1.0, 1.0], ["1", "1", "1"]),
    "expired: read again": (
        [job(7)],
        [[GONE]],
        [Seen(job(1)), Seen(job(7))],
        [],
        ["1", "7"],
    ),
    "away for a while": (
        [AWAY, AWAY, job(5)],
        [[("MODIFIED", job(2)), AWAY]],
        [Seen(job(1)), Seen(job(2)), *(Lost(str(AWAY), s) for s in (1.0, 2.0, 4.0)), Restored(), Seen(job(5))],
        [1.0, 2.0, 4.0],
        ["1", "5"],
    ),
    "reads but does not watch: the pauses still grow": (
        [job(1), job(1)],
        [[AWAY], [AWAY], []],
        [Seen(job(1)), Lost(str(AWAY), 1.0), Restored(), Seen(job(1)), Lost(str(AWAY), 2.0), Restored(), Seen(job(1))],
        [1.0, 2.0, 1.0],
        ["1", "1", "1", "1"],
    ),
    "deleted": ([], [[("DELETED", job(2))]], [Seen(job(1)), Deleted()], [], ["1"]),
    "deleted and made again": ([], [[("ADDED", job(9, "u2"))]], [Seen(job(1)), Deleted()], [], ["1"]),
    "deleted while away": ([None], [[AWAY]], [Seen(job(1)), Lost(str(AWAY), 1.0), Restored(), Deleted()], [1.0], ["1"]),
    "made again while away": (
        [job(9, "u2")],
        [[AWAY]],
        [Seen(job(1)), Lost(str(AWAY), 1.0), Restored(), Deleted()],
        [1.0],
        ["1"],
    ),
    "refused": ([], [[FORBIDDEN]], [Seen(job(1)), Refused(FORBIDDEN)], [], ["1"]),
}


@pytest.mark.parametrize(("reads", "watches", "events", "pauses", "versions"), SCRIPTS.values(), ids=SCRIPTS.keys())
def test_job_events(
    reads: list[Any], watches: list[list[Any]], events: list[Event], pauses: list[float], versions: list[str]
) -> None:
    cluster = ScriptedCluster(reads, watches)
    assert play(cluster) == (events, pauses)
    assert cluster.watched_from == versions


def test_a_server_that_stays_away_is_given_up_with_growing_pauses() -> None:
    cluster = ScriptedCluster([AWAY] * 100, [[AWAY]])
    events, pauses = play(cluster)
    assert pauses[:6] == [1.0, 2.0, 4.0, 8.0, 15.0, 15.0]
    assert sum(pauses) == 15 + 56 * 15
    assert isinstance(events[-1], Refused)
    assert str(events[-1].error) == f"{AWAY} (60 tries). The job itself goes on."


def test_queue_hands_events_over_in_order() -> None:
    cluster = ScriptedCluster([], [[("MODIFIED", job(2)), FORBIDDEN]])
    with EventQueue(cluster, job(1)) as events:
        assert [events.next(10) for _ in range(3)] == [Seen(job(1)), Seen(job(2)), Refused(FORBIDDEN)]


class HangingCluster(ScriptedCluster):
    """Its watch says nothing until it is stopped."""

    def __init__(self) -> None:
        super().__init__([], [])
        self.stopped = threading.Event()

    def watch_job(self, name: str, resource_version: str) -> Iterator[tuple[str, dict[str, Any]]]:
        assert self.stopped.wait(20)
        yield from ()

    def stop_watching(self) -> None:
        self.stopped.set()


def test_queue_without_news_answers_in_time_and_leaves_no_thread() -> None:
    with EventQueue(HangingCluster(), job(1)) as events:
        assert events.next(10) == Seen(job(1))
        assert events.next(0) is None
    assert "job-events" not in {thread.name for thread in threading.enumerate()}
