"""The synchronous training loop: generate → advantages → update → weights → (evaluate, checkpoint).

The loop decides the order of things and nothing else: ranks, engines, data and files are given to it. It must not know
Ray, so that it runs in a test with in-process parts.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch

from rltrain_api.config import SamplingParams, SkyRLTrainConfig
from rltrain_api.wire import DriverPhase
from rltrain_trainer.algorithms.advantages import compute_advantages
from rltrain_trainer.algorithms.filters import zero_variance_filter
from rltrain_trainer.data.batch import TrainBatch, build_batch
from rltrain_trainer.data.rows import PromptLoader, PromptRow
from rltrain_trainer.driver.checkpoints import RunCheckpoints
from rltrain_trainer.fsdp.minibatches import needs_old_logprobs
from rltrain_trainer.rollout.metrics import evaluation_metrics, rollout_metrics
from rltrain_trainer.rollout.trajectory import Trajectory
from rltrain_trainer.tracking.console import log_metrics
from rltrain_trainer.tracking.run_state import RunState

log = logging.getLogger(__name__)


class Policy(Protocol):
    """What the loop asks of the trainer ranks."""

    async def logprobs(self, batch: TrainBatch) -> torch.Tensor:
        """Log-probabilities of every response token, `[batch, response]`."""

    async def update(self, batch: TrainBatch) -> dict[str, float]:
        """One training step over the whole batch."""

    async def save(self, directory: Path) -> None:
        """Write everything that a resume needs of the ranks below `directory`."""


class Generator(Protocol):
    """What the loop asks of the rollouts."""

    async def generate(
        self, rows: Sequence[PromptRow], *, sampling: SamplingParams, samples_per_prompt: int
    ) -> list[Trajectory]:
        """`samples_per_prompt` trajectories per row, those of one row side by side."""


@dataclass
class TrainingLoop:
    """One attempt's loop from the step it resumes at to the last one."""

    config: SkyRLTrainConfig
    state: RunState
    policy: Policy
    generator: Generator
    publish_weights: Callable[[int], Awaitable[None]]
    loader: PromptLoader
    evaluation_rows: Sequence[PromptRow]
    checkpoints: RunCheckpoints
    pad_token_id: int

    async def run(self) -> None:
        """Train until the last step, or until a stop is asked for."""
        trainer = self.config.trainer
        total_steps = self.state.total_steps
        assert total_steps is not None, "bring-up sets total_steps"
        await self._publish()
        if trainer.eval_before_train and self.state.step == 0:
            await self._evaluate()
        while self.state.step < total_steps and not self.state.stop_requested.is_set():
            await self._step()
            step = self.state.step
            last = step == total_steps
            if trainer.eval_interval > 0 and (last or step % trainer.eval_interval == 0):
                await self._evaluate()
            due = trainer.ckpt_interval > 0 and step % trainer.ckpt_interval == 0
            if last or due or self.state.checkpoint_requested.is_set():
                await self._checkpoint()
        if self.state.stop_requested.is_set() and self.state.stop_wants_checkpoint and self._unsaved():
            await self._checkpoint()

    def _unsaved(self) -> bool:
        """Whether steps were done since the newest checkpoint."""
        saved = 0 if self.state.checkpoint is None else self.state.checkpoint.step
        return self.state.step > saved

    async def _step(self) -> None:
        """One training step; the state is told only after the new weights serve."""
        generator = self.config.generator
        began = time.monotonic()
        self.state.begin_step()
        step = self.state.step + 1
        self.state.phase = DriverPhase.TRAINING
        self.state.message = f"step {step} of {self.state.total_steps}"
        rows = self.loader.next_batch()
        with self.state.timed("generate"):
            trajectories = await self.generator.generate(
                rows, sampling=generator.sampling_params, samples_per_prompt=generator.n_samples_per_prompt
            )
        metrics = rollout_metrics(trajectories, samples_per_prompt=generator.n_samples_per_prompt)
        with self.state.timed("prepare"):
            batch = self._with_advantages(build_batch(trajectories, self.pad_token_id))
        if needs_old_logprobs(self.config):
            with self.state.timed("logprobs"):
                batch = batch.with_old_logprobs(await self.policy.logprobs(batch))
        with self.state.timed("update"):
            metrics |= await self.policy.update(batch)
        self.state.step = step
        self.state.epoch = self.loader.epoch
        await self._publish()
        seconds = time.monotonic() - began
        trained_tokens = int(batch.attention_mask.sum())
        metrics |= {"timing/step": seconds, "trainer/global_step": step, "trainer/epoch": self.loader.epoch}
        self.state.step_done(step, metrics, seconds=seconds, trained_tokens=trained_tokens)
        log_metrics(step, metrics)

    def _with_advantages(self, batch: TrainBatch) -> TrainBatch:
        algorithm = self.config.trainer.algorithm
        advantages, returns = compute_advantages(
            algorithm.advantage_estimator,
            batch.token_rewards,
            batch.response_mask,
            batch.group_ids,
            config=algorithm,
        )
        batch = batch.with_advantages(advantages, returns)
        if algorithm.zero_variance_filter:
            kept = zero_variance_filter(batch.token_rewards, batch.loss_mask, batch.group_ids)
            batch = replace(batch, loss_mask=kept)
        return batch

    async def _publish(self) -> None:
        """Make the engines serve the current weights; their version is the number of steps done."""
        with self.state.timed("sync_weights"):
            await self.publish_weights(self.state.step)
        self.state.weight_version = self.state.step

    async def _evaluate(self) -> None:
        """Score the validation rows with the current weights."""
        sampling = self.config.generator.eval_sampling_params
        assert sampling is not None, "resolve() sets eval_sampling_params"
        self.state.phase = DriverPhase.EVALUATING
        self.state.message = f"evaluating after step {self.state.step}"
        trajectories: list[Trajectory] = []
        samples = self.config.generator.eval_n_samples_per_prompt
        with self.state.timed("evaluate"):
            for start in range(0, len(self.evaluation_rows), self.config.trainer.eval_batch_size):
                rows = self.evaluation_rows[start : start + self.config.trainer.eval_batch_size]
                trajectories += await self.generator.generate(rows, sampling=sampling, samples_per_prompt=samples)
        metrics = evaluation_metrics(trajectories, samples_per_prompt=samples)
        self.state.evaluated(self.state.step, metrics)
        log_metrics(self.state.step, metrics)

    async def _checkpoint(self) -> None:
        """Commit a checkpoint of this step."""
        self.state.phase = DriverPhase.CHECKPOINTING
        self.state.message = f"writing the checkpoint of step {self.state.step}"
        request = self.state.take_checkpoint_request()
        with self.state.timed("checkpoint"):
            self.state.checkpoint = await self.checkpoints.save(
                self.state.step, self.policy, self.loader, self.state.history()
            )
        if request is not None:
            self.state.saved_request = request
        log.info("checkpoint of step %d committed at %s", self.state.step, self.state.checkpoint.path)
