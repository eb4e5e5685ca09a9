"""The quickstart's job, trained with one algorithm after another: does each of them learn?

    python benchmarks/trainer/learning.py --algorithm grpo [--output docs/results/learning]
    python benchmarks/trainer/learning.py --draw           # the curves of all that have run, as markdown and picture

The job is `examples/quickstart.yaml` with what `VARIANTS` changes, on one rank and one engine in this process, without
Kubernetes, Ray or HTTP; data and model come from `rltrain_trainer.quickstart`. Evaluation is pass@1: the mean score of
two samples of each of 256 validation problems at temperature 1.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from in_process import InProcessEngine, InProcessPolicy, make_loop, process_group_of_one
from transformers.utils import logging

from rltrain_api.config import SkyRLTrainConfig
from rltrain_api.resolve import resolve
from rltrain_trainer.driver.datasets import load_datasets
from rltrain_trainer.models.load import load_tokenizer
from rltrain_trainer.quickstart.recipe import Recipe, prepare
from rltrain_trainer.rollout.agent_loop import RolloutGenerator

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart.yaml"
GAIN = 0.20  # of pass@1, which is what is asked for
SCORE = "eval/all/avg_score"
SEQUENCES = 512  # of one evaluation, and more than of one training step

VARIANTS: dict[str, dict[str, Any]] = {
    "grpo": {},
    "rloo": {"trainer": {"algorithm": {"advantage_estimator": "rloo"}}},
    "reinforce++": {"trainer": {"algorithm": {"advantage_estimator": "reinforce++"}}},
    "gae": {
        "trainer": {
            "algorithm": {"advantage_estimator": "gae"},
            "critic": {"model": {"path": "MODEL"}, "optimizer_config": {"lr": 1e-3, "num_warmup_steps": 5}},
            "critic_mini_batch_size": 16,
        }
    },
    "lora": {
        "trainer": {"policy": {"model": {"lora": {"rank": 16, "alpha": 32}}, "optimizer_config": {"lr": 3e-3}}},
    },
}
"""By algorithm, what differs from the quickstart."""


def config_of(algorithm: str, data: Path) -> SkyRLTrainConfig:
    """The quickstart's configuration with the variant's changes, for one rank and one engine."""
    tree = yaml.safe_load(QUICKSTART.read_text())["spec"]["config"]
    model = str(data / "model")
    here = {
        "data": {"train_data": [str(data / "train.parquet")], "val_data": [str(data / "validation.parquet")]},
        "trainer": {
            "policy": {"model": {"path": model}},
            "placement": {"policy_num_gpus_per_node": 1},
            "ckpt_interval": -1,
        },
        "generator": {"inference_engine": {"num_engines": 1}},
    }
    merged = _merged(_merged(tree, here), VARIANTS[algorithm])
    return resolve(SkyRLTrainConfig.model_validate(_with_model(merged, model)))


def _merged(tree: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    found = dict(tree)
    for key, value in changes.items():
        found[key] = _merged(found.get(key, {}), value) if isinstance(value, dict) else value
    return found


def _with_model(tree: Any, model: str) -> Any:
    if isinstance(tree, dict):
        return {key: _with_model(value, model) for key, value in tree.items()}
    return model if tree == "MODEL" else tree


async def learn(algorithm: str, data: Path, output: Path) -> dict[str, Any]:
    """Train; the curve and what it took, which are in `output` after every evaluation."""
    config = config_of(algorithm, data)
    path = str(data / "model")
    tokenizer = load_tokenizer(path)
    rows = load_datasets(config, tokenizer)
    total = rows.training.steps_per_epoch * config.trainer.epochs
    policy = InProcessPolicy(config, total_steps=total)
    engine = InProcessEngine(path, max_sequences=SEQUENCES, max_length=128)
    began, processor = time.monotonic(), time.process_time()
    run: dict[str, Any] = {
        "algorithm": algorithm,
        "changes": VARIANTS[algorithm],
        "steps": total,
        "threads": torch.get_num_threads(),
        "evaluations": [],
        "rewards": [],
    }

    def told(metrics: dict[str, float], step: int) -> None:
        if "reward/avg_raw_reward" in metrics:
            run["rewards"].append((step, round(metrics["reward/avg_raw_reward"], 4)))
        if SCORE not in metrics:
            return
        print(f"{algorithm}, step {step:4}: pass@1 {metrics[SCORE]:.3f}", flush=True)
        run["evaluations"].append((step, round(metrics[SCORE], 4)))
        run["gain"] = run["evaluations"][-1][1] - run["evaluations"][0][1]
        run["seconds"], run["cpu_seconds"] = time.monotonic() - began, time.process_time() - processor
        run["load"] = os.getloadavg()
        output.write_text(json.dumps(run) + "\n")

    async def publish(version: int) -> dict[str, float]:
        engine.load(policy.rank.gather_parameters(), version)
        return {}

    loop = make_loop(
        config,
        policy=policy,
        generator=RolloutGenerator(engine, tokenizer, config),
        publish_weights=publish,
        loader=rows.training,
        total_steps=total,
        evaluation_rows=list(rows.evaluation),
        pad_token_id=tokenizer.pad_token_id,
        told=told,
    )
    await loop.run()
    return run


def table(runs: list[dict[str, Any]]) -> str:
    """Pass@1 along each run, as markdown; the gain is that of the last evaluation over the first."""
    steps = sorted({step for run in runs for step, _ in run["evaluations"] if step == 8 or step % 16 == 0})
    lines = [
        "| step | " + " | ".join(map(str, steps)) + " | gain | CPU seconds |",
        "|---|" + "---|" * (len(steps) + 2),
    ]
    for run in runs:
        scores = dict(run["evaluations"])
        cells = [f"{scores[step]:.2f}" if step in scores else "" for step in steps]
        cells += [f"{run['gain']:+.2f}", f"{run['cpu_seconds']:.0f}"]
        lines.append(f"| {run['algorithm']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(directory: Path) -> None:
    """The curves of all runs in `directory`: a table on the terminal, and a picture beside them."""
    import matplotlib.pyplot as plot  # only here: training needs no display

    found = {path.stem: json.loads(path.read_text()) for path in directory.glob("*.json")}
    runs = [found[name] for name in VARIANTS if name in found]
    figure, axes = plot.subplots(figsize=(7, 4))
    for run in runs:
        axes.plot(*zip(*run["evaluations"], strict=True), label=run["algorithm"])
    axes.set(xlabel="training step", ylabel="pass@1 on the validation problems", ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(directory.parent / f"{directory.name}.png", dpi=110)
    print(table(runs))


def main() -> None:
    """Train or draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algorithm", choices=list(VARIANTS))
    parser.add_argument("--draw", action="store_true")
    parser.add_argument("--output", type=Path, default=Path("docs/results/learning"))
    parser.add_argument("--data", type=Path, default=Path.home() / ".cache" / "rltrain" / "quickstart")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers leaves it without types
    if arguments.algorithm is not None:
        prepare(arguments.data, Recipe(), lambda line: print(line, flush=True))
        with process_group_of_one():
            curve = arguments.output / f"{arguments.algorithm}.json"
            curve.parent.mkdir(parents=True, exist_ok=True)
            run = asyncio.run(learn(arguments.algorithm, arguments.data, curve))
        print(table([run]))
        assert run["gain"] >= GAIN, f"{arguments.algorithm} gained {run['gain']:.2f} of pass@1, less than {GAIN}"
    if arguments.draw:
        draw(arguments.output)


if __name__ == "__main__":
    main()
