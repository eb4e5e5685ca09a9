"""Steps per second of one full GRPO step beside TRL's GRPOTrainer, in turns of one step, in one process.

    python benchmarks/trainer/step.py [--seconds 200] [--threads 2] [--json FILE] [--markdown FILE]

A step: generate, reward, advantages, (old log-probabilities,) update. Model: Qwen2 of hidden size 64, 2 layers, 2
heads, 256 tokens; 16 prompts x 8 samples, 16 + 48 tokens, float32, no reference model. TRL's step, ours with the engine
in process, ours with an engine process over HTTP, then again: whatever else the machine does slows all of them, and the
ratio of a round is that of neighbours in time. The ratio by processor time, with one thread, hardly depends on it. Two
settings: one optimiser step per batch, where neither side needs old log-probabilities; and two, where both compute
them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import tempfile
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import ours
import peer
import torch
from in_process import process_group_of_one
from toy import Shape, make_model, register_environment
from transformers.utils import logging

SHAPE = Shape()
LEARNING_RATE = 1e-4
WARM_UP_ROUNDS = 3
FEWEST_ROUNDS = 5
MOST_ROUNDS = 400
TRL, OURS, HTTP = "TRL", "RLTrain", "RLTrain over HTTP"
SIDES = (TRL, OURS, HTTP)
PARTS = ("generate", "reward", "batch", "logprobs", "update", "weights", "rest")


def measure(directory: Path, tokenizer: Any, *, optimizer_steps: int, threads: int, seconds: float) -> dict[str, Any]:
    """The seconds of every step of all sides, in rounds."""
    config = ours.config_of(directory, SHAPE, optimizer_steps=optimizer_steps, learning_rate=LEARNING_RATE)
    rounds: list[dict[str, dict[str, float]]] = []
    began = time.monotonic()
    with asyncio.Runner() as runner:
        local = ours.in_process(config, directory, tokenizer, SHAPE)
        served = ours.over_http(config, directory, tokenizer, SHAPE, threads)

        async def enter() -> tuple[ours.Side, ours.Side]:
            return await local.__aenter__(), await served.__aenter__()

        async def leave() -> None:
            await served.__aexit__(None, None, None)
            await local.__aexit__(None, None, None)

        local_side, served_side = runner.run(enter())

        def turn(trl: dict[str, float]) -> bool:
            rounds.append({TRL: trl, OURS: runner.run(local_side.step()), HTTP: runner.run(served_side.step())})
            enough = time.monotonic() - began > seconds and len(rounds) >= WARM_UP_ROUNDS + FEWEST_ROUNDS
            return not enough

        try:
            peer.train(
                directory,
                tokenizer,
                SHAPE,
                optimizer_steps=optimizer_steps,
                learning_rate=LEARNING_RATE,
                turn=turn,
                steps=MOST_ROUNDS,
            )
        finally:
            runner.run(leave())
    return summary(rounds[WARM_UP_ROUNDS:], optimizer_steps)


def summary(rounds: list[dict[str, dict[str, float]]], optimizer_steps: int) -> dict[str, Any]:
    """Medians over the rounds, and of the ratios of the rounds."""
    sides: dict[str, Any] = {}
    for side in SIDES:
        totals = [each[side]["total"] for each in rounds]
        ratios = [each[TRL]["total"] / each[side]["total"] for each in rounds]
        low, _, high = quantiles(ratios, n=4)
        processor = [each[TRL]["cpu"] / each[side]["cpu"] for each in rounds]
        sides[side] = {
            "steps_per_second": 1 / median(totals),
            "fastest_steps_per_second": 1 / min(totals),
            "ratio": median(ratios),
            "ratio_quartiles": [low, high],
            "processor_ratio": None if side == HTTP else median(processor),  # its engine is another process
            "milliseconds": {
                part: 1000 * median(each[side].get(part, 0.0) for each in rounds) for part in (*PARTS, "total", "cpu")
            },
        }
    return {"optimizer_steps": optimizer_steps, "rounds": len(rounds), "sides": sides, "all_seconds": rounds}


def table(result: dict[str, Any]) -> str:
    """The result as markdown."""
    lines = [
        f"{result['rounds']} rounds, {result['optimizer_steps']} optimiser step(s) per batch",
        "",
        "| | steps/s | fastest | times TRL, median (quartiles) | by processor time | "
        + " | ".join(f"{part}, ms" for part in PARTS)
        + " |",
        "|---|---|---|---|---|" + "---|" * len(PARTS),
    ]
    for name, side in result["sides"].items():
        low, high = side["ratio_quartiles"]
        cells = [
            name,
            f"{side['steps_per_second']:.2f}",
            f"{side['fastest_steps_per_second']:.2f}",
            f"{side['ratio']:.2f} ({low:.2f}-{high:.2f})",
            "" if side["processor_ratio"] is None else f"{side['processor_ratio']:.2f}",
            *(f"{side['milliseconds'][part]:.0f}" for part in PARTS),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def machine(threads: int) -> dict[str, Any]:
    """What the figures depend on."""
    packages = ("torch", "transformers", "trl", "accelerate")
    return {
        "cores": os.cpu_count(),
        "threads": threads,
        "processor": platform.processor() or platform.machine(),
        "load": os.getloadavg(),
        "versions": {name: version(name) for name in packages},
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=200, help="for both settings together")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of torch, alike for all sides")
    parser.add_argument("--json", type=Path, help="every single number")
    parser.add_argument("--markdown", type=Path, help="the tables")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # transformers leaves it without types
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # as above
    torch.set_num_threads(arguments.threads)
    register_environment()
    report: dict[str, Any] = {"before": machine(arguments.threads), "results": []}
    with tempfile.TemporaryDirectory() as directory, process_group_of_one():
        tokenizer = make_model(Path(directory), SHAPE)
        for optimizer_steps in (1, 2):
            result = measure(
                Path(directory),
                tokenizer,
                optimizer_steps=optimizer_steps,
                threads=arguments.threads,
                seconds=arguments.seconds / 2,
            )
            print(table(result) + "\n", flush=True)
            report["results"].append(result)
    report["after"] = machine(arguments.threads)
    print(json.dumps({name: report[name] for name in ("before", "after")}))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    if arguments.markdown is not None:
        arguments.markdown.write_text("\n\n".join(table(result) for result in report["results"]) + "\n")


if __name__ == "__main__":
    main()
