"""Training and generation of a model of 0.5 billion parameters on one GPU: speed, utilisation, memory.

    python benchmarks/trainer/gpu.py [--json FILE] [--markdown FILE] [--peak-teraflops 989]
    python benchmarks/trainer/gpu.py --device cpu --tiny      # does it run at all

Model: the shape of Qwen2.5-0.5B with random weights, bfloat16 compute on float32 master weights, gradient
checkpointing. Updates: 64 sequences of up to 1,024 tokens, one optimiser step, by `PolicyRank.update`; all of full
length, and of mixed length (prompts of 128 tokens, responses of 64 to 896, as rollouts have them). Each in four forms:
packed or padded, log-probabilities chunked or naive. Generation: 128 responses of 512 tokens to 16 prompts by the
builtin engine.

Tokens are those of sequences, padding not counted. Model FLOPs utilisation is model FLOPs / seconds / peak, where a
token of a sequence of T tokens takes

    6·N + 6·layers·width·T      N: parameters of the blocks and of the output embedding; width: heads · head size

FLOPs forward and backward: 2 per parameter and multiply-add, twice that backward; attention 2·2·width·T/2 forward with
half of the positions masked, twice that backward. What checkpointing computes again is not counted (Chowdhery et al.
2022, PaLM, appendix B, which counts the masked half too).
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import json
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import torch
from in_process import InProcessEngine, process_group_of_one
from logprob_memory import naive_token_scores
from toy import CHAT_TEMPLATE, END
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer
from transformers.utils import logging

from rltrain_api.config import SkyRLTrainConfig
from rltrain_api.resolve import resolve
from rltrain_trainer.data.batch import TrainBatch
from rltrain_trainer.engines.contract import GenerateRequest, TokenSampling
from rltrain_trainer.fsdp.policy import PolicyRank

PEAK_TERAFLOPS = {"H200": 989.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0, "L4": 121.0}
"""Dense bfloat16, by the vendor's data sheets."""

REPEATS = 5


@dataclass(frozen=True)
class Size:
    """Model and work."""

    width: int = 896
    layers: int = 24
    heads: int = 14
    key_value_heads: int = 2
    inner: int = 4864
    vocabulary: int = 151_936
    sequences: int = 64
    micro_batch: int = 16
    prompt: int = 128
    length: int = 1024
    generated: int = 512


TINY = Size(64, 2, 2, 2, 128, 512, sequences=8, micro_batch=4, prompt=8, length=64, generated=16)


def make_model(directory: Path, size: Size) -> int:
    """Write it, with a tokenizer; N of the module's docstring."""
    pieces = [END, *(f"<{index}>" for index in range(1, 16))]
    Qwen2Tokenizer(
        vocab={piece: index for index, piece in enumerate(pieces)},
        merges=[],
        eos_token=END,
        pad_token=END,
        unk_token=None,
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(directory)
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=size.vocabulary,
            hidden_size=size.width,
            intermediate_size=size.inner,
            num_hidden_layers=size.layers,
            num_attention_heads=size.heads,
            num_key_value_heads=size.key_value_heads,
            max_position_embeddings=4 * size.length,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=None,
            dtype="bfloat16",
        )
    ).to(torch.bfloat16)
    model.save_pretrained(directory)
    return model.num_parameters()  # the tied embedding once: as the output's, the input's is a look-up


def config_of(directory: Path, size: Size, *, packed: bool) -> SkyRLTrainConfig:
    """One optimiser step per batch on one rank."""
    return resolve(
        SkyRLTrainConfig.model_validate(
            {
                "trainer": {
                    "bf16": True,
                    "gradient_checkpointing": True,
                    "flash_attn": True,
                    "use_sample_packing": packed,
                    "placement": {"colocate_all": False, "policy_num_gpus_per_node": 1},
                    "policy": {"model": {"path": str(directory)}},
                    "algorithm": {"use_kl_loss": False},
                    "train_batch_size": size.sequences,
                    "policy_mini_batch_size": size.sequences,
                    "micro_train_batch_size_per_gpu": size.micro_batch,
                    "micro_forward_batch_size_per_gpu": size.micro_batch,
                },
                "generator": {
                    "n_samples_per_prompt": 1,
                    "inference_engine": {"backend": "builtin", "model_dtype": "bfloat16"},
                },
            }
        )
    )


def batch_of(size: Size, *, mixed: bool) -> TrainBatch:
    """Random tokens and advantages; padded on the left, responses aligned on the right."""
    generator = torch.Generator().manual_seed(1)
    longest = size.length - size.prompt
    responses = torch.full((size.sequences,), longest)
    if mixed:
        responses = torch.randint(longest // 14, longest + 1, (size.sequences,), generator=generator)
        responses[0] = longest
    columns = torch.arange(size.length, 0, -1)
    attended = columns <= (responses + size.prompt)[:, None]
    response = columns[-longest:] <= responses[:, None]
    return TrainBatch(
        sequences=torch.randint(1, size.vocabulary, (size.sequences, size.length), generator=generator),
        attention_mask=attended,
        response_mask=response,
        loss_mask=response,
        token_rewards=torch.zeros(response.shape),
        rollout_logprobs=torch.zeros(response.shape),
        group_ids=torch.arange(size.sequences),
        advantages=torch.randn(size.sequences, 1, generator=generator) * response,
        returns=torch.zeros(response.shape),
    )


@contextmanager
def log_probabilities(form: str) -> Iterator[None]:
    """Let the model compute them so."""
    if form == "chunked":
        yield
        return
    with mock.patch("rltrain_trainer.models.scored.token_scores", naive_token_scores):
        yield


def clear(device: str) -> None:
    """Forget what the case before held."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def timed(device: str, call: Callable[[], Any]) -> float:
    """Seconds, the GPU's work included."""
    if device == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def peak_gib(device: str) -> float:
    """The GPU's memory, or this process's, at its most: the latter never falls from case to case."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def updates(
    directory: Path, size: Size, device: str, parameters: int, peak_flops: float | None
) -> Iterator[dict[str, Any]]:
    """Every form on every batch; one that has no room says so."""
    for mixed in (False, True):
        batch = batch_of(size, mixed=mixed)
        lengths = batch.attention_mask.sum(-1).double()
        tokens = lengths.sum().item()
        flops = 6 * parameters * tokens + 6 * size.layers * size.width * lengths.square().sum().item()
        for packed, form in itertools.product((True, False), ("chunked", "naive")):
            case: dict[str, Any] = {
                "lengths": "mixed" if mixed else "full",
                "layout": "packed" if packed else "padded",
                "log-probabilities": form,
            }
            clear(device)
            with log_probabilities(form):
                seconds = update_seconds(config_of(directory, size, packed=packed), batch, device)
            if seconds is not None:
                case["seconds"], case["tokens/s"] = seconds, tokens / seconds
                case["utilisation"] = None if peak_flops is None else flops / seconds / peak_flops
            yield case | {"peak GiB": peak_gib(device)}


def update_seconds(config: SkyRLTrainConfig, batch: TrainBatch, device: str) -> float | None:
    """The median of several updates; None where memory runs out."""
    try:
        rank = PolicyRank(config, total_steps=100)
        rank.update(batch)  # warm up; the optimiser makes its state
        return median(timed(device, lambda: rank.update(batch)) for _ in range(REPEATS))
    except torch.OutOfMemoryError:
        return None


def generation(directory: Path, size: Size, device: str) -> dict[str, Any]:
    """Responses of the builtin engine, as many per prompt as in GRPO."""
    clear(device)
    engine = InProcessEngine(
        str(directory),
        max_sequences=2 * size.sequences,
        max_length=size.prompt + size.generated,
        dtype=torch.bfloat16 if device == "cuda" else torch.float32,
        device=torch.device(device),
    )
    sampling = TokenSampling(size.generated, ignore_eos=True)

    async def all_at_once() -> None:
        await asyncio.gather(
            *(
                engine.generate(
                    GenerateRequest(str(index), tuple(range(1, size.prompt + 1)), sampling, 8), deadline_seconds=600
                )
                for index in range(size.sequences // 4)
            )
        )

    seconds = median(timed(device, lambda: asyncio.run(all_at_once())) for _ in range(3))
    tokens = 2 * size.sequences * size.generated
    return {"responses": 2 * size.sequences, "tokens/s": tokens / seconds, "peak GiB": peak_gib(device)}


def table(rows: list[dict[str, Any]]) -> str:
    """As markdown."""
    columns = ("lengths", "layout", "log-probabilities", "seconds", "tokens/s", "utilisation", "peak GiB")
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for row in rows:
        cells = [row["lengths"], row["layout"], row["log-probabilities"]]
        if "seconds" not in row:
            cells += ["out of memory", "", ""]
        else:
            utilisation = row["utilisation"]
            cells += [f"{row['seconds']:.2f}", f"{row['tokens/s']:,.0f}"]
            cells += ["" if utilisation is None else f"{utilisation:.1%}"]
        lines.append("| " + " | ".join([*cells, f"{row['peak GiB']:.1f}"]) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a toy of two layers")
    parser.add_argument("--peak-teraflops", type=float, help="of the GPU in dense bfloat16, if its name is not known")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    arguments = parser.parse_args()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers leaves it without types
    size = TINY if arguments.tiny else Size()
    name = torch.cuda.get_device_name() if arguments.device == "cuda" else "CPU"
    known = next((flops for key, flops in PEAK_TERAFLOPS.items() if key in name), None)
    peak = arguments.peak_teraflops or known
    report: dict[str, Any] = {"device": name, "peak_teraflops": peak, "torch": torch.__version__, "updates": []}
    with tempfile.TemporaryDirectory() as directory, process_group_of_one():
        parameters = make_model(Path(directory), size)
        print(f"{name}, {parameters / 1e6:,.0f} million parameters", flush=True)
        report["generation"] = generation(Path(directory), size, arguments.device)
        print("generation:", json.dumps(report["generation"]), flush=True)
        for row in updates(Path(directory), size, arguments.device, parameters, None if peak is None else peak * 1e12):
            print(json.dumps(row), flush=True)
            report["updates"].append(row)
    print("\n" + table(report["updates"]))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    if arguments.markdown is not None:
        arguments.markdown.write_text(table(report["updates"]) + "\n")


if __name__ == "__main__":
    main()
