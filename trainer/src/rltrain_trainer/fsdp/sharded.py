"""One model spread over the ranks: what policy, critic and reference have in common.

Every method but `parameter_specs` is a collective: all ranks of the model call it in the same order. It must not know
of losses or optimisers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from rltrain_trainer.data.batch import TrainBatch
from rltrain_trainer.fsdp.packing import plan_micro_batches, shares
from rltrain_trainer.fsdp.sharding import (
    RankMesh,
    Sharding,
    TokenModel,
    free_gathered,
    full_tensor,
    set_parameter,
    shard_model,
)
from rltrain_trainer.models.adapters import ADAPTER, adapter_of, is_adapter, low_rank, merged_weight, plain_name
from rltrain_trainer.models.scored import PREFIX
from rltrain_trainer.weight_sync.buckets import DTYPES, ParameterSpec

Model = TypeVar("Model", bound=TokenModel)


class ShardedModel(Generic[Model]):
    """A model on its mesh. `rows_at_once`: sequences of one forward pass without gradient on one GPU."""

    def __init__(self, module: Model, mesh: RankMesh, sharding: Sharding, *, rows_at_once: int) -> None:
        self.module = module
        self.mesh = mesh
        self._rows_at_once = rows_at_once
        self._groups = shard_model(module, mesh, sharding)

    @torch.no_grad()
    def score(self, batch: TrainBatch, forward: Callable[[TrainBatch], Tensor]) -> Tensor:
        """What `forward` says of the response tokens of this rank's rows, [rows, response] float32 on the CPU.

        batch: the whole batch, of which each rank takes its run of rows (`packing.shares`); forward: from rows on the
        model's device to [rows, response]. Dropout is off.
        """
        dealt = shares(len(batch), self.mesh.data_size)
        mine = dealt[self.mesh.data_rank]
        plan = plan_micro_batches(
            batch.attention_mask.sum(dim=-1).tolist(),
            dealt,
            rows=self._rows_at_once,
            packed=self.module.attention.packed,
        )[self.mesh.data_rank]
        result = torch.zeros((len(mine), batch.response_length))
        training = self.module.training
        self.module.eval()
        for rows in plan:
            micro = batch.rows(torch.tensor(rows or [0])).trimmed().to(self.mesh.device)
            scores = forward(micro).float().cpu()
            if rows:
                result[torch.tensor(rows) - mine.start, -micro.response_length :] = scores
        self.module.train(training)
        free_gathered(self._groups)
        return result

    def parameter_specs(self, dtype: str) -> list[ParameterSpec]:
        """What `full_parameters` yields: Hugging Face names, full shapes, type; tied parameters once."""
        return [ParameterSpec(hf_name(name), tuple(parameter.shape), dtype) for name, parameter in self._plain()]

    @torch.no_grad()
    def full_parameters(self, dtype: str) -> Iterator[tuple[str, Tensor]]:
        """The full parameters one by one, adapters merged into them, under Hugging Face's names, on this rank's device.

        A collective per parameter: every rank must exhaust the iterator.
        """
        wanted, device = DTYPES[dtype], self.mesh.device
        for name, parameter in self._plain():
            layer = adapter_of(self.module, name)
            if layer is None:
                yield hf_name(name), full_tensor(parameter.to(wanted), device)
                continue
            low, high = (full_tensor(part, device) for part in low_rank(layer))
            merged = merged_weight(full_tensor(parameter, device), low, high, layer.scaling[ADAPTER])
            yield hf_name(name), merged.to(wanted)

    def take(self, parameters: Iterable[tuple[str, Tensor]]) -> None:
        """Become another model of the same shape, given by its full parameters under Hugging Face's names.

        Raises ValueError when it is of another shape.
        """
        own = {hf_name(name): parameter for name, parameter in self._plain()}
        taken = set()
        for name, full in parameters:
            if name not in own or own[name].shape != full.shape:
                raise ValueError(
                    f"parameter {name} of shape {list(full.shape)}: the model that shall take it over has none such; "
                    "both must be of the same kind and size"
                )
            set_parameter(own[name], full)
            taken.add(name)
        if missing := sorted(own.keys() - taken):
            raise ValueError(f"parameters {', '.join(missing)}: the model that is taken over has none such")

    def _plain(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters but for those of adapters."""
        return ((name, part) for name, part in self.module.named_parameters() if not is_adapter(name))


def hf_name(name: str) -> str:
    """A parameter's name in Hugging Face's model, without what adapters and this package put into it."""
    return plain_name(name.removeprefix(PREFIX))
