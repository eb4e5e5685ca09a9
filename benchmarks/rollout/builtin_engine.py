"""Tokens per second of the builtin engine beside `transformers.generate`, on one toy model in one process.

    python benchmarks/rollout/builtin_engine.py [--sequences 128] [--new-tokens 48] [--threads 1] [--json FILE]

Three ways of sampling the same number of tokens, run in turn so that a busy machine slows all of them alike:
`transformers.generate` (its own sampling, without log-probabilities), the engine's scheduler called directly, and the
engine over HTTP as the trainer uses it (log-probabilities and weight versions included).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import string
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer
from transformers.utils.logging import disable_progress_bar

from rltrain_trainer.engines.builtin.protocol import Model, make_sequences
from rltrain_trainer.engines.builtin.runner import ModelRunner
from rltrain_trainer.engines.builtin.scheduler import Scheduler
from rltrain_trainer.engines.builtin.service import Settings, served
from rltrain_trainer.engines.contract import GenerateRequest, TokenSampling
from rltrain_trainer.engines.http_engine import HttpEngine

VOCABULARY = 256
SAMPLES_PER_PROMPT = 8
PATHS = ("transformers.generate", "builtin scheduler", "builtin over HTTP")


def make_model(directory: Path) -> None:
    """The toy: Qwen2, hidden size 64, two layers, two heads of 32, 256 tokens."""
    pieces = ["<|endoftext|>", "<|im_end|>", *string.ascii_letters]
    pieces += [f"<|reserved{index}|>" for index in range(VOCABULARY - len(pieces))]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    Qwen2Tokenizer(
        vocab=vocabulary, merges=[], unk_token=pieces[0], eos_token=pieces[1], pad_token=pieces[0]
    ).save_pretrained(directory)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    Qwen2ForCausalLM(config).save_pretrained(directory)


@asynccontextmanager
async def prepared(
    directory: Path, sequences: int, prompt: int, new: int
) -> AsyncIterator[list[Callable[[], Awaitable[Any]]]]:
    """The three ways, each a call that samples everything once."""
    model: Any = AutoModelForCausalLM.from_pretrained(directory)
    model.train(False)
    sampling = TokenSampling(new, ignore_eos=True)
    prompts = torch.randint(2, VOCABULARY, (sequences // SAMPLES_PER_PROMPT, prompt)).repeat_interleave(
        SAMPLES_PER_PROMPT, 0
    )
    described = Model("toy", AutoTokenizer.from_pretrained(directory), frozenset({1}), VOCABULARY, prompt + new)
    cpu = torch.device("cpu")
    runner = ModelRunner(model, max_sequences=sequences, max_length=prompt + new, cache_bytes=2**32, device=cpu)

    async def generate() -> None:
        model.generate(prompts, max_new_tokens=new, min_new_tokens=new, do_sample=True, top_k=0, pad_token_id=0)

    async def schedule() -> None:
        scheduler = Scheduler(runner, "0")
        for index, row in enumerate(prompts.tolist()):
            (sequence,) = make_sequences(described, str(index), row, sampling, 1)
            scheduler.add(sequence)
        while not scheduler.is_idle:
            scheduler.step()

    settings = Settings(model=str(directory), dtype="float32", max_num_seqs=sequences, max_model_len=prompt + new)
    async with served(settings) as server:
        engine = HttpEngine("toy", server.url)

        async def over_http() -> None:
            requests = [
                GenerateRequest(str(index), tuple(row), sampling, SAMPLES_PER_PROMPT)
                for index, row in enumerate(prompts[::SAMPLES_PER_PROMPT].tolist())
            ]
            await asyncio.gather(*(engine.generate(request) for request in requests))

        yield [generate, schedule, over_http]
        await engine.close()


async def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Median seconds and tokens per second of each way."""
    seconds: dict[str, list[float]] = {path: [] for path in PATHS}
    with tempfile.TemporaryDirectory() as directory:
        make_model(Path(directory))
        async with prepared(
            Path(directory), arguments.sequences, arguments.prompt_tokens, arguments.new_tokens
        ) as calls:
            for call in calls:
                await call()  # warm up
            for _ in range(arguments.repeats):
                for path, call in zip(PATHS, calls, strict=True):
                    started = time.perf_counter()
                    await call()
                    seconds[path].append(time.perf_counter() - started)
    tokens = arguments.sequences * arguments.new_tokens
    return {
        "sequences": arguments.sequences,
        "prompt_tokens": arguments.prompt_tokens,
        "new_tokens": arguments.new_tokens,
        "threads": arguments.threads,
        "results": {
            path: {
                "median_seconds": median(times),
                "fastest_seconds": min(times),
                "tokens_per_second": tokens / median(times),
                "all_seconds": times,
            }
            for path, times in seconds.items()
        },
    }


def print_table(report: dict[str, Any]) -> None:
    """One line per way, with its speed relative to `transformers.generate`."""
    reference = report["results"][PATHS[0]]["median_seconds"]
    print(f"{report['sequences']} sequences x {report['new_tokens']} new tokens, {report['threads']} thread(s)")
    print(f"{'':24}{'median s':>10}{'fastest s':>11}{'tokens/s':>10}{'relative':>10}")
    for path, result in report["results"].items():
        print(
            f"{path:24}{result['median_seconds']:>10.3f}{result['fastest_seconds']:>11.3f}"
            f"{result['tokens_per_second']:>10.0f}{reference / result['median_seconds']:>9.2f}x"
        )


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", type=int, default=128, help="a multiple of 8: samples per prompt")
    parser.add_argument("--prompt-tokens", type=int, default=16)
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", type=Path, default=Path("builtin_engine.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers ships no type for it
    report = asyncio.run(measure(arguments))
    print_table(report)
    arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    print(f"written to {arguments.json}")


if __name__ == "__main__":
    main()
