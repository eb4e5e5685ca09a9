"""The loop behind `kubectl rltrain watch`: whole lives of a job played through with a clock of their own."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from rltrain_operator.cli.errors import CommandError
from rltrain_operator.cli.follow import Ending, follow
from rltrain_operator.cli.screen import Screen, can_show
from rltrain_operator.cli.source import Deleted, Event, Lost, Refused, Restored, Seen
from rltrain_operator.cli.view import Outcome

START = datetime(2026, 5, 1, 12, 0, 0, tzinfo=UTC)


class Play:
    """Events at seconds after the start; waiting for one moves the clock."""

    def __init__(self, script: list[tuple[float, Event]]) -> None:
        self.now = START
        self.script = [(START + timedelta(seconds=second), event) for second, event in script]

    def clock(self) -> datetime:
        return self.now

    def next_event(self, seconds: float) -> Event | None:
        until = self.now + timedelta(seconds=seconds)
        if self.script and self.script[0][0] <= until:
            moment, event = self.script.pop(0)
            self.now = max(self.now, moment)
            return event
        self.now = until
        return None


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def seen(**status: Any) -> Seen:
    metadata = {"name": "quickstart", "uid": "u1", "generation": 1, "creationTimestamp": "2026-05-01T12:00:00Z"}
    return Seen({"metadata": metadata, "status": status})


def condition(kind: str, status: str, reason: str, message: str = "") -> dict[str, Any]:
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": "2026-05-01T12:00:00Z",
    }


def running(step: int, **changes: Any) -> Seen:
    return seen(**{"phase": "Running", "attempt": 1, "progress": {"step": step, "totalSteps": 4}} | changes)


def provisioning(waits_for: str) -> Seen:
    return seen(phase="Provisioning", conditions=[condition("ClusterReady", "False", "PodsPending", waits_for)])


COMPLETE = condition("Complete", "True", "AllStepsDone")
FAILED = condition("Failed", "True", "BackoffLimitExceeded", "4 of 4 attempts failed")
INVALID = [condition("ConfigValid", "False", "InvalidSpec", "epochs: 0"), condition("Stalled", "True", "InvalidSpec")]
CRASH = {"reason": "RankCrashed", "attempt": 1, "message": "exit 1", "remedy": "read its log"}

LIVES: dict[str, tuple[list[tuple[float, Event]], float | None, Outcome | None, list[str]]] = {
    "complete": (
        [
            (0, seen()),
            (2, seen(phase="Provisioning", conditions=[condition("ConfigValid", "True", "Valid")])),
            (4, running(1)),
            (5, running(1, progress={"step": 1, "totalSteps": 4, "tokensPerSecond": 5})),
            (6, running(2)),
            (9, running(4, phase="Succeeded", conditions=[COMPLETE])),
        ],
        None,
        Outcome.COMPLETE,
        [
            "00Z  Pending  elapsed 0s  waiting for the operator to look at the job",
            "02Z  ConfigValid=True  Valid",
            "02Z  Provisioning  elapsed 2s",
            "04Z  Running  step 1/4  elapsed 4s",
            "06Z  Running  step 2/4  elapsed 6s",
            "09Z  Complete=True  AllStepsDone",
            "09Z  Succeeded  step 4/4  elapsed 9s",
        ],
    ),
    "restarts, then fails; the last failure is left to the summary": (
        [
            (1, running(1)),
            (3, running(1, phase="Restarting", lastFailure=CRASH)),
            (8, seen(phase="Failed", conditions=[FAILED], lastFailure=CRASH | {"attempt": 2})),
        ],
        None,
        Outcome.FAILED,
        [
            "01Z  Running  step 1/4  elapsed 1s",
            "03Z  attempt 1 failed: RankCrashed: exit 1",
            "03Z    what to do: read its log",
            "03Z  Restarting  step 1/4  elapsed 3s",
            "08Z  Failed=True  BackoffLimitExceeded: 4 of 4 attempts failed",
            "08Z  Failed  elapsed 8s",
        ],
    ),
    "invalid from the start": (
        [(0, seen(conditions=INVALID, observedGeneration=1))],
        None,
        Outcome.STALLED,
        ["00Z  Pending  elapsed 0s"],
    ),
    "waits for one thing and another in turn": (
        [
            (1, provisioning("ErrImagePull: no route to host")),
            (2, provisioning("ImagePullBackOff")),
            (3, provisioning("ErrImagePull: no route to host")),
            (4, provisioning("ImagePullBackOff")),
            (5, seen(phase="Starting", attempt=1)),
        ],
        9,
        None,
        [
            "01Z  Provisioning  elapsed 1s  ErrImagePull: no route to host",
            "02Z  Provisioning  elapsed 2s  ImagePullBackOff",
            "05Z  Starting  elapsed 5s",
        ],
    ),
    "time is up": ([(0, running(1))], 5, None, ["00Z  Running  step 1/4  elapsed 0s"]),
    "time is up before anything was seen": ([], 3, None, []),
    "the server goes away, says another thing, comes back": (
        [
            (0, running(1)),
            (2, Lost("no answer: Connection refused", 1)),
            (3, Lost("no answer: Connection refused", 2)),
            (5, Lost("503 Service Unavailable", 4)),
            (9, Restored()),
            (9, running(1)),
            (10, running(4, conditions=[COMPLETE])),
        ],
        60,
        Outcome.COMPLETE,
        [
            "00Z  Running  step 1/4  elapsed 0s",
            "02Z  no answer: Connection refused; trying again in 1s, the job itself goes on",
            "05Z  503 Service Unavailable; trying again in 4s, the job itself goes on",
            "09Z  the API server answers again",
            "10Z  Complete=True  AllStepsDone",
            "10Z  Running  step 4/4  elapsed 10s",
        ],
    ),
    "nobody looks at the job": (
        [(0, seen())],
        50,
        None,
        [
            "00Z  Pending  elapsed 0s  waiting for the operator to look at the job",
            "31Z  no status yet: is the operator running? "
            "kubectl get pods --all-namespaces -l app.kubernetes.io/name=rltrain-operator",
        ],
    ),
}


@pytest.mark.parametrize(("script", "timeout", "outcome", "lines"), LIVES.values(), ids=LIVES.keys())
def test_a_life_in_plain_lines(
    script: list[tuple[float, Event]], timeout: float | None, outcome: Outcome | None, lines: list[str]
) -> None:
    play, stream = Play(script), io.StringIO()
    ending = follow(play.next_event, Screen(stream), play.clock, timeout)
    assert ending.outcome is outcome
    assert [line.removeprefix("2026-05-01T12:00:") for line in stream.getvalue().splitlines()] == lines
    if timeout is not None:
        assert play.now <= START + timedelta(seconds=timeout)


ENDS: dict[str, tuple[Event, str]] = {
    "deleted": (Deleted(), "the job was deleted while it was watched"),
    "refused": (Refused(CommandError("403 Forbidden")), "403 Forbidden"),
}


@pytest.mark.parametrize(("event", "message"), ENDS.values(), ids=ENDS.keys())
def test_a_job_that_cannot_be_followed_any_further(event: Event, message: str) -> None:
    play = Play([(0, running(1)), (1, event)])
    with pytest.raises(CommandError, match=message):
        follow(play.next_event, Screen(io.StringIO()), play.clock, None)


def test_a_terminal_has_one_live_line_that_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    play, stream = Play([(0, running(1)), (2, running(4, conditions=[COMPLETE]))]), Terminal()
    follow(play.next_event, Screen(stream), play.clock, None)
    assert stream.getvalue().split("\r\x1b[K") == [
        "",
        "Running  ███░░░░░░░░░  step 1/4  elapsed 0s",
        "Running  ███░░░░░░░░░  step 1/4  elapsed 1s",
        "2026-05-01T12:00:02Z  Complete=True  AllStepsDone\n",
    ]


def test_a_terminal_tells_in_full_what_does_not_fit_into_the_live_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "50")
    long = "pod quickstart-head: ImagePullBackOff: no such image anywhere"
    play, stream = Play([(0, provisioning("short")), (1, provisioning(long)), (2, provisioning("short"))]), Terminal()
    follow(play.next_event, Screen(stream), play.clock, 3)
    lasting = [part for part in stream.getvalue().split("\r\x1b[K") if part.endswith("\n")]
    assert lasting == [f"2026-05-01T12:00:01Z  {long}\n"]


def test_ending_keeps_the_last_view() -> None:
    play = Play([(0, running(1)), (1, running(3, conditions=[COMPLETE]))])
    ending = follow(play.next_event, Screen(io.StringIO()), play.clock, None)
    assert isinstance(ending, Ending)
    assert ending.view is not None
    assert ending.view.progress.step == 3


class Encoded(io.StringIO):
    """A stream of a given encoding."""

    def __init__(self, encoding: str) -> None:
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]  # the base class has a plain attribute
        return self._encoding


ENCODINGS: dict[str, tuple[str, str]] = {
    "utf-8": ("utf-8", "a → b ██░ é …\n"),
    "latin-1": ("latin-1", "a -> b ##. é ~\n"),
    "ascii": ("ascii", "a -> b ##. ? ~\n"),
}


@pytest.mark.parametrize(("encoding", "expected"), ENCODINGS.values(), ids=ENCODINGS.keys())
def test_screen_says_it_in_the_streams_encoding(encoding: str, expected: str) -> None:
    stream = Encoded(encoding)
    screen = Screen(stream)
    screen.line("a → b ██░ é …")
    assert stream.getvalue() == expected
    assert screen.is_unicode == (encoding == "utf-8")


def test_screen_lets_no_message_steer_the_terminal() -> None:
    stream = io.StringIO()
    Screen(stream).line("out of \x1b[2Jmemory\r\nat 0x1")
    assert stream.getvalue() == "out of  [2Jmemory  at 0x1\n"


def test_can_show_knows_no_unknown_encoding() -> None:
    assert not can_show("no-such-encoding", "a")
