"""The synchronous training loop: rollouts → preparation → updates → weights → (evaluate, export, checkpoint).

The loop decides the order of things and nothing else: ranks, engines, data and files are given to it. It must not know
Ray, so that it runs in a test with in-process parts.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch

from rltrain_api.config import SkyRLTrainConfig
from rltrain_api.wire import DriverPhase, History
from rltrain_trainer.algorithms.kl import KLController
from rltrain_trainer.checkpoint.manifest import FileRecord
from rltrain_trainer.data.batch import TrainBatch
from rltrain_trainer.data.loader import PromptLoader
from rltrain_trainer.driver.checkpoints import Resume, RunCheckpoints, Save
from rltrain_trainer.driver.dumps import Dumps
from rltrain_trainer.driver.evaluation import Evaluation
from rltrain_trainer.driver.preparing import prepare
from rltrain_trainer.driver.sampling import Generator, sample
from rltrain_trainer.fsdp.minibatches import needs_critic, needs_reference
from rltrain_trainer.rollout.metrics import rollout_metrics
from rltrain_trainer.tracking.run_state import RunState
from rltrain_trainer.tracking.stopwatch import Stopwatch
from rltrain_trainer.tracking.trackers import Trackers

log = logging.getLogger(__name__)

# After a failure, for a checkpoint that was already on its way.
SETTLE_SECONDS = 60.0


class Policy(Protocol):
    """What the loop asks of the trainer ranks. Tensors are [batch, response] float32."""

    async def logprobs(self, batch: TrainBatch) -> torch.Tensor:
        """Log-probabilities of every response token under the policy."""

    async def reference_logprobs(self, batch: TrainBatch) -> torch.Tensor:
        """The same under the frozen reference, where there is one."""

    async def values(self, batch: TrainBatch) -> torch.Tensor:
        """The critic's value of every response token, where there is one."""

    async def update(self, batch: TrainBatch) -> dict[str, float]:
        """Train the policy on the whole batch, update_epochs_per_batch times."""

    async def update_critic(self, batch: TrainBatch) -> dict[str, float]:
        """Train the critic on the whole batch, where there is one."""

    async def refresh_reference(self) -> None:
        """Make the policy as it is the reference."""

    async def save(self, directory: str) -> None:
        """Copy what a resume needs of the ranks, and begin to write it below `directory`, a path or a URL."""

    async def written(self) -> dict[str, FileRecord]:
        """All files of the save, by their paths below its directory, once all ranks have written."""

    async def export(self, directory: str) -> None:
        """Write the policy as a directory that transformers loads, at a path or a URL."""

    async def export_critic(self, directory: str) -> None:
        """As `export`, the critic, where there is one."""


@dataclass
class TrainingLoop:
    """One attempt's loop from the step it resumes at to the last one."""

    config: SkyRLTrainConfig
    state: RunState
    policy: Policy
    generator: Generator
    publish_weights: Callable[[int], Awaitable[dict[str, float]]]
    loader: PromptLoader
    evaluation: Evaluation
    checkpoints: RunCheckpoints
    trackers: Trackers
    dumps: Dumps
    controller: KLController
    pad_token_id: int
    stopwatch: Stopwatch = field(init=False)

    def __post_init__(self) -> None:
        self.stopwatch = Stopwatch(self.state)

    def resume(self, resume: Resume) -> None:
        """Go on where a checkpoint was written; trackers are given their run ids when they are made."""
        found = resume.loop_state
        self.loader.load_state_dict(found["loader"])
        self.controller.load_state_dict(found["kl_controller"])
        self.state.restore(History.model_validate(found["history"]), step=resume.checkpoint.step)
        self.state.checkpoint = resume.checkpoint
        self.state.epoch = self.loader.epoch

    async def run(self) -> None:
        """Train until the last step, or until a stop is asked for; the newest checkpoint is committed then."""
        try:
            await self._train()
        except Exception:
            await self.checkpoints.settle(SETTLE_SECONDS)
            raise
        finally:
            await self.trackers.close()

    async def _train(self) -> None:
        total_steps = self.state.total_steps
        assert total_steps is not None, "bring-up sets total_steps"
        trainer = self.config.trainer
        self.state.metrics.update(await self._publish())
        if trainer.eval_before_train and self.state.step == 0:
            await self._evaluate()
        while self.state.step < total_steps and not self.state.stop_requested.is_set():
            await self._step()
            self.checkpoints.check()
            step, last = self.state.step, self.state.step == total_steps
            if self.evaluation.is_due(step, last=last):
                await self._evaluate()
            if trainer.hf_save_interval > 0 and (last or step % trainer.hf_save_interval == 0):
                await self._export()
            due = trainer.ckpt_interval > 0 and step % trainer.ckpt_interval == 0
            if last or due or self.state.checkpoint_requested.is_set():
                await self._checkpoint()
        await self.checkpoints.finished()
        if self.state.stop_requested.is_set() and self.state.stop_wants_checkpoint and self._unsaved():
            await self._checkpoint()
            await self.checkpoints.finished()

    def _unsaved(self) -> bool:
        """Whether steps were done since the newest checkpoint."""
        saved = 0 if self.state.checkpoint is None else self.state.checkpoint.step
        return self.state.step > saved

    async def _step(self) -> None:
        """One training step; the state is told only after the new weights serve."""
        began = time.monotonic()
        self.state.begin_step()
        step, timed = self.state.step + 1, self.stopwatch.timed
        self.state.phase = DriverPhase.TRAINING
        self.state.message = f"step {step} of {self.state.total_steps}"
        with timed("generate"):
            sampled = await sample(self.config, self.loader, self.generator, step=step)
        metrics = rollout_metrics(
            sampled.trajectories, samples_per_prompt=self.config.generator.n_samples_per_prompt
        ) | {"generate/sample_batches": float(sampled.batches)}
        prepared = await prepare(
            sampled.trajectories,
            self.policy,
            self.config,
            self.controller,
            step=step,
            pad_token_id=self.pad_token_id,
            timed=timed,
        )
        batch = prepared.batch
        if self.config.trainer.dump_data_batch:
            with timed("dump_data_batch"):
                await self.dumps.batch(step, batch)
        metrics |= prepared.metrics | await self._update(batch)
        self.state.step, self.state.epoch = step, self.loader.epoch
        metrics |= await self._publish()
        self._done(batch, metrics, seconds=time.monotonic() - began)

    async def _update(self, batch: TrainBatch) -> dict[str, float]:
        """Train the critic, then the policy; at the end of an epoch the policy may become the reference."""
        metrics: dict[str, float] = {}
        if needs_critic(self.config):
            with self.stopwatch.timed("critic_train"):
                metrics |= await self.policy.update_critic(batch)
        with self.stopwatch.timed("policy_train"):
            metrics |= await self.policy.update(batch)
        refreshed = self.config.trainer.update_ref_every_epoch and needs_reference(self.config)
        if refreshed and self.loader.at_epoch_end:
            with self.stopwatch.timed("update_ref_with_policy"):
                await self.policy.refresh_reference()
        return metrics

    def _done(self, batch: TrainBatch, metrics: dict[str, float], *, seconds: float) -> None:
        """Tell the state and the trackers of a step that took `seconds`."""
        trained_tokens = int(batch.attention_mask.sum())
        placement = self.config.trainer.placement
        gpus = placement.policy_num_nodes * placement.policy_num_gpus_per_node
        metrics |= self.stopwatch.taken() | {
            "timing/step": seconds,
            "generate/batch_padded_seq_len": float(batch.sequences.shape[1]),
            "trainer/global_step": float(self.state.step),
            "trainer/epoch": float(self.loader.epoch),
            "trainer/tokens_per_second_per_gpu": trained_tokens / seconds / gpus,
        }
        self.state.step_done(self.state.step, metrics, seconds=seconds, trained_tokens=trained_tokens)
        self._log(metrics)

    def _log(self, metrics: dict[str, float]) -> None:
        """Hand metrics to the trackers, and to the state what happened to earlier ones."""
        lost = self.trackers.metrics()
        if self.dumps.failures:
            lost["trainer/failed_dumps"] = float(self.dumps.failures)
        self.state.metrics.update(lost)
        self.trackers.log(metrics | lost, self.state.step)

    async def _publish(self) -> dict[str, float]:
        """Make the engines serve the current weights; their version is the number of steps done."""
        with self.stopwatch.timed("sync_weights"):
            metrics = await self.publish_weights(self.state.step)
        self.state.weight_version = self.state.step
        return metrics

    async def _evaluate(self) -> None:
        """Score the validation rows with the current weights."""
        self.state.phase = DriverPhase.EVALUATING
        self.state.message = f"evaluating after step {self.state.step}"
        metrics = await self.evaluation.run(self.state.step, self.stopwatch)
        self.state.evaluated(self.state.step, metrics)
        self._log(metrics | self.stopwatch.taken())

    async def _export(self) -> None:
        """Write the policy as a model that anybody can load."""
        self.state.message = f"exporting the model of step {self.state.step}"
        root = self.config.trainer.export_path.rstrip("/")
        with self.stopwatch.timed("save_hf_model"):
            await self.policy.export(f"{root}/global_step_{self.state.step}/policy")
            if needs_critic(self.config):
                await self.policy.export_critic(f"{root}/global_step_{self.state.step}/critic")
        log.info("the model of step %d is below %s", self.state.step, root)

    async def _checkpoint(self) -> None:
        """Begin a checkpoint of this step; the state is told of it once it is committed."""
        self.state.phase = DriverPhase.CHECKPOINTING
        self.state.message = f"writing the checkpoint of step {self.state.step}"
        request = self.state.take_checkpoint_request()
        loop_state: dict[str, Any] = {
            "loader": self.loader.state_dict(),
            "kl_controller": self.controller.state_dict(),
            "trackers": self.trackers.run_ids(),
            "history": self.state.history().model_dump(mode="json", by_alias=True),
        }
        with self.stopwatch.timed("save_checkpoints"):
            await self.checkpoints.save(
                self.state.step,
                self.policy,
                loop_state,
                committed=partial(self._committed, request),
                metrics=self.state.metrics,
            )

    def _committed(self, request: str | None, save: Save) -> None:
        """A checkpoint is whole: what waited for it, a request or a stop, may go on."""
        self.state.checkpoint = save.checkpoint
        self.state.metrics.update(save.metrics())
        if request is not None:
            self.state.saved_request = request
