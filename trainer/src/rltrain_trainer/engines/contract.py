"""What the trainer asks of an inference engine, whichever one it is: token ids in, token ids and log-probabilities out.

    SERVING(v) ─pause→ PAUSED(v) ─begin→ UPDATING ─push, push, … commit(v + 1)→ PAUSED(v + 1) ─resume→ SERVING(v + 1)

An update is whole or not at all: an engine whose update failed must get a new one (leave, join, begin, every bucket,
commit) before it may be resumed. Implementations set a deadline on every call and raise the errors below; they keep no
state that the engine itself has. It must know neither HTTP nor the fleet.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from rltrain_trainer.rollout.trajectory import VersionSpan
from rltrain_trainer.weight_sync.buckets import Bucket

UNSYNCED = -1
"""The version of weights that an engine loaded by itself: it has never been given any by a trainer."""


class EngineError(Exception):
    """An engine did not do what it was asked."""


class EngineUnreachableError(EngineError):
    """No answer: the connection was refused or lost, or the deadline passed."""


class EnginePausedError(EngineError):
    """Generation is paused; the request was not taken and may be sent again after the resume."""


class EngineRefusedError(EngineError):
    """The engine answered that it will not: the request is bad, or does not fit the engine's state."""


class EngineFailedError(EngineError):
    """The engine answered that it tried and failed."""


class PauseMode(StrEnum):
    """What becomes of the requests in flight."""

    KEEP = "keep"  # they freeze and go on after the resume
    ABORT = "abort"  # they end now with finish reason "abort"
    WAIT = "wait"  # they run to their end before the pause begins


class FinishReason(StrEnum):
    """Why a response ended."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"


@dataclass(frozen=True)
class TokenSampling:
    """How one response is sampled, in the engines' own terms (vLLM's SamplingParams fields of the same names)."""

    max_tokens: int
    temperature: float = 1.0  # 0: greedy
    top_p: float = 1.0
    top_k: int = -1  # -1: all tokens
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False


@dataclass(frozen=True)
class GenerateRequest:
    """`samples` independent responses to one prompt.

    `cache_salt` keeps prefix caches apart: the weight version belongs in it.
    """

    request_id: str
    token_ids: tuple[int, ...]
    sampling: TokenSampling
    samples: int = 1
    cache_salt: str | None = None

    @property
    def cost(self) -> int:
        """Upper bound of the tokens this request occupies."""
        return self.samples * (len(self.token_ids) + self.sampling.max_tokens)


@dataclass(frozen=True)
class GenerateResult:
    """One response. `logprobs` are natural, of the sampled tokens, after temperature and truncation (greedy: at T=1).

    `token_ids` holds every sampled token, the end-of-sequence token included. The spans cover all of it, in order.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason
    spans: tuple[VersionSpan, ...]


@dataclass(frozen=True)
class EngineInfo:
    """What an engine says of itself."""

    software: str
    model: str
    weight_version: int
    world_size: int  # ranks it needs in a transfer group


@dataclass(frozen=True)
class TransferGroupAddress:
    """Where a transfer group meets, and which of its ranks are this engine's: `rank_offset` and those that follow."""

    address: str
    port: int
    rank_offset: int
    world_size: int
    bucket_bytes: int  # no bucket is larger, unless it is a single tensor


@dataclass(frozen=True)
class Deadlines:
    """Seconds that each kind of call may take; a push has those of the slowest link worth having on top."""

    probe: float = 2
    control: float = 30
    drain: float = 600
    join: float = 90
    commit: float = 120
    generate: float = 900
    push: float = 30
    slowest_bytes_per_second: float = 50e6

    def for_bucket(self, bucket: Bucket) -> float:
        """The deadline of one push."""
        return self.push + bucket.nbytes / self.slowest_bytes_per_second


class Engine(Protocol):
    """One inference engine. Every method raises EngineUnreachableError when its deadline passes."""

    @property
    def name(self) -> str:
        """Unique in the fleet; for people."""
        ...

    async def info(self) -> EngineInfo:
        """Identity and weight version. Unlike `is_live` it needs the engine's worker to be free."""
        ...

    async def is_live(self) -> bool:
        """Whether the server answers; True while paused or in the middle of a transfer."""
        ...

    async def join(self, group: TransferGroupAddress) -> None:
        """Enter a transfer group; returns when all its members have come."""
        ...

    async def leave(self) -> None:
        """Give up the transfer group. An update that is open is lost. No error when there is no group."""
        ...

    async def pause(self, mode: PauseMode = PauseMode.KEEP, *, clear_cache: bool = True) -> None:
        """Stop generating. `clear_cache`: what was computed under the old weights is computed anew after the resume."""
        ...

    async def resume(self) -> None:
        """Go on generating; refused while an update is open or after one that failed."""
        ...

    async def begin(self) -> None:
        """Open an update; the engine must be paused."""
        ...

    async def push(self, bucket: Bucket) -> None:
        """Receive one bucket from the transfer group; the sender broadcasts it at the same time."""
        ...

    async def commit(self, version: int) -> None:
        """Close the update: from now on tokens are sampled under `version`. Refused when parameters are missing."""
        ...

    async def checksums(self) -> dict[str, str]:
        """SHA-256 of each parameter's bytes, by the engine's own parameter names."""
        ...

    async def generate(self, request: GenerateRequest) -> tuple[GenerateResult, ...]:
        """Sample `request.samples` responses. Raises EnginePausedError when the engine takes no requests now."""
        ...

    async def close(self) -> None:
        """Release the connection; the engine itself goes on."""
        ...
