"""The builtin engine over HTTP: what it samples is what transformers would, whatever else is in the batch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, MistralConfig

from rltrain_trainer.engines.builtin.protocol import Model, make_sequences
from rltrain_trainer.engines.builtin.runner import ModelRunner, refuse_unsupported
from rltrain_trainer.engines.builtin.scheduler import Scheduler
from rltrain_trainer.engines.builtin.service import Settings, served
from rltrain_trainer.engines.builtin.weights import WeightReceiver
from rltrain_trainer.engines.builtin.worker import EngineStoppedError, Worker
from rltrain_trainer.engines.contract import (
    UNSYNCED,
    EnginePausedError,
    EngineRefusedError,
    FinishReason,
    GenerateRequest,
    GenerateResult,
    PauseMode,
    TokenSampling,
)
from rltrain_trainer.engines.http_engine import HttpEngine
from rltrain_trainer.rollout.trajectory import VersionSpan

torch.set_num_threads(1)

EOS = 2
PROMPT = (9, 33, 17, 40, 21)
FOREVER = TokenSampling(400, ignore_eos=True)


@asynccontextmanager
async def engine_of(model: Path, **settings: Any) -> AsyncIterator[HttpEngine]:
    started = Settings(model=str(model), dtype="float32", **{"max_model_len": 512, **settings})
    async with served(started) as server:
        engine = HttpEngine("engine", server.url)
        try:
            yield engine
        finally:
            await engine.close()


def prompt_of(length: int, seed: int) -> tuple[int, ...]:
    return tuple(torch.randint(3, 100, (length,), generator=torch.Generator().manual_seed(seed)).tolist())


def reference_logprobs(model: Any, prompt: Sequence[int], response: Sequence[int], temperature: float) -> torch.Tensor:
    """Log-probabilities of the response by one plain forward pass of transformers."""
    ids = torch.tensor([[*prompt, *response]])
    with torch.no_grad():
        logits = model(ids).logits[0, len(prompt) - 1 : -1].float() / temperature
    return logits.log_softmax(-1).gather(-1, ids[0, len(prompt) :, None])[:, 0]


def assert_logprobs(model: Any, request: GenerateRequest, result: GenerateResult) -> None:
    expected = reference_logprobs(model, request.token_ids, result.token_ids, request.sampling.temperature or 1.0)
    torch.testing.assert_close(torch.tensor(result.logprobs), expected, atol=1e-4, rtol=0)


async def until_running(url: str, count: int = 1) -> None:
    async with aiohttp.ClientSession() as session, asyncio.timeout(20):
        while True:
            async with session.get(f"{url}/load") as response:
                if (await response.json())["running"] >= count:
                    return
            await asyncio.sleep(0.002)


async def test_logprobs_equal_transformers_whatever_shares_the_batch(tiny_model: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    requests = [
        GenerateRequest(
            str(index),
            prompt_of(3 + 5 * index % 41, index),
            TokenSampling(1 + 7 * index % 30, temperature=(0.0, 0.5, 1.0, 1.3)[index % 4], ignore_eos=index % 2 == 0),
            samples=1 + index % 3,
        )
        for index in range(16)
    ]
    async with engine_of(tiny_model, max_num_seqs=5) as engine:  # fewer slots than sequences: slots are used again
        answers = await asyncio.gather(*(engine.generate(request) for request in requests))
    for request, results in zip(requests, answers, strict=True):
        assert len(results) == request.samples
        for result in results:
            assert_logprobs(model, request, result)
            length = len(result.token_ids)
            assert result.spans == (VersionSpan(UNSYNCED, 0, length),)
            ended = not request.sampling.ignore_eos and result.token_ids[-1] == EOS
            assert result.finish_reason == (FinishReason.STOP if ended else FinishReason.LENGTH)
            assert ended or length == request.sampling.max_tokens


async def test_greedy_tokens_equal_transformers_generate(tiny_model: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    prompt = prompt_of(12, 1)
    expected = model.generate(torch.tensor([prompt]), max_new_tokens=24, min_new_tokens=24, do_sample=False)[0, 12:]
    async with engine_of(tiny_model) as engine:
        (result,) = await engine.generate(
            GenerateRequest("g", prompt, TokenSampling(24, temperature=0, ignore_eos=True))
        )
    assert list(result.token_ids) == expected.tolist()


async def test_grouped_query_llama_is_served_too(tiny_model: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=2,
    )
    model = LlamaForCausalLM(config).eval()
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path)
    requests = [GenerateRequest(str(n), prompt_of(n, n), TokenSampling(10, ignore_eos=True)) for n in (3, 9, 4)]
    async with engine_of(tmp_path) as engine:
        for request, (result,) in zip(requests, await asyncio.gather(*map(engine.generate, requests)), strict=True):
            assert_logprobs(model, request, result)


def test_models_that_would_be_served_wrongly_are_refused() -> None:
    windowed = LlamaForCausalLM(
        LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    )
    refuse_unsupported(windowed, 64)
    with pytest.raises(ValueError, match=r"--max-model-len 4096 is more than the model's 2048 positions"):
        refuse_unsupported(windowed, 4096)
    windowed.config = MistralConfig(sliding_window=32)
    refuse_unsupported(windowed, 32)
    with pytest.raises(ValueError, match="mistral: layers of kind"):
        refuse_unsupported(windowed, 64)


async def test_a_seed_gives_the_same_samples_alone_and_in_company(tiny_model: Path) -> None:
    seeded = GenerateRequest("seeded", PROMPT, TokenSampling(20, seed=11, ignore_eos=True), samples=3)
    others = [GenerateRequest(str(n), prompt_of(4 + n, n), TokenSampling(30, ignore_eos=True)) for n in range(6)]
    async with engine_of(tiny_model) as engine:
        alone = await engine.generate(seeded)
        first, *_ = await asyncio.gather(
            engine.generate(replace(seeded, request_id="again")), *map(engine.generate, others)
        )
        other_seed = await engine.generate(replace(seeded, sampling=replace(seeded.sampling, seed=12)))
    assert [result.token_ids for result in first] == [result.token_ids for result in alone]
    assert len({result.token_ids for result in alone}) == 3
    assert not {result.token_ids for result in other_seed} & {result.token_ids for result in alone}


async def test_what_ends_a_response(tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    free = TokenSampling(60, seed=4, ignore_eos=True)
    async with engine_of(tiny_model, max_model_len=64) as engine:

        async def run(sampling: TokenSampling) -> GenerateResult:
            (result,) = await engine.generate(GenerateRequest("s", PROMPT, sampling))
            return result

        unlimited = await run(free)
        tokens = unlimited.token_ids
        # Positions end before max_tokens does: 64 of them, 5 for the prompt.
        assert (len(tokens), unlimited.finish_reason) == (59, FinishReason.LENGTH)
        by_id = await run(replace(free, stop_token_ids=(tokens[7],)))
        assert by_id.token_ids == tokens[: tokens.index(tokens[7]) + 1]
        assert by_id.finish_reason == FinishReason.STOP
        word = tokenizer.decode(tokens[10:13], skip_special_tokens=True)
        text = tokenizer.decode(tokens, skip_special_tokens=True)
        by_string = await run(replace(free, stop=("never seen", word)))
        ended = tokenizer.decode(by_string.token_ids, skip_special_tokens=True)
        assert ended == text[: text.index(word) + len(word)]
        assert by_string.finish_reason == FinishReason.STOP
        assert (await run(replace(free, max_tokens=3))).token_ids == tokens[:3]


@dataclass(frozen=True)
class BadRequest:
    path: str
    body: dict[str, Any]
    message: str


GENERATE = "/inference/v1/generate"
BAD_REQUESTS = {
    "empty prompt": BadRequest(GENERATE, {"token_ids": []}, "the prompt is empty"),
    "text for ids": BadRequest(GENERATE, {"token_ids": "abc"}, "token_ids must be a list"),
    "long prompt": BadRequest(GENERATE, {"token_ids": [5] * 512}, "the prompt has 512 tokens"),
    "foreign token": BadRequest(GENERATE, {"token_ids": [5, 128]}, "token id 128 is not in the model's vocabulary"),
    "streaming": BadRequest(GENERATE, {"token_ids": [5], "stream": True}, "stream=True is not supported"),
    "unknown parameter": BadRequest(
        GENERATE,
        {"token_ids": [5], "sampling_params": {"logit_bias": {}}},
        "not supported by the builtin engine: logit_bias",
    ),
    "bad temperature": BadRequest(
        GENERATE, {"token_ids": [5], "sampling_params": {"temperature": -1}}, "temperature must be between"
    ),
    "fractional count": BadRequest(GENERATE, {"token_ids": [5], "sampling_params": {"n": 1.5}}, "n must be a whole"),
    "other model": BadRequest("/v1/completions", {"model": "x", "prompt": "a"}, "model 'x' is not served here"),
    "pause mode": BadRequest("/pause?mode=stop", {}, "mode is one of keep, abort, wait"),
    "update lists": BadRequest("/update_weights", {"update_info": {"names": []}}, "the lists names, dtype_names"),
    "no group": BadRequest("/init_weight_transfer_engine", {"init_info": {}}, "init_info has no 'master_address'"),
}


async def test_bad_requests_are_answered_with_their_cause(tiny_model: Path) -> None:
    settings = Settings(model=str(tiny_model), dtype="float32", max_model_len=512)
    async with served(settings) as server, aiohttp.ClientSession() as session:
        for name, case in BAD_REQUESTS.items():
            async with session.post(server.url + case.path, json=case.body) as response:
                assert response.status == 400, name
                assert case.message in (await response.json())["error"]["message"], name
        async with session.get(f"{server.url}/health") as response:
            assert response.status == 200


async def test_pause_keeps_aborts_or_waits(tiny_model: Path) -> None:
    long = GenerateRequest("long", PROMPT, FOREVER)
    short = GenerateRequest("short", PROMPT, TokenSampling(5, ignore_eos=True))
    async with served(Settings(model=str(tiny_model), dtype="float32", max_model_len=512)) as server:
        engine = HttpEngine("engine", server.url)

        kept = asyncio.create_task(engine.generate(long))
        await until_running(server.url)
        await engine.pause(PauseMode.KEEP)
        queued = asyncio.create_task(engine.generate(short))
        await asyncio.sleep(0.3)
        assert not kept.done()
        assert not queued.done()
        assert await engine.is_live()
        await engine.resume()
        assert len((await kept)[0].token_ids) == 400
        assert len((await queued)[0].token_ids) == 5

        aborted = asyncio.create_task(engine.generate(long))
        await until_running(server.url)
        await engine.pause(PauseMode.ABORT)
        (partial,) = await aborted
        assert partial.finish_reason == FinishReason.ABORT
        assert 0 < len(partial.token_ids) < 400
        with pytest.raises(EnginePausedError, match="Generation is paused"):
            await engine.generate(short)
        await engine.resume()

        waited_for = asyncio.create_task(engine.generate(long))
        await until_running(server.url)
        await engine.pause(PauseMode.WAIT)
        assert len((await waited_for)[0].token_ids) == 400
        with pytest.raises(EnginePausedError):
            await engine.generate(short)
        await engine.resume()
        assert len((await engine.generate(short))[0].token_ids) == 5
        await engine.close()


async def test_a_client_that_gives_up_frees_its_slots(tiny_model: Path) -> None:
    async with served(Settings(model=str(tiny_model), dtype="float32", max_model_len=512)) as server:
        engine = HttpEngine("engine", server.url)
        abandoned = asyncio.create_task(engine.generate(GenerateRequest("a", PROMPT, FOREVER, samples=64)))
        await until_running(server.url, 64)
        abandoned.cancel()
        async with aiohttp.ClientSession() as session, asyncio.timeout(20):
            load = 64
            while load:
                async with session.get(f"{server.url}/load") as response:
                    load = (await response.json())["server_load"]
                await asyncio.sleep(0.002)
        (result,) = await engine.generate(GenerateRequest("b", PROMPT, TokenSampling(3, ignore_eos=True)))
        assert len(result.token_ids) == 3
        named = [asyncio.create_task(engine.generate(GenerateRequest(name, PROMPT, FOREVER))) for name in ("c", "d")]
        await until_running(server.url, 2)
        async with aiohttp.ClientSession() as session:
            await session.post(f"{server.url}/abort_requests", json={"request_ids": ["c"]})
        reasons = [(await task)[0].finish_reason for task in named]
        assert reasons == [FinishReason.ABORT, FinishReason.LENGTH]
        await engine.close()


def test_an_order_whose_giver_has_gone_is_not_carried_out(tiny_model: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    cpu = torch.device("cpu")
    runner = ModelRunner(model, max_sequences=4, max_length=64, cache_bytes=2**20, device=cpu)
    weights = WeightReceiver(model, device=cpu, backend="gloo", timeout_seconds=1)
    worker = Worker(Scheduler(runner, "1"), weights, on_finish=lambda _: None)
    described = Model("tiny", AutoTokenizer.from_pretrained(tiny_model), frozenset({EOS}), 128, 64)
    given_up = worker.add(make_sequences(described, "a", PROMPT, TokenSampling(4), 1))
    assert given_up.cancel()
    worker.start()
    worker.resume().result(timeout=20)  # the thread is alive and has passed the first order
    assert worker.counts() == (0, 0)
    worker.stop()
    assert not worker.is_alive
    with pytest.raises(EngineStoppedError):
        worker.resume().result(timeout=20)


async def test_openai_routes_answer_in_text(tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    settings = Settings(model=str(tiny_model), dtype="float32", max_model_len=512, served_model_name="tiny")
    async with served(settings) as server, aiohttp.ClientSession() as session:

        async def post(path: str, **body: Any) -> dict[str, Any]:
            async with session.post(
                server.url + path, json={"model": "tiny", "seed": 3, "max_tokens": 20} | body
            ) as reply:
                assert reply.status == 200, await reply.text()
                answer: dict[str, Any] = await reply.json()
                return answer

        messages = [{"role": "user", "content": "Hello"}]
        chat = await post("/v1/chat/completions", messages=messages, n=2, return_token_ids=True)
        assert chat["object"] == "chat.completion"
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        for choice in chat["choices"]:
            assert choice["prompt_token_ids"] == prompt
            text = tokenizer.decode(choice["token_ids"], skip_special_tokens=True)
            assert choice["message"] == {"role": "assistant", "content": text}
        assert chat["usage"]["prompt_tokens"] == len(prompt)
        plain = await post("/v1/completions", prompt="Hello", return_token_ids=True, return_weight_versions=True)
        (choice,) = plain["choices"]
        assert choice["prompt_token_ids"] == tokenizer.encode("Hello")
        assert choice["weight_versions"][0]["version"] == "default"
        stop = choice["text"][3:5]
        (stopped,) = (await post("/v1/completions", prompt="Hello", stop=stop))["choices"]
        assert stopped["text"] == choice["text"][: choice["text"].index(stop)]
        assert (stopped["finish_reason"], stopped["stop_reason"]) == ("stop", stop)


async def test_refusals_reach_the_caller_of_the_contract(tiny_model: Path) -> None:
    async with engine_of(tiny_model) as engine:
        with pytest.raises(EngineRefusedError, match="engine engine: /inference/v1/generate answered 400"):
            await engine.generate(GenerateRequest("r", (), TokenSampling(1)))
        info = await engine.info()
        assert (info.weight_version, info.world_size, info.model) == (UNSYNCED, 1, str(tiny_model))
