"""One whole small run in this process, seed given: prints what a second run must repeat to the last bit.

    python repeated_run.py MODEL DIRECTORY SEED

The loop, rollouts, environment, rank and the builtin engine's own scheduler are the real ones, without Ray and HTTP.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import json
import logging
import re
import sys
from pathlib import Path
from typing import Any

import skyrl_gym
import torch
from skyrl_gym.envs.base_text_env import BaseTextEnv, BaseTextEnvStepOutput
from skyrl_gym.envs.registration import deregister

from rltrain_api.config import SkyRLTrainConfig
from rltrain_api.resolve import resolve
from rltrain_trainer.data.loader import PromptLoader
from rltrain_trainer.data.rows import PromptRow
from rltrain_trainer.models.load import load_tokenizer
from rltrain_trainer.rollout.agent_loop import RolloutGenerator

PARTS = Path(__file__).resolve().parents[2] / "benchmarks" / "trainer" / "in_process.py"
STEPS = 3

# Clocks; and how far the engine's log-probabilities are from the trainer's: environments answer from threads, so the
# requests of a second turn arrive as they like, and the last bits of what is computed depend on its company.
_LEFT_OUT = re.compile("tim|tokens_per_second|rollout.*logprobs")


class Varied(BaseTextEnv):
    """Two turns; rewards a response for using many different characters."""

    def __init__(self, env_config: Any = None, extras: dict[str, Any] | None = None) -> None:
        super().__init__()

    def step(self, action: str) -> BaseTextEnvStepOutput:
        self.turns += 1
        reward = len(set(action)) / max(len(action), 1)
        told = [{"role": "user", "content": "go on"}]
        return BaseTextEnvStepOutput(observations=told, reward=reward, done=self.turns == 2, metadata={})


def configuration(model: str, directory: str, seed: int) -> SkyRLTrainConfig:
    """GRPO with several optimiser steps per batch, KL loss and entropy, two turns."""
    document = {
        "trainer": {
            "seed": seed,
            "bf16": False,
            "flash_attn": False,
            "strategy": "fsdp2",
            "policy": {"model": {"path": model}, "optimizer_config": {"lr": 1e-3}},
            "placement": {"colocate_all": False},
            "algorithm": {"use_kl_loss": True, "use_entropy_loss": True},
            "train_batch_size": 4,
            "policy_mini_batch_size": 2,
            "micro_train_batch_size_per_gpu": 4,
            "micro_forward_batch_size_per_gpu": 4,
            "eval_before_train": False,
            "eval_interval": -1,
            "ckpt_interval": -1,
            "ckpt_path": directory,
            "export_path": directory,
            "logger": "console",
        },
        "generator": {
            "n_samples_per_prompt": 3,
            "max_turns": 2,
            "max_input_length": 512,
            "sampling_params": {"max_generate_length": 8},
            "inference_engine": {"backend": "builtin", "model_dtype": "float32", "weight_sync_backend": "gloo"},
        },
    }
    return resolve(SkyRLTrainConfig.model_validate(document))


async def run(model: str, directory: str, seed: int) -> dict[str, str]:
    """Digests of the trained weights and of what each step measured, but for `_LEFT_OUT`."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    skyrl_gym.register("varied", Varied)
    try:
        return await _run(model, directory, seed)
    finally:
        deregister("varied")
        torch.set_num_threads(threads)


async def _run(model: str, directory: str, seed: int) -> dict[str, str]:
    specification = importlib.util.spec_from_file_location("in_process", PARTS)
    assert specification is not None
    assert specification.loader is not None
    parts = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(parts)
    config = configuration(model, directory, seed)
    rows = [PromptRow(str(n), ({"role": "user", "content": f"word {n}"},), "varied", {}) for n in range(12)]
    measured: list[dict[str, float]] = []
    with parts.process_group_of_one():
        policy = parts.InProcessPolicy(config, total_steps=STEPS)
        engine = parts.InProcessEngine(model, max_sequences=12, max_length=512)

        async def publish(version: int) -> dict[str, float]:
            engine.load(policy.rank.gather_parameters(), version)
            return {}

        loop = parts.make_loop(
            config,
            policy=policy,
            generator=RolloutGenerator(engine, load_tokenizer(model), config),
            publish_weights=publish,
            loader=PromptLoader(rows, config.trainer.train_batch_size, config.trainer.seed),
            total_steps=STEPS,
            evaluation_rows=[],
            pad_token_id=0,
            told=lambda metrics, step: measured.append(metrics),
        )
        await loop.run()
        weights = hashlib.sha256()
        for name, parameter in policy.rank.gather_parameters():
            weights.update(name.encode() + parameter.contiguous().numpy().tobytes())
    numbers = [{name: value for name, value in metrics.items() if not _LEFT_OUT.search(name)} for metrics in measured]
    assert len(numbers) == STEPS
    return {
        "weights": weights.hexdigest(),
        "metrics": hashlib.sha256(json.dumps(numbers, sort_keys=True).encode()).hexdigest(),
    }


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    print(json.dumps(asyncio.run(run(sys.argv[1], sys.argv[2], int(sys.argv[3])))))
