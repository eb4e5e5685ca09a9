"""What `watch` says at the end of a job: the result, what was learned, where it is kept and where the time went.

Pure: a view and the history of the run in, lines out.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from datetime import datetime

from rltrain_api.status import ConditionType, Phase
from rltrain_api.wire import History
from rltrain_operator.cli.lines import describe_failure, duration, elapsed_seconds
from rltrain_operator.cli.view import JobView, Outcome

BAR_CELLS = 24
LIFE = tuple(phase.lower() for phase in Phase)  # the order of the phases, and their keys in status.durations
RUNNING = Phase.RUNNING.lower()
LOOP_PREFIX = "train/"  # of those keys of status.durations that are parts of the training loop


def summary(view: JobView, history: History | None, now: datetime) -> list[str]:
    """The closing lines of one job; without a history (never written, or gone) those about the curve are left out."""
    points = history.points if history else []
    rewards = [point.reward for point in points if point.reward is not None]
    evals = [point.eval_score for point in points if point.eval_score is not None]
    rates = [point.tokens_per_second for point in points if point.tokens_per_second is not None]
    rows = [
        ("steps", _steps(view)),
        ("reward", _first_to_last(rewards)),
        ("eval", _first_to_last(evals) + _gain_text(evals)),
        ("tokens/s", f"{statistics.median(rates):,.0f} in the median step" if rates else ""),
        ("checkpoint", _checkpoint(view)),
        ("used", _used(view)),
    ]
    lines = [_headline(view, now)]
    lines += [f"  {label:<10}  {text}" for label, text in rows if text]
    if view.outcome is not Outcome.COMPLETE:
        lines += _cause(view)
    table = time_table(view.status.durations or {}, history.durations if history else {})
    return [*lines, "", "Where the time went", *table] if table else lines


def time_table(life: Mapping[str, float], loop: Mapping[str, float]) -> list[str]:
    """A row per phase of life in the order of life, with the parts of the loop below Running, longest first.

    Args:
        life: `status.durations`, seconds; keys that start with `train/` are parts of the training loop.
        loop: The history's own record of the loop, seconds; fills in for parts that `life` does not have.
    """
    phases = {name: seconds for name, seconds in life.items() if not name.startswith(LOOP_PREFIX)}
    # JSON objects have no order of their own: the API server returns them by name.
    phases = dict(sorted(phases.items(), key=lambda phase: LIFE.index(phase[0]) if phase[0] in LIFE else len(LIFE)))
    recorded = {name.removeprefix(LOOP_PREFIX): s for name, s in life.items() if name.startswith(LOOP_PREFIX)}
    parts = sorted(({**loop, **recorded}).items(), key=lambda part: -part[1])
    rows = [(name, seconds, 0) for name, seconds in phases.items()]
    below = next((place + 1 for place, row in enumerate(rows) if row[0] == RUNNING), len(rows))
    rows[below:below] = [(name, seconds, 2) for name, seconds in parts]
    whole = sum(phases.values()) or sum(seconds for _, seconds in parts)
    if whole <= 0:
        return []
    label_width = max(len(name) + indent for name, _, indent in rows)
    return [
        f"  {' ' * indent + name:<{label_width}}  {duration(seconds):>7}  {seconds / whole:>4.0%}  "
        f"{'█' * round(BAR_CELLS * min(1.0, seconds / whole))}".rstrip()
        for name, seconds, indent in rows
    ]


def points_gained(history: History) -> float | None:
    """Last minus first evaluation in points of a hundred; None with fewer than two evaluations."""
    evals = [point.eval_score for point in history.points if point.eval_score is not None]
    return 100 * (evals[-1] - evals[0]) if len(evals) > 1 else None


def _headline(view: JobView, now: datetime) -> str:
    elapsed = elapsed_seconds(view, now)
    after = f" after {duration(elapsed)}" if elapsed is not None else ""
    attempts = f", {view.status.attempt} attempts" if (view.status.attempt or 0) > 1 else ""
    return f"{view.name}: {view.outcome or view.status.phase or 'no status'}{after}{attempts}"


def _steps(view: JobView) -> str:
    step, total = view.progress.step, view.progress.total_steps
    if step is None:
        return ""
    return f"{step} of {total}" if total is not None else str(step)


def _first_to_last(values: Sequence[float]) -> str:
    if not values:
        return ""
    return f"{values[0]:.3f} → {values[-1]:.3f}" if len(values) > 1 else f"{values[0]:.3f}"


def _gain_text(evals: Sequence[float]) -> str:
    """Points only for what is a rate: a score outside 0..1 has no hundredths to count in."""
    if len(evals) < 2 or not all(0 <= value <= 1 for value in evals):
        return ""
    return f"  ({100 * (evals[-1] - evals[0]):+.1f} points)"


def _checkpoint(view: JobView) -> str:
    checkpoint = view.status.checkpoint
    return f"{checkpoint.path} (step {checkpoint.latest_step})" if checkpoint else ""


def _used(view: JobView) -> str:
    """GPU-hours and goodput; nothing before the first cluster."""
    accounts = view.status.accounting
    if accounts is None:
        return ""
    share = f", goodput {accounts.goodput:.0%}" if accounts.goodput is not None else ""
    return f"{accounts.gpu_seconds / 3600:,.2f} GPU-hours{share}"


def _cause(view: JobView) -> list[str]:
    """Why it did not complete: the failure with its remedy, or the message of the condition that says so."""
    invalid = view.status.condition(ConditionType.CONFIG_VALID)
    if invalid is not None and invalid.status == "False":
        return [f"  {invalid.reason}: {invalid.message}"]
    if view.status.last_failure:
        return [f"  {line}" for line in describe_failure(view.status.last_failure)]
    for condition_type in (ConditionType.FAILED, ConditionType.STALLED):
        condition = view.status.condition(condition_type)
        if condition is not None and condition.status == "True":
            return [f"  {condition.reason}: {condition.message}"]
    return []
