"""Weight updates of one builtin engine: its weights become exactly the sender's; no token comes from a mixture."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import torch
from transformers import AutoModelForCausalLM

from rltrain_trainer.engines.builtin.service import Settings, served
from rltrain_trainer.engines.contract import (
    EngineFailedError,
    EngineRefusedError,
    GenerateRequest,
    PauseMode,
    TokenSampling,
    TransferGroupAddress,
)
from rltrain_trainer.engines.http_engine import HttpEngine
from rltrain_trainer.weight_sync.buckets import Bucket, checksums
from rltrain_trainer.weight_sync.sender import WeightSender

torch.set_num_threads(1)

BUCKET_BYTES = 60_000
LONG = GenerateRequest("long", (9, 33, 17, 40, 21), TokenSampling(400, ignore_eos=True))
SHORT = GenerateRequest("short", tuple(range(3, 63)), TokenSampling(12, ignore_eos=True))


def model_of(directory: Path, seed: int | None = None) -> Any:
    """The model on disk, or one of the same shape with other weights."""
    model = AutoModelForCausalLM.from_pretrained(directory).eval()
    if seed is not None:
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def reference_logprobs(model: Any, prompt: Sequence[int], response: Sequence[int]) -> torch.Tensor:
    ids = torch.tensor([[*prompt, *response]])
    with torch.no_grad():
        logprobs = model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    return logprobs.gather(-1, ids[0, len(prompt) :, None])[:, 0]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Pair:
    """One engine and the trainer's sender."""

    engine: HttpEngine
    sender: WeightSender
    url: str

    async def join(self) -> None:
        port = free_port()
        await asyncio.gather(
            asyncio.to_thread(self.sender.join, "127.0.0.1", port, 2, 30),
            self.engine.join(TransferGroupAddress("127.0.0.1", port, 1, 2, BUCKET_BYTES)),
        )

    async def push(self, bucket: Bucket) -> None:
        await asyncio.gather(self.engine.push(bucket), asyncio.to_thread(self.sender.broadcast, bucket.index))

    async def send_all(self, model: Any) -> None:
        for bucket in self.sender.stage(iter(model.named_parameters())):
            await self.push(bucket)

    async def update(self, model: Any, version: int, *, clear_cache: bool = True) -> None:
        await self.engine.pause(PauseMode.KEEP, clear_cache=clear_cache)
        await self.engine.begin()
        await self.send_all(model)
        await self.engine.commit(version)
        await self.engine.resume()

    async def error(self, request: GenerateRequest, model: Any) -> float:
        (result,) = await self.engine.generate(request)
        expected = reference_logprobs(model, request.token_ids, result.token_ids)
        return float((torch.tensor(result.logprobs) - expected).abs().max())

    async def until_running(self) -> None:
        async with aiohttp.ClientSession() as session, asyncio.timeout(20):
            while True:
                async with session.get(f"{self.url}/load") as response:
                    if (await response.json())["running"]:
                        return
                await asyncio.sleep(0.002)


@asynccontextmanager
async def pair_of(model: Path) -> AsyncIterator[Pair]:
    settings = Settings(model=str(model), dtype="float32", max_model_len=512, transfer_timeout_seconds=30)
    async with served(settings) as server:
        pair = Pair(
            HttpEngine("engine", server.url), WeightSender(bucket_bytes=BUCKET_BYTES, backend="gloo"), server.url
        )
        try:
            yield pair
        finally:
            pair.sender.leave()
            await pair.engine.close()


async def test_an_update_gives_the_engine_the_senders_weights(tiny_model: Path) -> None:
    old, new = model_of(tiny_model), model_of(tiny_model, seed=1)
    async with pair_of(tiny_model) as pair:
        assert await pair.error(SHORT, old) < 1e-4
        assert await pair.error(SHORT, new) > 0.1  # the two models are far apart, so the next lines mean something
        await pair.join()
        await pair.update(new, 1)
        assert (await pair.engine.info()).weight_version == 1
        assert await pair.error(SHORT, new) < 1e-4
        expected = checksums(new.named_parameters(remove_duplicate=False))
        assert await pair.engine.checksums() == expected
        await pair.update(old, 2)  # the group stands: a second update needs no new one
        assert await pair.error(SHORT, old) < 1e-4


async def test_tokens_in_flight_are_sampled_from_the_weights_they_are_labelled_with(tiny_model: Path) -> None:
    models = {-1: model_of(tiny_model), 1: model_of(tiny_model, seed=1)}
    async with pair_of(tiny_model) as pair:
        await pair.join()
        in_flight = asyncio.create_task(pair.engine.generate(LONG))
        await pair.until_running()
        await pair.update(models[1], 1)
        (result,) = await in_flight
    assert [span.version for span in result.spans] == [-1, 1]
    assert (result.spans[0].start, result.spans[-1].end) == (0, 400)
    assert result.spans[0].end == result.spans[1].start
    for span in result.spans:
        expected = reference_logprobs(models[span.version], LONG.token_ids, result.token_ids)
        actual = torch.tensor(result.logprobs)
        # Recomputed keys and values: the whole prefix, old tokens included, is seen through the new weights.
        torch.testing.assert_close(actual[span.start : span.end], expected[span.start : span.end], atol=1e-4, rtol=0)


async def test_keeping_the_cache_over_an_update_is_the_trap_it_is_said_to_be(tiny_model: Path) -> None:
    new = model_of(tiny_model, seed=1)
    async with pair_of(tiny_model) as pair:
        await pair.join()
        in_flight = asyncio.create_task(pair.engine.generate(LONG))
        await pair.until_running()
        await pair.update(new, 1, clear_cache=False)
        (result,) = await in_flight
        fresh = await pair.error(SHORT, new)
    span = result.spans[1]
    expected = reference_logprobs(new, LONG.token_ids, result.token_ids)
    stale = (torch.tensor(result.logprobs) - expected)[span.start : span.end].abs().max()
    assert stale > 0.05
    assert fresh < 1e-4  # requests that come later share nothing with those in flight


async def test_an_engine_with_half_an_update_never_samples(tiny_model: Path) -> None:
    new = model_of(tiny_model, seed=1)
    async with pair_of(tiny_model) as pair:
        with pytest.raises(EngineRefusedError, match="generation is not paused"):
            await pair.engine.begin()
        await pair.engine.pause()
        with pytest.raises(EngineRefusedError, match="there is no transfer group"):
            await pair.engine.begin()
        await pair.join()
        await pair.engine.begin()
        with pytest.raises(EngineRefusedError, match="the weights are open"):
            await pair.engine.resume()
        with pytest.raises(EngineRefusedError, match="open already"):
            await pair.engine.begin()

        first, second, *_ = pair.sender.stage(iter(new.named_parameters()))
        await pair.push(first)
        waiting = asyncio.create_task(pair.engine.push(second))
        await asyncio.sleep(0.2)
        assert await pair.engine.is_live()  # a transfer that waits does not look like a dead engine
        assert (await pair.engine.info()).weight_version == -1
        pair.sender.leave()  # the trainer dies in the middle of the update
        with pytest.raises(EngineFailedError, match="broadcast of"):
            await waiting
        with pytest.raises(EngineRefusedError, match="the weights are torn"):
            await pair.engine.resume()
        with pytest.raises(EngineRefusedError, match="no weight update is open"):
            await pair.engine.commit(1)

        await pair.join()
        await pair.update(new, 1)
        assert await pair.error(SHORT, new) < 1e-4


async def test_an_update_that_lacks_parameters_is_not_committed(tiny_model: Path) -> None:
    new = model_of(tiny_model, seed=1)
    async with pair_of(tiny_model) as pair:
        await pair.join()
        await pair.engine.pause()
        await pair.engine.begin()
        *most, _ = pair.sender.stage(iter(new.named_parameters()))
        for bucket in most:
            await pair.push(bucket)
        with pytest.raises(EngineRefusedError, match=r"no values for \d+ parameters \(model\."):
            await pair.engine.commit(1)
        with pytest.raises(EngineRefusedError, match="torn"):
            await pair.engine.resume()
        await pair.update(new, 1)
        assert await pair.error(SHORT, new) < 1e-4


WRONG_BUCKETS = {
    "unknown name": ("model.layers.7.mlp.weight", (64, 64), "the model has no parameter 'model.layers.7.mlp.weight'"),
    "other shape": ("model.norm.weight", (32,), r"the model has shape \(64,\), the update \(32,\)"),
}


@pytest.mark.parametrize(("name", "shape", "message"), WRONG_BUCKETS.values(), ids=WRONG_BUCKETS.keys())
async def test_a_bucket_of_another_model_is_refused_before_it_is_received(
    tiny_model: Path, name: str, shape: tuple[int, ...], message: str
) -> None:
    async with pair_of(tiny_model) as pair:
        await pair.join()
        await pair.engine.pause()
        await pair.engine.begin()
        with pytest.raises(EngineRefusedError, match=message):
            await pair.engine.push(Bucket.from_wire(0, [name], ["float32"], [shape]))
        with pytest.raises(EngineRefusedError, match="torn"):
            await pair.engine.resume()


async def test_bfloat16_travels_to_a_bfloat16_engine(tiny_model: Path) -> None:
    new = model_of(tiny_model, seed=1).to(torch.bfloat16)
    settings = Settings(model=str(tiny_model), dtype="bfloat16", max_model_len=512)
    async with served(settings) as server:
        pair = Pair(HttpEngine("e", server.url), WeightSender(bucket_bytes=BUCKET_BYTES, backend="gloo"), server.url)
        await pair.join()
        await pair.update(new, 5)
        expected = checksums(new.named_parameters(remove_duplicate=False))
        assert await pair.engine.checksums() == expected
        pair.sender.leave()
        await pair.engine.close()
