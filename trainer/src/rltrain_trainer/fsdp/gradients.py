"""The gradient of one mini-batch, micro-batch by micro-batch, and the numbers that are reported of it.

Everything is a weighted sum whose weights `rltrain_trainer.fsdp.minibatches` fixed for the whole mini-batch, so the
gradient does not depend on how rows are dealt out to ranks and micro-batches.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rltrain_api.config import AlgorithmConfig
from rltrain_trainer.algorithms.objective import critic_objective, policy_objective
from rltrain_trainer.algorithms.statistics import joined
from rltrain_trainer.fsdp.minibatches import MiniBatchShare
from rltrain_trainer.models.scored import ScoredCausalLM
from rltrain_trainer.models.valued import ValuedLM

# These rows' part of the loss, with gradient, and of the metrics, as `rltrain_trainer.algorithms.objective` has them.
Objective = Callable[[MiniBatchShare], tuple[Tensor, dict[str, Tensor]]]


def accumulate_gradients(share: MiniBatchShare, objective: Objective, device: torch.device) -> dict[str, Tensor]:
    """Add the gradient of this rank's share to the model's, which then holds its part of the sum over ranks.

    Returns this rank's part of the mini-batch's numbers, float64 scalars on `device`, which
    `rltrain_trainer.fsdp.metrics.over_ranks` joins to the mini-batch's. A collective of the model's ranks.
    """
    total: dict[str, Tensor] = {}
    for micro in share.micro_batches():
        loss, metrics = objective(micro.to(device))
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        total = joined(total, metrics)
    return total


def policy_gradient(model: ScoredCausalLM, algorithm: AlgorithmConfig) -> Objective:
    """The policy's objective as a function of rows."""
    temperature = algorithm.temperature
    assert temperature is not None, "resolve() sets the temperature"

    def objective(micro: MiniBatchShare) -> tuple[Tensor, dict[str, Tensor]]:
        batch = micro.batch
        logprobs, entropy = model(batch.sequences, batch.attention_mask, batch.response_mask, temperature)
        return policy_objective(logprobs, entropy, batch, micro, algorithm)

    return objective


def critic_gradient(model: ValuedLM, algorithm: AlgorithmConfig) -> Objective:
    """The critic's objective as a function of rows."""

    def objective(micro: MiniBatchShare) -> tuple[Tensor, dict[str, Tensor]]:
        batch = micro.batch
        values = model(batch.sequences, batch.attention_mask, batch.response_mask)
        return critic_objective(values, batch, micro, algorithm)

    return objective
