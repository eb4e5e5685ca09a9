"""One rank of the critic: a model of values in training. It must not know of the policy or of advantages."""

from __future__ import annotations

from torch import Tensor

from rltrain_api.config import SkyRLTrainConfig
from rltrain_trainer.checkpoint.manifest import FileRecord
from rltrain_trainer.data.batch import TrainBatch
from rltrain_trainer.fsdp.building import build_critic
from rltrain_trainer.fsdp.export import export_model
from rltrain_trainer.fsdp.gradients import critic_gradient
from rltrain_trainer.fsdp.minibatches import deal, optimizer_steps_per_batch
from rltrain_trainer.fsdp.state import RankState
from rltrain_trainer.fsdp.trained import Training, mean_of
from rltrain_trainer.models.valued import ValuedLM


class CriticRank:
    """The critic on this rank; total_steps as for `PolicyRank`. Every method is a collective."""

    def __init__(self, config: SkyRLTrainConfig, *, total_steps: int) -> None:
        trainer = config.trainer
        self._config = config
        self._model = build_critic(config)
        self._training = Training(
            self._model,
            trainer.critic.optimizer_config,
            total_steps=total_steps * optimizer_steps_per_batch(config, prompts=trainer.critic_mini_batch_size),
            offload=trainer.placement.colocate_all and trainer.critic.optimizer_config.offload_after_step,
        )
        self._state = RankState({"critic": self._training.state})

    @property
    def module(self) -> ValuedLM:
        """The sharded model."""
        return self._model.module

    @property
    def leads(self) -> bool:
        """Whether this rank's values are those of its rows: ranks that share sequences all have the same."""
        return self._model.mesh.counts

    def values(self, batch: TrainBatch) -> Tensor:
        """Values of the response tokens of this rank's rows of the batch, [rows, response] float32 on the CPU."""
        return self._model.score(
            batch, lambda rows: self.module(rows.sequences, rows.attention_mask, rows.response_mask)
        )

    def update(self, batch: TrainBatch) -> dict[str, float]:
        """One training step over the whole batch, which has values and returns; the same metrics on every rank.

        As of the policy, but in mini-batches of critic_mini_batch_size prompts.
        """
        trainer, mesh = self._config.trainer, self._model.mesh
        shares = deal(
            batch, self._config, rank=mesh.data_rank, ranks=mesh.data_size, prompts=trainer.critic_mini_batch_size
        )
        objective = critic_gradient(self.module, trainer.algorithm)
        steps = [
            self._training.step(share, objective) for _ in range(trainer.update_epochs_per_batch) for share in shares
        ]
        return mean_of(steps, "critic")

    def export(self, directory: str) -> None:
        """Write the model as a directory that transformers loads; its output layer is there under its own name."""
        path = self._config.trainer.critic.model.path
        assert path is not None, "there is a critic where it has a path"
        dtype = self._config.generator.inference_engine.model_dtype
        export_model(directory, self.module.body, self._model.full_parameters(dtype), dtype, tokenizer=path)

    def save(self, directory: str) -> None:
        """Copy what a resume needs and begin to write it below `directory`, a path or URL of all ranks."""
        self._state.save(directory)

    def written(self) -> dict[str, FileRecord]:
        """Wait until all ranks have written what `save` began with; this rank's files."""
        return self._state.written()

    def load(self, directory: str) -> None:
        """Read what `save` wrote. Raises ValueError when `directory` is no such checkpoint."""
        self._state.load(directory)
