"""What was learnt a moment ago and need not be asked for or worked out again: bounded in number and in age.

Whoever uses one must be right without it: everything in it may be gone at any time. It must not know what it holds.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """Holds at most `most` values, each for `seconds` of `clock` after it was put; the least recently used goes."""

    def __init__(self, most: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._seconds = seconds
        self._clock = clock
        self._values: OrderedDict[Key, tuple[float, Value]] = OrderedDict()

    def get(self, key: Key) -> Value | None:
        """What was put under the key, unless it is too old or gone."""
        put_at, value = self._values.get(key, (float("-inf"), None))
        if self._clock() - put_at >= self._seconds:
            self._values.pop(key, None)
            return None
        self._values.move_to_end(key)
        return value

    def put(self, key: Key, value: Value) -> None:
        """Hold the value from now on, in place of what was under the key."""
        self._values[key] = (self._clock(), value)
        self._values.move_to_end(key)
        while len(self._values) > self._most:
            self._values.popitem(last=False)

    def forget(self, key: Key) -> None:
        """Hold nothing under the key."""
        self._values.pop(key, None)

    def __len__(self) -> int:
        return len(self._values)
