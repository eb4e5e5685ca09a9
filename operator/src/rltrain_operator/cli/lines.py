"""The lines of `watch`: one line of progress, and lines for what changed between two views of a job.

Pure: views, times and widths in, text out. Must not know where the views come from or where the text goes.
"""

from __future__ import annotations

from datetime import datetime

from rltrain_api.status import Condition, ConditionType, Failure, Phase
from rltrain_api.wire import DriverPhase
from rltrain_operator.cli.view import JobView

BAR_CELLS = 12
NO_STATUS_DETAIL = "waiting for the operator to look at the job"

# Never a line of their own: these two sum up what the others say in detail.
SUMMARY_CONDITIONS = frozenset({ConditionType.READY, ConditionType.RECONCILING})


def live_line(view: JobView, now: datetime, width: int) -> str:
    """Progress in one line of less than `width` columns: what matters least is left out first."""
    ranked = [(rank, text) for rank, text in _fields(view, now, with_bar=True) if text]
    while len(ranked) > 2 and len(_join(ranked)) >= width:
        ranked.remove(max(ranked))
    return truncate(_join(ranked), width - 1)


def plain_line(view: JobView, now: datetime) -> str:
    """Progress in one line of any length, with the time, for a log file."""
    return f"{stamp(now)}  {_join([(rank, text) for rank, text in _fields(view, now, with_bar=False) if text])}"


def progress_key(view: JobView) -> tuple[object, ...]:
    """Two views with equal keys need no second plain line: clocks, rates and pauses between two steps are no news.

    What a job waits for is apart (`waiting_for`): the same few messages may alternate for an hour.
    """
    return (view.status.phase, view.status.attempt, view.progress.step, view.progress.eval_score)


def waiting_for(view: JobView) -> str:
    """What a job that does not run yet is waiting for; nothing once the numbers speak, or after the end."""
    if view.outcome is not None or view.status.phase is Phase.RUNNING:
        return ""
    if view.status.phase is None:
        return NO_STATUS_DETAIL
    for condition_type in (ConditionType.CLUSTER_READY, ConditionType.TRAINING, ConditionType.READY):
        condition = view.status.condition(condition_type)
        if condition is not None and condition.status != "True" and condition.message:
            return condition.message
    return view.progress.message or ""


def condition_lines(before: JobView | None, after: JobView) -> list[str]:
    """One line for every condition whose status or reason is news, in the order of the status.

    Without a view before nothing is news: whoever starts to watch late reads the progress line or the summary.
    """
    lines: list[str] = []
    told: set[str] = set()
    for condition in after.status.conditions:
        if before is not None and _is_news(before.status.condition(condition.type), condition):
            # Several conditions often turn for one reason; its words need to be read once.
            message = f": {condition.message}" if condition.message and condition.message not in told else ""
            told.add(condition.message)
            lines.append(f"{condition.type}={condition.status}  {condition.reason}{message}")
    return lines


def failure_lines(before: JobView | None, after: JobView) -> list[str]:
    """The last failure, with its remedy on a line of its own, when it is another one than before."""
    failure = after.status.last_failure
    if failure is None or (before is not None and before.status.last_failure == failure):
        return []
    return describe_failure(failure)


def describe_failure(failure: Failure) -> list[str]:
    """A failure in one or two lines: which attempt, what, where, why; then what to do."""
    attempt = f"attempt {failure.attempt}" if failure.attempt else "the job"
    exit_code = f"exit code {failure.exit_code}" if failure.exit_code is not None else ""
    where = ", ".join(part for part in (failure.role, failure.pod, exit_code) if part)
    line = f"{attempt} failed: {failure.reason}{f' ({where})' if where else ''}"
    lines = [f"{line}: {failure.message}" if failure.message else line]
    if failure.remedy:
        lines.append(f"  what to do: {failure.remedy}")
    return lines


def stamp(moment: datetime) -> str:
    """A time in UTC, to the second, as `kubectl logs --timestamps` and the status have it."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def duration(seconds: float) -> str:
    """Seconds as a person reads them: 42s, 3m07s, 2h05m, 3d04h."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole // 60 % 60:02d}m"
    return f"{whole // 86400}d{whole // 3600 % 24:02d}h"


def elapsed_seconds(view: JobView, now: datetime) -> float | None:
    """From the job's start (or creation) to its end, or to `now`; never negative, clocks differ."""
    started = view.status.start_time or view.created
    return max(0.0, ((view.status.completion_time or now) - started).total_seconds()) if started else None


def truncate(text: str, width: int) -> str:
    """At most `width` columns, with an ellipsis where something is missing."""
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"


def _fields(view: JobView, now: datetime, *, with_bar: bool) -> list[tuple[int, str]]:
    """The parts of a progress line from left to right, each with a rank: the higher, the sooner it may be left out."""
    progress = view.progress
    total = progress.total_steps
    bar = _bar(progress.step, total) if with_bar else ""
    elapsed = elapsed_seconds(view, now)
    eta = _remaining_seconds(view, now)
    return [
        (0, _phase(view)),
        (9, bar),
        (2, "" if progress.step is None else f"step {progress.step}{f'/{total}' if total is not None else ''}"),
        (3, _labelled("reward", progress.reward)),
        (6, _labelled("eval", progress.eval_score)),
        (7, "" if progress.tokens_per_second is None else f"{progress.tokens_per_second:,.0f} tokens/s"),
        (8, "" if not progress.weight_version else f"weights v{progress.weight_version}"),
        (5, "" if eta is None else f"ETA {duration(eta)}"),
        (4, "" if elapsed is None else f"elapsed {duration(elapsed)}"),
        (1, waiting_for(view)),
    ]


def _phase(view: JobView) -> str:
    phase = view.status.phase or Phase.PENDING
    # That the driver trains goes without saying; that it evaluates or saves explains a pause.
    if phase is Phase.RUNNING and view.progress.phase not in (None, DriverPhase.TRAINING):
        return f"{phase} ({view.progress.phase})"
    return phase.value


def _remaining_seconds(view: JobView, now: datetime) -> float | None:
    """The driver's estimate less the time since it was made."""
    progress = view.progress
    if progress.eta_seconds is None or view.outcome is not None:
        return None
    age = max(0.0, (now - progress.updated).total_seconds()) if progress.updated else 0.0
    return max(0.0, progress.eta_seconds - age)


def _bar(step: int | None, total: int | None) -> str:
    if step is None or not total:
        return ""
    filled = min(BAR_CELLS, BAR_CELLS * step // total)
    return "█" * filled + "░" * (BAR_CELLS - filled)


def _labelled(label: str, value: float | None) -> str:
    return "" if value is None else f"{label} {value:.3f}"


def _join(ranked: list[tuple[int, str]]) -> str:
    return "  ".join(text for _, text in ranked)


def _is_news(was: Condition | None, now: Condition) -> bool:
    if now.type in SUMMARY_CONDITIONS or now.status == "Unknown":
        return False
    # All but ConfigValid begin as False and wait there, which the progress line tells better: only leaving it is news,
    # and falling back to it.
    if now.type != ConditionType.CONFIG_VALID and now.status == "False" and (was is None or was.status != "True"):
        return False
    return was is None or (was.status, was.reason) != (now.status, now.reason)
