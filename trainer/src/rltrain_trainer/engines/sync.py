"""A weight update over the whole fleet, as the driver runs it: stage, pause, begin, push, commit, resume.

    stage (engines go on generating) ─► form group ─► pause ─► begin ─► push bucket 0 … n ─► commit ─► resume
                                            ▲                              │ an engine is lost
                                            └── group of the survivors ◄───┘ (all still paused, same version, bucket 0)

The truth about a transfer is what the engines answer, never that the sender's broadcast returned. It must not know Ray:
the driver passes a handle on the sender.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from rltrain_api.wire import EngineState
from rltrain_trainer.engines.contract import Engine, EngineError, TransferGroupAddress
from rltrain_trainer.engines.fleet import Fleet, Member
from rltrain_trainer.weight_sync.buckets import Bucket
from rltrain_trainer.weight_sync.group import TransferError

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

ADMIT_SECONDS = 1.0
JOIN_SECONDS = 60.0
FAILED_UPDATES_UNTIL_DEAD = 2
ATTEMPTS_PER_ENGINE = 3


class WeightSyncError(RuntimeError):
    """No engine took the weights."""


class SenderHandle(Protocol):
    """The sender on trainer rank 0, as the driver reaches it. A lost transfer raises TransferError."""

    @property
    def buckets(self) -> Sequence[Bucket]:
        """What the newest `stage` packed."""
        ...

    async def stage(self) -> None:
        """Gather the trainer's current weights and pack them."""
        ...

    async def address(self) -> str:
        """Where engines reach the sender."""
        ...

    async def free_port(self) -> int:
        """A port for the rendezvous, on the sender's node."""
        ...

    async def join_engines(self, address: str, port: int, world_size: int, timeout_seconds: float) -> None:
        """Listen there and form the transfer group."""
        ...

    async def leave_engines(self) -> None:
        """End the transfer group."""
        ...

    async def broadcast(self, bucket_index: int) -> None:
        """Send one staged bucket."""
        ...


@dataclass(frozen=True)
class SyncReport:
    """What one weight sync took."""

    version: int
    engines: int  # that have the version now
    lost: tuple[str, ...]  # engines that were alive when it began and are not any more
    attempts: int
    nbytes: int
    stage_seconds: float
    pause_seconds: float  # from the first pause to the last resume
    transfer_seconds: float  # begin to commit, of the last attempt

    def metrics(self) -> dict[str, float]:
        """For the tracker."""
        rate = self.nbytes / self.transfer_seconds / 1e9 if self.transfer_seconds else 0.0
        return {
            "sync/stage_seconds": self.stage_seconds,
            "sync/pause_seconds": self.pause_seconds,
            "sync/transfer_seconds": self.transfer_seconds,
            "sync/gigabytes_per_second": rate,
            "sync/bytes": float(self.nbytes),
            "sync/engines": float(self.engines),
            "sync/lost_engines": float(len(self.lost)),
        }


class _AttemptFailedError(Exception):
    """One attempt did not reach all its members; the fleet has been told which are dead."""


async def sync_weights(fleet: Fleet, sender: SenderHandle, version: int) -> SyncReport:
    """Give every living engine the trainer's current weights as `version`; engines lost on the way do not stop it.

    Raises WeightSyncError when no engine is left that has them.
    """
    async with fleet.sync_lock:
        started = time.monotonic()
        await sender.stage()
        staged = time.monotonic() - started
        report = await _update_all(fleet, sender, version, fleet.living, staged)
        fleet.weight_version = version
        return report


async def admit_joining(fleet: Fleet, sender: SenderHandle) -> SyncReport | None:
    """Give the engines that wait to join the weights of the newest sync; the others are not disturbed.

    None when nobody waits or there has been no sync yet. Raises WeightSyncError when none of them took the weights.
    """
    async with fleet.sync_lock:
        if fleet.weight_version is None or not fleet.joining:
            return None
        return await _update_all(fleet, sender, fleet.weight_version, fleet.joining, 0.0)


async def admit_during(fleet: Fleet, sender: SenderHandle, rollouts: Coroutine[Any, Any, Result]) -> Result:
    """Run `rollouts` to their end and let in engines that come back meanwhile; returns what the rollouts return.

    Only rollouts leave the sender's ranks idle: while they train, an engine's half of a transfer would wait for rank 0
    until its deadline. An admission that has begun is finished before this returns. Engines that come at any other time
    get their weights with the next sync.
    """
    running = asyncio.ensure_future(rollouts)
    try:
        while not running.done():
            coming = asyncio.ensure_future(fleet.until_joining())
            await asyncio.wait({running, coming}, return_when=asyncio.FIRST_COMPLETED)
            coming.cancel()
            if running.done():
                break
            try:
                await admit_joining(fleet, sender)
            except WeightSyncError as error:
                logger.error("an engine could not be admitted: %s", error)
            await asyncio.wait({running}, timeout=ADMIT_SECONDS)
        return await running
    finally:
        running.cancel()


async def _update_all(
    fleet: Fleet, sender: SenderHandle, version: int, wanted: Sequence[Member], stage_seconds: float
) -> SyncReport:
    """Attempt after attempt until every wanted engine has committed or died."""
    committed: set[Member] = set()
    deaths = {member: member.deaths for member in wanted}
    attempts, paused_at, transfer = 0, None, 0.0

    # An engine that died in this sync and answers again has to wait for the next: it must not be tried for ever.
    def alive(member: Member) -> bool:
        return member.state != EngineState.DEAD and member.deaths == deaths[member]

    while pending := tuple(member for member in wanted if member not in committed and alive(member)):
        attempts += 1
        if attempts > ATTEMPTS_PER_ENGINE * len(wanted):
            names = ", ".join(member.name for member in pending)
            raise WeightSyncError(f"weight version {version} did not reach {names} in {attempts - 1} attempts")
        started = time.monotonic()
        try:
            if fleet.transfer_group != pending:
                await _form_group(fleet, sender, pending)
            paused_at = paused_at or time.monotonic()
            started = time.monotonic()
            await _update(fleet, sender, version, pending, committed)
        except _AttemptFailedError as error:
            logger.warning("weight update %d, attempt %d: %s", version, attempts, error)
            await _dissolve_group(fleet, sender, pending)
        transfer = time.monotonic() - started
    await _resume(fleet, version, [member for member in committed if alive(member)])
    lost = tuple(member.name for member in wanted if not alive(member))
    if wanted and len(lost) == len(wanted):
        raise WeightSyncError(f"no engine took weight version {version}; lost: {', '.join(lost)}")
    return SyncReport(
        version=version,
        engines=len(wanted) - len(lost),
        lost=lost,
        attempts=attempts,
        nbytes=sum(bucket.nbytes for bucket in sender.buckets),
        stage_seconds=stage_seconds,
        pause_seconds=time.monotonic() - paused_at if paused_at is not None else 0.0,
        transfer_seconds=transfer,
    )


async def _form_group(fleet: Fleet, sender: SenderHandle, members: tuple[Member, ...]) -> None:
    """A transfer group of the sender and these engines, in this order; each engine at its own ranks."""
    await _dissolve_group(fleet, sender, members)
    infos = dict(zip(members, await _on_all(fleet, members, lambda engine: engine.info()), strict=True))
    address, port = await sender.address(), await sender.free_port()
    world_size = 1 + sum(info.world_size for info in infos.values())
    largest = max((bucket.nbytes for bucket in sender.buckets), default=0)
    joins: dict[Member, Coroutine[Any, Any, None]] = {}
    offset = 1
    for member, info in infos.items():
        joins[member] = member.engine.join(TransferGroupAddress(address, port, offset, world_size, largest))
        offset += info.world_size
    await _together(fleet, sender, sender.join_engines(address, port, world_size, JOIN_SECONDS), joins)
    fleet.transfer_group = members


async def _update(
    fleet: Fleet, sender: SenderHandle, version: int, members: tuple[Member, ...], committed: set[Member]
) -> None:
    """One attempt over one group; adds those that finished it to `committed`."""
    await _on_all(fleet, members, lambda engine: engine.pause())
    for member in members:
        fleet.set_state(member, EngineState.PAUSED, weight_version=member.weight_version)
    await _on_all(fleet, members, lambda engine: engine.begin())
    for member in members:
        fleet.set_state(member, EngineState.UPDATING, weight_version=member.weight_version)
    for bucket in sender.buckets:
        pushes = {member: member.engine.push(bucket) for member in members}
        await _together(fleet, sender, sender.broadcast(bucket.index), pushes)

    async def commit(engine: Engine) -> None:
        await engine.commit(version)

    def note(member: Member) -> None:
        committed.add(member)
        member.failed_updates = 0
        # The old version stays with it until the resume: no token has been sampled under the new one yet.
        fleet.set_state(member, EngineState.PAUSED, weight_version=member.weight_version)

    await _on_all(fleet, members, commit, note)


async def _resume(fleet: Fleet, version: int, committed: Iterable[Member]) -> None:
    """Let the engines that have the version go on; one that will not is dead."""

    async def resume(member: Member) -> None:
        # Noted before the call: tokens under the new version may arrive before its answer does.
        oldest, member.weight_version = member.weight_version, version
        try:
            await member.engine.resume()
        except EngineError as error:
            member.weight_version = oldest
            fleet.declare_dead(member, f"it did not resume: {error}")
        else:
            if member.state != EngineState.DEAD:  # a probe may have declared it so meanwhile
                fleet.set_state(member, EngineState.SERVING, weight_version=version)

    await asyncio.gather(*(resume(member) for member in committed))


async def _on_all(
    fleet: Fleet,
    members: Sequence[Member],
    call: Callable[[Engine], Coroutine[Any, Any, Any]],
    note: Callable[[Member], None] = lambda _: None,
) -> list[Any]:
    """Call every engine at once, `note` those that succeed; _AttemptFailedError when some did not."""

    async def one(member: Member) -> Any:
        answer = await member.ask(call(member.engine))
        note(member)
        return answer

    tasks = {member: asyncio.ensure_future(one(member)) for member in members}
    await asyncio.wait(tasks.values())
    await _judge(fleet, tasks)
    return [task.result() for task in tasks.values()]


async def _together(
    fleet: Fleet,
    sender: SenderHandle,
    sending: Coroutine[Any, Any, None],
    receiving: Mapping[Member, Coroutine[Any, Any, None]],
) -> None:
    """Run the sender's and the engines' halves of one collective; after the first failure the group is ended.

    Raises _AttemptFailedError when an engine or the transfer failed; other errors of the sender (its process died)
    pass through.
    """
    sender_task = asyncio.ensure_future(sending)
    tasks = {member: asyncio.ensure_future(member.ask(half)) for member, half in receiving.items()}
    everyone = {sender_task, *tasks.values()}
    _, waiting = await asyncio.wait(everyone, return_when=asyncio.FIRST_EXCEPTION)
    if waiting:
        await sender.leave_engines()  # whoever still waits in the collective fails now instead of at its time-out
        await asyncio.wait(waiting)
    sender_error = sender_task.exception()
    if sender_error is not None and not isinstance(sender_error, TransferError):
        for task in tasks.values():
            task.exception()  # looked at, so that asyncio does not report it as forgotten
        raise sender_error
    await _judge(fleet, tasks)
    if sender_error is not None:
        raise _AttemptFailedError(str(sender_error))


async def _judge(fleet: Fleet, tasks: Mapping[Member, asyncio.Future[Any]]) -> None:
    """Tell apart engines that are at fault from those that only were in the same group; raise if any call failed.

    An engine is dead when it does not answer now, or when it has failed a second time in a row.
    """
    errors = {member: error for member, task in tasks.items() if (error := task.exception()) is not None}
    for error in errors.values():
        if not isinstance(error, EngineError):
            raise error
    if not errors:
        return
    answers = await asyncio.gather(*(member.engine.is_live() for member in errors))
    silent = [member for member, answers_now in zip(errors, answers, strict=True) if not answers_now]
    for member in silent:
        fleet.declare_dead(member, str(errors[member]))
    if not silent:  # nobody else can be blamed
        for member, error in errors.items():
            member.failed_updates += 1
            if member.failed_updates >= FAILED_UPDATES_UNTIL_DEAD:
                fleet.declare_dead(member, f"{member.failed_updates} weight updates failed: {error}")
    raise _AttemptFailedError("; ".join(str(error) for error in errors.values()))


async def _dissolve_group(fleet: Fleet, sender: SenderHandle, members: Sequence[Member]) -> None:
    """End the transfer group on both sides; engines that have none do not mind, dead ones cannot."""
    fleet.transfer_group = ()
    await sender.leave_engines()
    living = [member for member in members if member.state != EngineState.DEAD]
    results = await asyncio.gather(*(member.engine.leave() for member in living), return_exceptions=True)
    for member, result in zip(living, results, strict=True):
        if isinstance(result, EngineError):
            fleet.declare_dead(member, f"it did not leave its transfer group: {result}")
        elif isinstance(result, BaseException):
            raise result
