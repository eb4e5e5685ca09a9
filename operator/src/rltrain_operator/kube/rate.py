"""A token bucket in front of the API server, shared by everything in the process.

A 429 pauses the whole bucket, not only the caller: the server is busy for all of us.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


class TokenBucket:
    """At most `burst` requests at once and `rate` requests per second over time.

    `clock` and `sleep` are those of the running event loop unless a test brings its own.
    """

    def __init__(
        self,
        rate: float,
        burst: int,
        *,
        clock: Callable[[], float] | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._sleep = sleep
        self._tokens = float(burst)
        self._filled_at: float | None = None
        self._paused_until = 0.0

    def _now(self) -> float:
        return self._clock() if self._clock else asyncio.get_running_loop().time()

    def _reserve(self) -> float:
        """Take one token, on credit if need be, and return for how many seconds the caller has to wait."""
        now = self._now()
        if self._filled_at is not None:
            self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._rate)
        self._filled_at = now
        self._tokens -= 1
        debt = max(0.0, -self._tokens / self._rate)
        return max(debt, self._paused_until - now)

    async def take(self) -> None:
        """Wait for a turn; waits are bounded by the queue's length over the rate plus the server's Retry-After."""
        delay = self._reserve()
        if delay > 0:
            await self._sleep(delay)

    def pause(self, seconds: float) -> None:
        """Hold every later caller back for `seconds` (the server's Retry-After)."""
        self._paused_until = max(self._paused_until, self._now() + seconds)
