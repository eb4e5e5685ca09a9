"""Whether a decided status is worth a write: at once for what matters, seldom for mere progress, never for nothing.

What matters is that a condition holds or not, and why (its reason); the words of its message are progress.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from rltrain_api.status import Status

PROGRESS_INTERVAL = timedelta(seconds=10)

_PROGRESS_FIELDS = ("progress", "engines", "checkpoint", "durations", "accounting")
# Clocks that run while nothing happens; alone they are no reason to write.
_CLOCKS = ("updated", "eta_seconds")
# Of the accounts, what they are reckoned from; the sums go on by themselves and are written with the rest.
_RATES = ("gpus", "steps", "step_since")
# Of an initializer.
_WITHOUT_PROGRESS = {"message": "", "bytes": None, "total_bytes": None}


def write_due(old: Status, new: Status, last_write: datetime | None, now: datetime) -> datetime | None:
    """When `new` is to be written over `old`: now, later (progress only, coalesced), or never (None)."""
    if _substance(old) != _substance(new):
        return now
    if _progress(old) == _progress(new):
        return None
    return now if last_write is None else max(now, last_write + PROGRESS_INTERVAL)


def _substance(status: Status) -> Status:
    wordless = {
        "conditions": [condition.model_copy(update={"message": ""}) for condition in status.conditions],
        "initializers": [initializer.model_copy(update=_WITHOUT_PROGRESS) for initializer in status.initializers],
    }
    return status.model_copy(update={**dict.fromkeys(_PROGRESS_FIELDS), **wordless})


def _progress(status: Status) -> tuple[object, ...]:
    progress = status.progress.model_copy(update=dict.fromkeys(_CLOCKS)) if status.progress else None
    own_durations = {name: value for name, value in (status.durations or {}).items() if "/" not in name}
    messages = [condition.message for condition in status.conditions]
    fetched = [(each.message, each.bytes, each.total_bytes) for each in status.initializers]
    rates = [getattr(status.accounting, name) for name in _RATES] if status.accounting else None
    return (progress, status.engines, status.checkpoint, own_durations, rates, messages, fetched)
