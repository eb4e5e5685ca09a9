"""Engines and a sender that do what a test's script says, and refuse what real ones would."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from rltrain_trainer.engines.contract import (
    EngineError,
    EngineInfo,
    EngineRefusedError,
    EngineUnreachableError,
    FinishReason,
    GenerateRequest,
    GenerateResult,
    PauseMode,
    TransferGroupAddress,
)
from rltrain_trainer.rollout.trajectory import VersionSpan
from rltrain_trainer.weight_sync.buckets import Bucket, ParameterSpec


@dataclass
class ScriptedEngine:
    """Does what the contract says, but for the failures in `script`: method name -> errors of its next calls.

    It has the states of a real engine: what may not follow what is refused.
    """

    name: str
    script: dict[str, list[EngineError]] = field(default_factory=dict)
    live: bool = True
    version: int = -1
    state: str = "serving"  # serving | paused | updating | torn
    grouped: bool = False
    calls: list[str] = field(default_factory=list)
    answers: list[GenerateResult] = field(default_factory=list)  # instead of the usual one
    hold: asyncio.Event | None = None  # generate waits for it
    salts: list[str | None] = field(default_factory=list)

    def _called(self, method: str) -> None:
        self.calls.append(method)
        if self.script.get(method):
            error = self.script[method].pop(0)
            self.live = self.live and not isinstance(error, EngineUnreachableError)
            self.state = "torn" if self.state == "updating" else self.state
            raise error
        if not self.live:
            raise EngineUnreachableError(f"{self.name} is gone")

    async def info(self) -> EngineInfo:
        self._called("info")
        return EngineInfo("scripted", "m", self.version, 1)

    async def is_live(self) -> bool:
        return self.live

    def _only_from(self, *states: str) -> None:
        if self.state not in states:
            raise EngineRefusedError(f"{self.name} is {self.state}")

    async def join(self, group: TransferGroupAddress) -> None:
        self._called("join")
        self.grouped = True

    async def leave(self) -> None:
        self._called("leave")
        self.grouped = False
        self.state = "torn" if self.state == "updating" else self.state

    async def pause(self, mode: PauseMode = PauseMode.KEEP, *, clear_cache: bool = True) -> None:
        self._called("pause")
        self.state = "paused" if self.state == "serving" else self.state

    async def resume(self) -> None:
        self._called("resume")
        self._only_from("paused", "serving")
        self.state = "serving"

    async def begin(self) -> None:
        self._called("begin")
        self._only_from("paused", "torn")
        if not self.grouped:
            raise EngineRefusedError(f"{self.name} is in no transfer group")
        self.state = "updating"

    async def push(self, bucket: Bucket) -> None:
        self._called("push")
        self._only_from("updating")

    async def commit(self, version: int) -> None:
        self._called("commit")
        self._only_from("updating")
        self.version, self.state = version, "paused"

    async def checksums(self) -> dict[str, str]:
        return {}

    async def generate(self, request: GenerateRequest) -> tuple[GenerateResult, ...]:
        self.salts.append(request.cache_salt)
        self._called("generate")
        if self.hold is not None:
            await self.hold.wait()
        return (self.answers.pop(0) if self.answers else answer(self.version),)

    async def close(self) -> None:
        self._called("close")


@dataclass
class ScriptedSender:
    """A sender whose broadcasts succeed, but for the errors in `script`."""

    script: list[Exception] = field(default_factory=list)
    buckets: Sequence[Bucket] = (
        Bucket(0, (ParameterSpec("a", (2,), "float32"),)),
        Bucket(1, (ParameterSpec("b", (3,), "float32"),)),
    )
    joined: list[int] = field(default_factory=list)  # world sizes
    staged: int = 0

    async def stage(self) -> None:
        self.staged += 1

    async def address(self) -> str:
        return "127.0.0.1"

    async def free_port(self) -> int:
        return 1

    async def join_engines(self, address: str, port: int, world_size: int, timeout_seconds: float) -> None:
        self.joined.append(world_size)

    async def leave_engines(self) -> None:
        pass

    async def broadcast(self, bucket_index: int) -> None:
        if self.script:
            raise self.script.pop(0)


def answer(version: int, finish: FinishReason = FinishReason.STOP) -> GenerateResult:
    return GenerateResult((5,), (-0.5,), finish, (VersionSpan(version, 0, 1),))
