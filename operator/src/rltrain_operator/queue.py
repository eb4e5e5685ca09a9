"""A keyed work queue: every key waits at most once, runs at most once at a time, can be delayed, backs off on failure.

The semantics are those of client-go's work queue. It must not know what a key stands for.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class WorkQueue(Generic[Key]):
    """Delays are seconds of `clock` (the event loop's by default). `jitter()` multiplies each back-off."""

    def __init__(
        self,
        *,
        base: float = 1.0,
        cap: float = 300.0,
        clock: Callable[[], float] | None = None,
        jitter: Callable[[], float] = lambda: random.uniform(0.5, 1.5),  # noqa: S311 - spreads load, keeps no secret
    ) -> None:
        self._base = base
        self._cap = cap
        self._clock = clock
        self._jitter = jitter
        self._ready: deque[Key] = deque()
        self._ready_since: dict[Key, float] = {}
        self._dirty: set[Key] = set()
        self._busy: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._heap: list[tuple[float, int, Key]] = []
        self._due: dict[Key, float] = {}
        self._sequence = itertools.count()
        self._wake = asyncio.Event()

    def _now(self) -> float:
        return self._clock() if self._clock else asyncio.get_running_loop().time()

    def add(self, key: Key) -> None:
        """Run the key as soon as possible. While it runs, it is noted and run once more afterwards."""
        if key in self._dirty:
            return
        self._dirty.add(key)
        self._ready_since[key] = self._now()
        if key not in self._busy:
            self._push(key)

    def add_after(self, key: Key, delay: float) -> None:
        """Run the key after `delay` seconds, unless an earlier run is planned already."""
        if delay <= 0:
            self.add(key)
            return
        due = self._now() + delay
        if self._due.get(key, float("inf")) <= due:
            return
        self._due[key] = due
        heapq.heappush(self._heap, (due, next(self._sequence), key))
        self._wake.set()

    def retry(self, key: Key, *, at_least: float = 0.0) -> float:
        """Run the key again after its back-off (doubling, bounded, with jitter); returns that delay in seconds."""
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        exponent = min(failures - 1, 30)
        delay: float = max(at_least, min(self._cap, self._base * 2**exponent) * self._jitter())
        self.add_after(key, delay)
        return delay

    def forget(self, key: Key) -> None:
        """The key succeeded: its next failure starts at the base delay again."""
        self._failures.pop(key, None)

    async def get(self) -> Key:
        """The next key to run; the caller must call `done` with it."""
        while True:
            wait = self._promote()
            if self._ready:
                key = self._ready.popleft()
                self._dirty.discard(key)
                self._ready_since.pop(key, None)
                self._busy.add(key)
                return key
            self._wake.clear()
            try:
                await asyncio.wait_for(self._wake.wait(), wait)
            except TimeoutError:
                continue

    def done(self, key: Key) -> None:
        """The run of `key` has ended, well or not."""
        self._busy.discard(key)
        if key in self._dirty:
            self._push(key)

    def _push(self, key: Key) -> None:
        self._ready.append(key)
        self._wake.set()

    def _promote(self) -> float | None:
        """Move what is due into the ready line; returns seconds until the next is due."""
        now = self._now()
        while self._heap and self._heap[0][0] <= now:
            due, _, key = heapq.heappop(self._heap)
            if self._due.get(key) == due:
                del self._due[key]
                self.add(key)
        return self._heap[0][0] - now if self._heap else None

    def oldest_wait(self) -> float:
        """For how many seconds the longest-waiting ready key has been waiting: the liveness signal."""
        now = self._now()
        return max((now - since for since in self._ready_since.values()), default=0.0)

    def __len__(self) -> int:
        return len(self._ready)
