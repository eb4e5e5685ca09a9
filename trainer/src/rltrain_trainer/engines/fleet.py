"""All engines of a run: which of them serve, where a request goes, who has died, who has come.

A request goes to the serving engine with the fewest outstanding tokens; when that engine dies or hangs the request is
sent to another, so a lost engine costs time and never a sample. Engines are let in, and let in again, only by a weight
sync (`sync.py`): a member that joins serves nothing before it has the current weights. One that is to go is drained:
it gets no new requests and no new weights, and ends when its last request has. It must not know HTTP, Ray nor what the
tokens are for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from rltrain_api.wire import EngineState, EngineStatus
from rltrain_trainer.engines.contract import (
    Engine,
    EngineFailedError,
    EnginePausedError,
    EngineUnreachableError,
    FinishReason,
    GenerateRequest,
    GenerateResult,
)

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")

RETRY_SECONDS = 0.1


class NoEngineServesError(TimeoutError):
    """A request found no engine within its deadline."""


@dataclass(eq=False)
class Member:
    """One engine and what the fleet knows of it. `gone` is set while the engine is dead.

    `pod` is where it runs, for whoever takes pods away.
    """

    engine: Engine
    pod: str | None = None
    state: EngineState = EngineState.JOINING
    weight_version: int | None = None
    outstanding: int = 0  # upper bound of tokens in requests that have not ended
    missed_probes: int = 0
    failed_updates: int = 0  # in a row
    deaths: int = 0
    draining: bool = False
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def name(self) -> str:
        """The engine's name."""
        return self.engine.name

    async def ask(self, answer: Coroutine[Any, Any, Answer]) -> Answer:
        """Await one call to the engine; EngineUnreachableError as soon as the fleet takes the engine for dead."""
        answering = asyncio.ensure_future(answer)
        gone = asyncio.ensure_future(self.gone.wait())
        try:
            await asyncio.wait({answering, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                raise EngineUnreachableError(f"engine {self.name} died before it answered")
            return answering.result()
        finally:
            answering.cancel()
            gone.cancel()


class Fleet:
    """The engines of one run. They are probed from `start` to `close`."""

    def __init__(self, engines: Iterable[Engine], *, probe_seconds: float = 1.0, probes_until_dead: int = 3) -> None:
        """An engine that misses `probes_until_dead` probes in a row, `probe_seconds` apart, is dead."""
        self._members: list[Member] = []
        self._probe_seconds = probe_seconds
        self._probes_until_dead = probes_until_dead
        self._changed = asyncio.Condition()
        self._prober: asyncio.Task[None] | None = None
        self._notifications: set[asyncio.Task[None]] = set()
        self.transfer_group: tuple[Member, ...] = ()  # whom the sender's group stands with; () when it has none
        self.weight_version: int | None = None  # of the newest weight sync
        self.sync_lock = asyncio.Lock()  # one weight sync at a time
        for engine in engines:
            self.add(engine)

    def start(self) -> None:
        """Start probing (inside a running event loop)."""
        self._prober = asyncio.create_task(self._probe_forever(), name="engine probes")

    async def close(self) -> None:
        """Stop probing and close the connections; the engines go on."""
        if self._prober is not None:
            self._prober.cancel()
            await asyncio.wait({self._prober})
        for member in self._members:
            await member.engine.close()

    @property
    def members(self) -> tuple[Member, ...]:
        """All members, dead ones included."""
        return tuple(self._members)

    @property
    def living(self) -> tuple[Member, ...]:
        """Members that are not dead and stay."""
        return tuple(m for m in self._members if m.state != EngineState.DEAD and not m.draining)

    @property
    def joining(self) -> tuple[Member, ...]:
        """Members that wait for their first weights."""
        return tuple(m for m in self._members if m.state == EngineState.JOINING and not m.draining)

    async def until_joining(self) -> None:
        """Wait until some engine waits to join."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.joining)

    def engine_statuses(self) -> list[EngineStatus]:
        """What the driver reports."""
        return [
            EngineStatus(
                name=member.name,
                state=EngineState.DRAINING if member.draining else member.state,
                weight_version=member.weight_version,
                pod=member.pod,
            )
            for member in self._members
        ]

    def add(self, engine: Engine, *, pod: str | None = None) -> Member:
        """Let an engine join; it serves after the next weight sync. ValueError when the name is taken."""
        if any(member.name == engine.name for member in self._members):
            raise ValueError(f"the fleet already has an engine named {engine.name}")
        member = Member(engine, pod)
        self._members.append(member)
        self._wake()
        return member

    async def drain(self, member: Member, *, deadline_seconds: float) -> None:
        """Give the member nothing new and wait until its requests have ended, or the deadline; `remove` it then."""
        member.draining = True
        try:
            async with asyncio.timeout(deadline_seconds), self._changed:
                await self._changed.wait_for(lambda: member.outstanding == 0)
        except TimeoutError:
            logger.warning(
                "engine %s is not drained after %.0f s: its requests go elsewhere", member.name, deadline_seconds
            )

    async def remove(self, member: Member) -> None:
        """Take a member out for good; requests that it still has go to another. A weight sync is ended first."""
        async with self.sync_lock:
            self._members.remove(member)
            self.set_state(member, EngineState.DEAD, weight_version=None)
        await member.engine.close()

    async def generate(self, request: GenerateRequest, *, deadline_seconds: float) -> tuple[GenerateResult, ...]:
        """Have the request served by some engine, by another when the first is lost.

        Raises NoEngineServesError at the deadline, and EngineRefusedError when the request itself is at fault.
        """
        try:
            async with asyncio.timeout(deadline_seconds):
                return await self._generate(request)
        except TimeoutError as error:
            states = ", ".join(f"{member.name} {member.state}" for member in self._members)
            raise NoEngineServesError(
                f"request {request.request_id} was not served within {deadline_seconds:.0f} s; engines: {states}"
            ) from error

    async def _generate(self, request: GenerateRequest) -> tuple[GenerateResult, ...]:
        avoided: Member | None = None
        while True:
            member = await self._route(avoided)
            before = member.weight_version
            try:
                results = await self._ask(member, request)
            except EnginePausedError:
                await asyncio.sleep(RETRY_SECONDS)  # paused by someone else: the fleet knows of its own pauses
            except (EngineUnreachableError, EngineFailedError) as error:
                logger.warning("request %s goes to another engine: %s", request.request_id, error)
                await self._examine(member)
                avoided = member
                await asyncio.sleep(RETRY_SECONDS)
            else:
                if all(result.finish_reason != FinishReason.ABORT for result in results):
                    if sampled_within(results, before, member.weight_version):
                        return results
                    self._has_lost_its_weights(member)
                await asyncio.sleep(RETRY_SECONDS)

    def _has_lost_its_weights(self, member: Member) -> None:
        if member.state == EngineState.SERVING:
            logger.error("engine %s does not sample from the weights it was given (restarted?)", member.name)
            self.set_state(member, EngineState.JOINING, weight_version=None)

    async def _route(self, avoided: Member | None) -> Member:
        """The serving member with the fewest outstanding tokens, another than `avoided` if there is one; may wait."""

        def serving() -> list[Member]:
            return [m for m in self._members if m.state == EngineState.SERVING and not m.draining]

        async with self._changed:
            await self._changed.wait_for(serving)
        return min(serving(), key=lambda member: (member is avoided, member.outstanding))

    async def _ask(self, member: Member, request: GenerateRequest) -> tuple[GenerateResult, ...]:
        """One engine's answer, with the request counted as outstanding meanwhile."""
        member.outstanding += request.cost
        try:
            salted = replace(request, cache_salt=str(member.weight_version))
            return await member.ask(member.engine.generate(salted))
        finally:
            member.outstanding -= request.cost
            if member.draining:
                self._wake()

    def set_state(self, member: Member, state: EngineState, *, weight_version: int | None) -> None:
        """Note what has become of a member, and wake the requests that wait for one."""
        member.state, member.weight_version = state, weight_version
        if state == EngineState.DEAD:
            member.gone.set()
        else:
            member.gone.clear()
        self._wake()

    def _wake(self) -> None:
        """Have those look again who wait for a change."""
        task = asyncio.ensure_future(self._notify())
        self._notifications.add(task)
        task.add_done_callback(self._notifications.discard)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def declare_dead(self, member: Member, why: str) -> None:
        """Take a member out: its requests go elsewhere. A probe that succeeds later lets it join anew."""
        if member.state != EngineState.DEAD:
            logger.error("engine %s is dead: %s", member.name, why)
            member.deaths += 1
            self.set_state(member, EngineState.DEAD, weight_version=None)

    async def _examine(self, member: Member) -> None:
        """After a failed request: an engine that does not even answer a probe is dead."""
        if member in self._members and not await member.engine.is_live():
            self.declare_dead(member, "a request failed and then a probe")

    async def _probe_forever(self) -> None:
        while True:
            await asyncio.sleep(self._probe_seconds)
            await asyncio.gather(*(self._probe(member) for member in self.members))

    async def _probe(self, member: Member) -> None:
        is_live = await member.engine.is_live()
        if member not in self._members:  # removed meanwhile
            return
        if is_live:
            member.missed_probes = 0
            if member.state == EngineState.DEAD:
                logger.info("engine %s answers again; it joins anew", member.name)
                self.set_state(member, EngineState.JOINING, weight_version=None)
            return
        member.missed_probes += 1
        if member.missed_probes >= self._probes_until_dead:
            self.declare_dead(member, f"{member.missed_probes} probes in a row failed")


def sampled_within(results: Iterable[GenerateResult], oldest: int | None, newest: int | None) -> bool:
    """Whether all tokens were sampled under weights that the trainer gave the engine during the request.

    An engine that was restarted between two probes answers from the weights on its disk: such samples are not ours.
    """
    if oldest is None or newest is None:
        return False
    return all(oldest <= span.version <= newest for result in results for span in result.spans)
