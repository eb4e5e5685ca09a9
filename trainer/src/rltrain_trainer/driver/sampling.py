"""Rollouts of one training step: a batch of prompts, and with dynamic sampling as many more as it takes.

What is kept and when it is enough is decided by `algorithms.dynamic_sampling`; this module asks for rollouts until
then. It must not know the rest of a step.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from rltrain_api.config import SamplingParams, SkyRLTrainConfig
from rltrain_trainer.algorithms.dynamic_sampling import after_sampling
from rltrain_trainer.data.loader import PromptLoader
from rltrain_trainer.data.rows import PromptRow
from rltrain_trainer.rollout.seeds import derived_seed
from rltrain_trainer.rollout.trajectory import Trajectory


class Generator(Protocol):
    """What is asked of the rollouts."""

    async def generate(
        self, rows: Sequence[PromptRow], *, sampling: SamplingParams, samples_per_prompt: int, seed: int
    ) -> list[Trajectory]:
        """`samples_per_prompt` episodes per row, those of one row side by side; the same ones for the same seed."""


@dataclass(frozen=True)
class Sampled:
    """What a step trains on, and how many batches of prompts were sampled for it."""

    trajectories: list[Trajectory]
    batches: int


async def sample(config: SkyRLTrainConfig, loader: PromptLoader, generator: Generator, *, step: int) -> Sampled:
    """The trajectories of one training step.

    Every batch of prompts moves the loader on, so dynamic sampling takes more passes over the data for the same number
    of steps. step: its number, from which random choices follow, so that a resumed run makes the same. Raises
    ValueError when dynamic sampling has reached max_sample_batches.
    """
    settings = config.generator
    choices = random.Random((config.trainer.seed << 32) + step)  # noqa: S311 - no secret, but to be repeated
    kept: list[Trajectory] = []
    batches = 0
    while True:
        batches += 1
        sampled = await generator.generate(
            loader.next_batch(),
            sampling=settings.sampling_params,
            samples_per_prompt=settings.n_samples_per_prompt,
            seed=derived_seed(config.trainer.seed, "train", step, batches),
        )
        draw = after_sampling(
            config.trainer.algorithm.dynamic_sampling,
            kept,
            sampled,
            prompts=config.trainer.train_batch_size,
            batches=batches,
            generator=choices,
        )
        kept = draw.trajectories
        if draw.complete:
            return Sampled(kept, batches)
