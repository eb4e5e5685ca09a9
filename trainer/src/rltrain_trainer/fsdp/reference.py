"""One rank of the frozen reference, where it is a model of its own. It must not know of the policy or of losses."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from rltrain_api.config import SkyRLTrainConfig
from rltrain_trainer.checkpoint.manifest import FileRecord
from rltrain_trainer.data.batch import TrainBatch
from rltrain_trainer.fsdp.building import build_reference
from rltrain_trainer.fsdp.state import RankState, Replaced


class ReferenceRank:
    """The reference on this rank. Every method is a collective. Raises ValueError as `PolicyRank` does."""

    def __init__(self, config: SkyRLTrainConfig) -> None:
        self._model = build_reference(config)
        self._state = RankState({"reference": Replaced(self._model.module)})
        self._temperature = config.trainer.algorithm.temperature

    @property
    def leads(self) -> bool:
        """Whether this rank's scores are those of its rows: ranks that share sequences all have the same."""
        return self._model.mesh.counts

    def logprobs(self, batch: TrainBatch) -> Tensor:
        """Log-probabilities of this rank's rows of the batch, [rows, response] float32 on the CPU.

        Logits are divided by the temperature, as the policy's are.
        """
        assert self._temperature is not None, "resolve() sets the temperature"

        def scored(rows: TrainBatch) -> Tensor:
            logprobs: Tensor = self._model.module(
                rows.sequences, rows.attention_mask, rows.response_mask, self._temperature
            )[0]
            return logprobs

        return self._model.score(batch, scored)

    def take(self, parameters: Iterable[tuple[str, Tensor]]) -> None:
        """Become the model with these full parameters, by their Hugging Face names.

        Raises ValueError when it is of another kind or size.
        """
        self._model.take(parameters)

    def save(self, directory: str) -> None:
        """Copy the model and begin to write it below `directory`, a path or URL of all ranks."""
        self._state.save(directory)

    def written(self) -> dict[str, FileRecord]:
        """Wait until all ranks have written what `save` began with; this rank's files."""
        return self._state.written()

    def load(self, directory: str) -> None:
        """Read what `save` wrote. Raises ValueError when `directory` is no such checkpoint."""
        self._state.load(directory)
