"""Keeps as many engines running as are wanted, while training goes on.

    wanted > there: start ─► the fleet lets it join ─► weights of the newest sync ─► serves
    wanted < there: drain ─► no request left, or the deadline ─► out of the fleet ─► stop

It is driven by what is, never by what was asked when: a start that fails is tried again, an engine whose process or pod
is gone is replaced, and of two wishes the newer counts. It must know neither Ray nor HTTP: how an engine is started and
how it is reached is given to it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from rltrain_api.wire import EngineState, EngineStatus
from rltrain_trainer.engines.contract import Engine
from rltrain_trainer.engines.fleet import Fleet, Member

logger = logging.getLogger(__name__)

RETRY_SECONDS = 5.0
LONGEST_RETRY_SECONDS = 60.0
DRAIN_SECONDS = 120.0


class EngineStartError(Exception):
    """An engine did not come up."""


class EngineHost(Protocol):
    """An engine's process and what holds it."""

    @property
    def url(self) -> str:
        """Where it answers."""
        ...

    @property
    def pod(self) -> str:
        """The name of the pod that it runs in."""
        ...

    async def ended(self) -> str:
        """Wait until the process or its pod is gone; says how it ended."""
        ...

    async def stop(self) -> None:
        """End it; no error where it is gone."""
        ...


@dataclass(eq=False)
class _Kept:
    """An engine that runs."""

    host: EngineHost
    member: Member


class EngineKeeper:
    """See the module's docstring. Make it inside a running event loop; `run` it, then `close` it there."""

    def __init__(
        self,
        fleet: Fleet,
        started: Sequence[EngineHost],
        *,
        start: Callable[[], Awaitable[EngineHost]],
        connect: Callable[[str, str], Engine],
        drain_seconds: float = DRAIN_SECONDS,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        """`started` engines join the fleet; `start` starts another (EngineStartError), `connect(name, url)` reaches it.

        An engine that goes has `drain_seconds` for its requests. A failed start is repeated after `retry_seconds`,
        doubled by each further failure.
        """
        self._fleet = fleet
        self._start = start
        self._connect = connect
        self._drain_seconds = drain_seconds
        self._retry_seconds = retry_seconds
        self._kept: list[_Kept] = []
        self._starting: list[asyncio.Task[None]] = []
        self._others: set[asyncio.Task[None]] = set()  # watches and drains
        self._changed = asyncio.Event()
        self._names = 0
        self._failures = 0  # starts that failed, in a row
        self._retry_at = 0.0
        self._wanted = len(started)
        for host in started:
            self._keep(host)

    @property
    def wanted(self) -> int:
        """How many engines there shall be."""
        return self._wanted

    def want(self, count: int) -> None:
        """From now on there shall be so many engines, one at least."""
        assert count >= 1, "a run without engines samples nothing"
        if count != self._wanted:
            logger.info("%d engines are wanted, before it were %d", count, self._wanted)
            self._wanted = count
            self._retry_at, self._failures = 0.0, 0
            self._changed.set()

    def statuses(self) -> list[EngineStatus]:
        """What the driver reports: the fleet's engines, and those that are being started."""
        starting = [EngineStatus(name="starting", state=EngineState.JOINING) for _ in self._starting]
        return self._fleet.engine_statuses() + starting

    async def run(self) -> None:
        """Keep the number until cancelled."""
        while True:
            self._changed.clear()
            wait = self._level()
            try:
                await asyncio.wait_for(self._changed.wait(), wait)
            except TimeoutError:
                continue  # time to try a start again

    async def close(self) -> None:
        """End all engines, drained or not."""
        tasks = [*self._starting, *self._others]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(kept.host.stop() for kept in self._kept))

    def _level(self) -> float | None:
        """Start or drain what the wish asks for; after how many seconds to look again without a change."""
        staying = [kept for kept in self._kept if not kept.member.draining]
        missing = self._wanted - len(staying) - len(self._starting)
        if missing > 0:
            wait = self._retry_at - time.monotonic()
            if wait > 0:
                return wait
            for _ in range(missing):
                task = asyncio.create_task(self._start_one(), name="engine start")
                self._starting.append(task)
                task.add_done_callback(self._started)
        elif missing < 0:
            given_up = self._starting[missing:]
            for task in given_up:
                task.cancel()
            for kept in _least_useful(staying)[: -missing - len(given_up)]:
                kept.member.draining = True
                self._in_background(self._drain(kept))
        return None

    async def _start_one(self) -> None:
        try:
            host = await self._start()
        except EngineStartError as error:
            seconds = min(self._retry_seconds * 2**self._failures, LONGEST_RETRY_SECONDS)
            self._failures += 1
            self._retry_at = time.monotonic() + seconds
            logger.warning("an engine did not start, another try follows in %.0f s: %s", seconds, error)
        else:
            self._failures = 0
            # In one step: an engine that were counted twice would cost another its place.
            self._starting = [task for task in self._starting if task is not asyncio.current_task()]
            self._keep(host)

    def _started(self, task: asyncio.Task[None]) -> None:
        self._starting = [other for other in self._starting if other is not task]
        self._changed.set()
        _complain(task)

    def _keep(self, host: EngineHost) -> None:
        name = f"engine-{self._names}"
        self._names += 1
        kept = _Kept(host, self._fleet.add(self._connect(name, host.url), pod=host.pod))
        self._kept.append(kept)
        self._in_background(self._watch(kept))

    async def _watch(self, kept: _Kept) -> None:
        """Take an engine out that has ended by itself; another takes its place."""
        how = await kept.host.ended()
        if kept not in self._kept:
            return  # it was drained
        self._kept.remove(kept)
        self._fleet.declare_dead(kept.member, how)
        await self._fleet.remove(kept.member)
        await kept.host.stop()
        self._changed.set()

    async def _drain(self, kept: _Kept) -> None:
        logger.info("engine %s is drained", kept.member.name)
        await self._fleet.drain(kept.member, deadline_seconds=self._drain_seconds)
        if kept not in self._kept:
            return  # it has ended by itself
        self._kept.remove(kept)
        await self._fleet.remove(kept.member)
        await kept.host.stop()
        logger.info("engine %s has ended", kept.member.name)
        self._changed.set()

    def _in_background(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._others.add(task)
        task.add_done_callback(self._others.discard)
        task.add_done_callback(_complain)


def _least_useful(engines: Sequence[_Kept]) -> list[_Kept]:
    """Dead ones first, then those that serve nothing yet, then the newest."""
    rank = {EngineState.DEAD: 0, EngineState.JOINING: 1}
    newest_first = reversed(engines)
    return sorted(newest_first, key=lambda kept: rank.get(kept.member.state, 2))


def _complain(task: asyncio.Future[None]) -> None:
    """An error that nobody foresaw must not pass in silence."""
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("keeping the engines: %s: %s", type(error).__name__, error, exc_info=error)
