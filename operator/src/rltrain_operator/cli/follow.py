"""The loop behind `watch`: takes events of one job, puts what is news on the screen, ends when the job does.

Its clock and its events are handed in, so that a whole life of a job can be played through in a test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from rltrain_api.status import Status
from rltrain_operator.cli.errors import CommandError
from rltrain_operator.cli.lines import (
    condition_lines,
    failure_lines,
    live_line,
    plain_line,
    progress_key,
    stamp,
    waiting_for,
)
from rltrain_operator.cli.screen import Screen
from rltrain_operator.cli.source import Deleted, Event, Lost, Refused, Restored, Seen
from rltrain_operator.cli.view import JobView, Outcome, read_job

REFRESH_SECONDS = 1.0  # of the live line's clocks
SILENT_OPERATOR_SECONDS = 30.0


@dataclass(frozen=True)
class Ending:
    """How the following ended: with the job (`outcome`), or before it (`outcome` None: time was up)."""

    outcome: Outcome | None
    view: JobView | None


class Follower:
    """What has been said about the job so far, and what an event adds to it."""

    def __init__(self, screen: Screen, clock: Callable[[], datetime]) -> None:
        self._screen = screen
        self._clock = clock
        self._last_key: tuple[object, ...] | None = None
        self._told_waiting: set[str] = set()
        self._lost_reason = ""
        self._has_warned = False
        self._began = clock()
        self.view: JobView | None = None

    def take(self, event: Event) -> None:
        """Say what is news in one event.

        Raises:
            CommandError: the job cannot be followed any further.
        """
        if isinstance(event, Seen):
            self._see(read_job(event.job))
        elif isinstance(event, Lost) and event.reason != self._lost_reason:
            self._lost_reason = event.reason
            self._say(f"{event.reason}; trying again in {event.retry_seconds:.0f}s, the job itself goes on")
        elif isinstance(event, Restored):
            self._lost_reason = ""
            self._say("the API server answers again")
        elif isinstance(event, Deleted):
            raise CommandError("the job was deleted while it was watched", "Apply it again to start over.")
        elif isinstance(event, Refused):
            raise event.error

    def refresh(self) -> None:
        """Draw the live line anew; once, ask about an operator that says nothing at all."""
        now = self._clock()
        if self.view is None:
            return
        silent = self.view.status == Status()
        if silent and not self._has_warned and now - self._began > timedelta(seconds=SILENT_OPERATOR_SECONDS):
            self._has_warned = True
            self._say(
                "no status yet: is the operator running? "
                "kubectl get pods --all-namespaces -l app.kubernetes.io/name=rltrain-operator"
            )
        self._screen.live(live_line(self.view, now, self._screen.width))

    def _see(self, view: JobView) -> None:
        before, self.view = self.view, view
        for line in condition_lines(before, view):
            self._say(line)
        # The failure that ended the job is told once, by the summary.
        if view.outcome is None:
            for line in failure_lines(before, view):
                self._say(line)
        self._show_progress(view)

    def _show_progress(self, view: JobView) -> None:
        """A plain line where there is no live one; there, only a reason for waiting that does not fit into it."""
        now, key, waiting = self._clock(), progress_key(view), waiting_for(view)
        if key != self._last_key:
            self._told_waiting.clear()
        is_news = key != self._last_key or (waiting and waiting not in self._told_waiting)
        self._last_key = key
        if not is_news:
            return
        self._told_waiting.add(waiting)
        if not self._screen.is_live:
            self._screen.line(plain_line(view, now))
        elif waiting not in live_line(view, now, self._screen.width):
            self._say(waiting)

    def _say(self, text: str) -> None:
        self._screen.line(f"{stamp(self._clock())}  {text}")


def follow(
    next_event: Callable[[float], Event | None],
    screen: Screen,
    clock: Callable[[], datetime],
    timeout_seconds: float | None,
) -> Ending:
    """Show one job until it ends, or for at most `timeout_seconds`.

    Args:
        next_event: Waits for so many seconds at most; None when nothing happened.
        screen: Where to show it.
        clock: The time now, with a time zone.
        timeout_seconds: None follows the job for as long as it lives.

    Raises:
        CommandError: the job was deleted, or the cluster refuses or stays silent for too long.
    """
    deadline = clock() + timedelta(seconds=timeout_seconds) if timeout_seconds is not None else None
    follower = Follower(screen, clock)
    while deadline is None or clock() < deadline:
        left = (deadline - clock()).total_seconds() if deadline else REFRESH_SECONDS
        event = next_event(min(REFRESH_SECONDS, left))
        if event is not None:
            follower.take(event)
        if follower.view is not None and follower.view.outcome is not None:
            screen.close()
            return Ending(follower.view.outcome, follower.view)
        follower.refresh()
    screen.close()
    return Ending(None, follower.view)
