"""One rank of the policy: the sharded model in training, on an already initialised process group.

Every method but `parameter_specs` is a collective: all ranks call it in the same order. It must not know of rollouts,
engines, Ray or the order of things in the training loop.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from rltrain_api.config import SkyRLTrainConfig
from rltrain_trainer.checkpoint.manifest import FileRecord
from rltrain_trainer.data.batch import TrainBatch
from rltrain_trainer.fsdp.building import build_policy
from rltrain_trainer.fsdp.export import export_model
from rltrain_trainer.fsdp.gradients import policy_gradient
from rltrain_trainer.fsdp.memory import MemoryRecorder
from rltrain_trainer.fsdp.metrics import batch_metrics
from rltrain_trainer.fsdp.minibatches import deal, needs_old_logprobs, optimizer_steps_per_batch
from rltrain_trainer.fsdp.state import RankState
from rltrain_trainer.fsdp.trained import Training, mean_of
from rltrain_trainer.models.adapters import without_adapters
from rltrain_trainer.models.scored import ScoredCausalLM
from rltrain_trainer.weight_sync.buckets import ParameterSpec


class PolicyRank:
    """The policy on this rank.

    total_steps: training steps of the whole run, which the learning-rate schedule spans. Raises ValueError for a model
    that cannot be loaded, spread or trained as the configuration says.
    """

    def __init__(self, config: SkyRLTrainConfig, *, total_steps: int) -> None:
        trainer = config.trainer
        self._config = config
        self._model = build_policy(config)
        self._training = Training(
            self._model,
            trainer.policy.optimizer_config,
            total_steps=total_steps * optimizer_steps_per_batch(config),
            offload=trainer.placement.colocate_all and trainer.policy.optimizer_config.offload_after_step,
        )
        self._state = RankState({"policy": self._training.state})
        self._memory = MemoryRecorder(trainer.ckpt_path, enabled=trainer.policy.record_memory)

    @property
    def module(self) -> ScoredCausalLM:
        """The sharded model."""
        return self._model.module

    @property
    def leads(self) -> bool:
        """Whether this rank's scores are those of its rows: ranks that share sequences all have the same."""
        return self._model.mesh.counts

    def logprobs(self, batch: TrainBatch) -> Tensor:
        """Log-probabilities of this rank's rows of the batch under the policy, [rows, response] float32 on the CPU."""
        return self._model.score(batch, self._scored)

    def reference_logprobs(self, batch: TrainBatch) -> Tensor:
        """The same under the model that the adapters were put into."""
        with without_adapters(self.module):
            return self.logprobs(batch)

    def update(self, batch: TrainBatch) -> dict[str, float]:
        """One training step over the whole batch, of which this rank takes its shares; the same metrics on every rank.

        The batch needs advantages, and old_logprobs where `needs_old_logprobs` says so. An optimiser step whose
        gradient is not finite is skipped and counted in policy/skipped_steps; it does not move the learning-rate
        schedule.
        """
        assert batch.old_logprobs is not None or not needs_old_logprobs(self._config), "old_logprobs are missing"
        trainer, mesh = self._config.trainer, self._model.mesh
        shares = deal(
            batch,
            self._config,
            rank=mesh.data_rank,
            ranks=mesh.data_size,
            prompts=trainer.policy_mini_batch_size,
        )
        objective = policy_gradient(self.module, trainer.algorithm)
        with self._memory.recording(f"policy_step_{self._training.steps_done}"):
            steps = [
                self._training.step(share, objective)
                for _ in range(trainer.update_epochs_per_batch)
                for share in shares
            ]
        return batch_metrics(batch) | mean_of(steps, "policy")

    def parameter_specs(self) -> list[ParameterSpec]:
        """What `gather_parameters` yields: Hugging Face names, full shapes, wire type; tied parameters once."""
        return self._model.parameter_specs(self._wire_dtype)

    def gather_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """The full parameters one by one, in the order and type of `parameter_specs`, on this rank's device.

        Adapters are merged into the weights they adapt. A collective per parameter: every rank must exhaust it.
        """
        return self._model.full_parameters(self._wire_dtype)

    def export(self, directory: str) -> None:
        """Write the model as a directory that transformers loads, in the type that engines get, with its tokenizer."""
        path = self._config.trainer.policy.model.path
        assert path is not None, "validate() demands a model"
        export_model(directory, self.module.causal_lm, self.gather_parameters(), self._wire_dtype, tokenizer=path)

    def save(self, directory: str) -> None:
        """Copy what a resume needs and begin to write it below `directory`, a path or URL of all ranks."""
        self._state.save(directory)

    def written(self) -> dict[str, FileRecord]:
        """Wait until all ranks have written what `save` began with; this rank's files. It may run beside training."""
        return self._state.written()

    def load(self, directory: str) -> None:
        """Read what `save` wrote, by any number of ranks; the learning rate follows the current configuration.

        Raises ValueError when `directory` is no such checkpoint.
        """
        self._state.load(directory)

    @property
    def _wire_dtype(self) -> str:
        return self._config.generator.inference_engine.model_dtype

    def _scored(self, rows: TrainBatch) -> Tensor:
        """The temperature divides the logits of policy and reference alike.

        The seed release of SkyRL left it out of the reference, which made their divergence depend on it.
        """
        temperature = self._config.trainer.algorithm.temperature
        assert temperature is not None, "resolve() sets the temperature"
        logprobs: Tensor = self.module(rows.sequences, rows.attention_mask, rows.response_mask, temperature)[0]
        return logprobs
