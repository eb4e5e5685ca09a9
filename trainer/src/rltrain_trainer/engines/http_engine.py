"""An engine behind vLLM's HTTP interface (0.33): the builtin engine, which serves the same paths, and vLLM itself.

Each method is one request with a deadline. Statuses become the contract's errors: 503 says paused, any other refusal
carries the engine's own words. It must not know what the trainer does with the answers, nor keep state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp

from rltrain_trainer.engines.contract import (
    UNSYNCED,
    Deadlines,
    EngineError,
    EngineFailedError,
    EngineInfo,
    EnginePausedError,
    EngineRefusedError,
    EngineUnreachableError,
    FinishReason,
    GenerateRequest,
    GenerateResult,
    PauseMode,
    TokenSampling,
    TransferGroupAddress,
)
from rltrain_trainer.rollout.trajectory import VersionSpan
from rltrain_trainer.weight_sync.buckets import Bucket

MAX_ERROR_LENGTH = 500
CONNECT_SECONDS = 5.0


class HttpEngine:
    """Client of one engine. Make it inside a running event loop; `close` it there."""

    def __init__(self, name: str, url: str, *, deadlines: Deadlines | None = None) -> None:
        self._name = name
        self._url = url.rstrip("/")
        self._deadlines = deadlines or Deadlines()
        # Data and control plane share the session; without a limit, hundreds of generations cannot hold up a pause.
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))

    @property
    def name(self) -> str:
        """Unique in the fleet; for people."""
        return self._name

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def info(self) -> EngineInfo:
        """Ask who it is, which weights it has and how many ranks it needs."""
        limit = self._deadlines.control
        version = await self._call("GET", "/version", limit)
        weights = await self._call("GET", "/weight_info", limit)
        world = await self._call("GET", "/get_world_size", limit, query={"include_dp": "true"})
        models = await self._call("GET", "/v1/models", limit)
        return EngineInfo(
            software=str(version.get("version", "")),
            model=str(models["data"][0]["id"]),
            weight_version=parse_version(weights["weight_version"]),
            world_size=int(world["world_size"]),
        )

    async def is_live(self) -> bool:
        """Whether /health answers 200 within the probe's deadline."""
        try:
            await self._call("GET", "/health", self._deadlines.probe)
        except EngineError:
            return False
        return True

    async def join(self, group: TransferGroupAddress) -> None:
        """Enter a transfer group."""
        init_info = {
            "master_address": group.address,
            "master_port": group.port,
            "rank_offset": group.rank_offset,
            "world_size": group.world_size,
            "packed": True,
            "packed_buffer_size_bytes": group.bucket_bytes,
        }
        await self._call("POST", "/init_weight_transfer_engine", self._deadlines.join, body={"init_info": init_info})

    async def leave(self) -> None:
        """Give up the transfer group."""
        await self._call("POST", "/shutdown_weight_transfer_engine", self._deadlines.control)

    async def pause(self, mode: PauseMode = PauseMode.KEEP, *, clear_cache: bool = True) -> None:
        """Stop generating."""
        limit = self._deadlines.drain if mode == PauseMode.WAIT else self._deadlines.control
        query = {"mode": mode.value, "clear_cache": "true" if clear_cache else "false"}
        await self._call("POST", "/pause", limit, query=query)

    async def resume(self) -> None:
        """Go on generating."""
        await self._call("POST", "/resume", self._deadlines.control)

    async def begin(self) -> None:
        """Open an update."""
        await self._call("POST", "/start_weight_update", self._deadlines.control)

    async def push(self, bucket: Bucket) -> None:
        """Receive one bucket."""
        update_info = {
            "names": [spec.name for spec in bucket.parameters],
            "dtype_names": [spec.dtype for spec in bucket.parameters],
            "shapes": [list(spec.shape) for spec in bucket.parameters],
        }
        limit = self._deadlines.for_bucket(bucket)
        await self._call("POST", "/update_weights", limit, body={"update_info": update_info})

    async def commit(self, version: int) -> None:
        """Close the update under `version`."""
        body = {"weight_version": str(version)}
        await self._call("POST", "/finish_weight_update", self._deadlines.commit, body=body)

    async def checksums(self) -> dict[str, str]:
        """SHA-256 of each parameter."""
        answer = await self._call("POST", "/weight_checker", self._deadlines.commit, body={"action": "checksum"})
        return {str(name): str(value) for name, value in answer["checksums"].items()}

    async def generate(self, request: GenerateRequest) -> tuple[GenerateResult, ...]:
        """Sample responses, token ids in and out."""
        body = {
            "request_id": request.request_id,
            "token_ids": list(request.token_ids),
            "sampling_params": sampling_body(request.sampling, request.samples),
            "output_mode": "tokens",
        }
        if request.cache_salt is not None:
            body["cache_salt"] = request.cache_salt
        answer = await self._call("POST", "/inference/v1/generate", self._deadlines.generate, body=body)
        choices = sorted(answer["choices"], key=lambda choice: int(choice["index"]))
        return tuple(parse_choice(choice) for choice in choices)

    async def _call(
        self,
        method: str,
        path: str,
        limit_seconds: float,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """One request; the JSON object of the answer, {} where it has no body."""
        timeout = aiohttp.ClientTimeout(total=limit_seconds, sock_connect=min(limit_seconds, CONNECT_SECONDS))
        try:
            async with self._session.request(
                method, self._url + path, params=query, json=body, timeout=timeout
            ) as response:
                if response.status >= 400:
                    self._refuse(path, response.status, await response.text())
                raw = await response.read()
                answer = await response.json(content_type=None) if raw else {}
        except TimeoutError as error:
            raise EngineUnreachableError(
                f"engine {self._name}: {path} gave no answer within {limit_seconds:.0f} s"
            ) from error
        except aiohttp.ClientError as error:
            raise EngineUnreachableError(f"engine {self._name}: {path}: {type(error).__name__}: {error}") from error
        return answer if isinstance(answer, dict) else {}

    def _refuse(self, path: str, status: int, text: str) -> None:
        message = f"engine {self._name}: {path} answered {status}: {text[:MAX_ERROR_LENGTH]}"
        if status == 503 and path != "/health":
            raise EnginePausedError(message)
        raise EngineFailedError(message) if status >= 500 else EngineRefusedError(message)


def parse_version(text: object) -> int:
    """The weight version of an answer; UNSYNCED for weights that no trainer has numbered (vLLM says "default")."""
    try:
        return int(str(text))
    except ValueError:
        return UNSYNCED


def sampling_body(sampling: TokenSampling, samples: int) -> dict[str, Any]:
    """`sampling_params` of a generate request; `logprobs` 0 asks for the sampled token's alone."""
    body: dict[str, Any] = {
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "repetition_penalty": sampling.repetition_penalty,
        "n": samples,
        "logprobs": 0,
        "stop_token_ids": list(sampling.stop_token_ids),
        "ignore_eos": sampling.ignore_eos,
    }
    if sampling.seed is not None:
        body["seed"] = sampling.seed
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    return body


def parse_choice(choice: Mapping[str, Any]) -> GenerateResult:
    """One choice of a generate answer."""
    content: Sequence[Mapping[str, Any]] = choice["logprobs"]["content"]
    spans = choice.get("weight_versions") or []
    return GenerateResult(
        token_ids=tuple(choice["token_ids"]),
        logprobs=tuple(float(entry["logprob"]) for entry in content),
        finish_reason=FinishReason(choice["finish_reason"]),
        spans=tuple(
            VersionSpan(parse_version(span["version"]), int(span["start"]), int(span["end"])) for span in spans
        ),
    )
