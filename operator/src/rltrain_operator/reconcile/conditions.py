"""Conditions by the Kubernetes API conventions: one per type, and the transition time moves only with the status."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Literal

from rltrain_api.status import MESSAGE_MAX_LENGTH, Condition, ConditionType

Truth = Literal["True", "False", "Unknown"]


def cut(message: str, limit: int = MESSAGE_MAX_LENGTH) -> str:
    """The message within its bound, the cut marked."""
    return message if len(message) <= limit else message[: limit - 1] + "…"


class Conditions:
    """The conditions of one decision: starts from those in the status and is changed one by one."""

    def __init__(self, old: Iterable[Condition], *, now: datetime, generation: int) -> None:
        self._before = {condition.type: condition for condition in old}
        self._by_type = dict(self._before)
        self._now = now
        self._generation = generation

    def set(self, kind: ConditionType, truth: bool | None, reason: str, message: str = "") -> None:
        """State one condition; None means Unknown. What is stated last counts, as if nothing had been said before."""
        status: Truth = "Unknown" if truth is None else "True" if truth else "False"
        old = self._before.get(kind)
        changed = old is None or old.status != status
        self._by_type[kind] = Condition(
            type=kind,
            status=status,
            reason=reason,
            message=cut(message),
            observed_generation=self._generation,
            last_transition_time=self._now if changed or old is None else old.last_transition_time,
        )

    def get(self, kind: ConditionType) -> Condition | None:
        """The condition as it stands, or None when nobody has stated it."""
        return self._by_type.get(kind)

    def is_true(self, kind: ConditionType) -> bool:
        """Whether the condition is stated and holds."""
        condition = self._by_type.get(kind)
        return condition is not None and condition.status == "True"

    def reason(self, kind: ConditionType) -> str:
        """The reason of the condition, or nothing."""
        condition = self._by_type.get(kind)
        return condition.reason if condition else ""

    def all(self) -> list[Condition]:
        """Our types in their documented order, then any that others have set."""
        own = [self._by_type[kind] for kind in ConditionType if kind in self._by_type]
        return own + [condition for kind, condition in self._by_type.items() if kind not in set(ConditionType)]
