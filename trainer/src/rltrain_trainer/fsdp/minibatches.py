"""Dealing a training batch out to optimiser steps and ranks, with the weight of every token fixed beforehand.

A mini-batch is the same run of rows of the whole batch whatever the number of ranks, and each rank takes an equal run
of it. Weights come from the loss mask of the whole mini-batch, so no rank needs to ask another for a denominator. Pure
functions: it must not know of process groups or models.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rltrain_api.config import SkyRLTrainConfig
from rltrain_trainer.algorithms.reductions import loss_weights
from rltrain_trainer.data.batch import TrainBatch, shard_slice


@dataclass(frozen=True)
class MiniBatchShare:
    """One rank's rows of one mini-batch; the weights sum to their reductions over all ranks' shares together."""

    batch: TrainBatch
    policy_weights: Tensor  # [rows, response] float64, for the policy loss: trainer.algorithm.loss_reduction
    sequence_weights: Tensor  # [rows, response] float64, for the KL term: mean over sequences of means over tokens
    token_weights: Tensor  # [rows, response] float64, for entropy and metrics: mean over trained tokens
    reference_logprobs: Tensor | None = None  # [rows, response] float32

    def __len__(self) -> int:
        return len(self.batch)

    def micro_batch(self, chosen: slice) -> MiniBatchShare:
        """Some of the rows, without columns that are padding in all of them."""
        batch = self.batch.rows(chosen).trimmed()
        return self._map(batch, lambda tensor: tensor[chosen, -batch.response_length :])

    def to(self, device: torch.device) -> MiniBatchShare:
        """The share with its tensors on `device`."""
        return self._map(self.batch.to(device), lambda tensor: tensor.to(device))

    def with_reference(self, logprobs: Tensor) -> MiniBatchShare:
        """The share with the reference model's log-probabilities, [rows, response]."""
        return replace(self, reference_logprobs=logprobs)

    def _map(self, batch: TrainBatch, change: Callable[[Tensor], Tensor]) -> MiniBatchShare:
        reference = self.reference_logprobs
        return MiniBatchShare(
            batch=batch,
            policy_weights=change(self.policy_weights),
            sequence_weights=change(self.sequence_weights),
            token_weights=change(self.token_weights),
            reference_logprobs=None if reference is None else change(reference),
        )


def deal(batch: TrainBatch, config: SkyRLTrainConfig, *, rank: int, world_size: int) -> list[MiniBatchShare]:
    """This rank's shares of the mini-batches of one pass over `batch`, in order.

    A mini-batch has policy_mini_batch_size · n_samples_per_prompt sequences. Raises ValueError when a mini-batch cannot
    be dealt out evenly.
    """
    size = config.trainer.policy_mini_batch_size * config.generator.n_samples_per_prompt
    return [
        _share(batch.rows(slice(start, start + size)), config, rank=rank, world_size=world_size)
        for start in range(0, len(batch), size)
    ]


def _share(mini_batch: TrainBatch, config: SkyRLTrainConfig, *, rank: int, world_size: int) -> MiniBatchShare:
    algorithm = config.trainer.algorithm
    mine = shard_slice(len(mini_batch), rank, world_size)
    mask = mini_batch.loss_mask
    policy_weights = loss_weights(
        mask, algorithm.loss_reduction, max_seq_len=algorithm.max_seq_len, group_ids=mini_batch.group_ids
    )
    return MiniBatchShare(
        batch=mini_batch.rows(mine),
        policy_weights=policy_weights[mine],
        sequence_weights=loss_weights(mask, "sequence_mean")[mine],
        token_weights=loss_weights(mask, "token_mean")[mine],
    )


def optimizer_steps_per_batch(config: SkyRLTrainConfig) -> int:
    """Optimiser steps of one training step."""
    trainer = config.trainer
    return trainer.update_epochs_per_batch * -(-trainer.train_batch_size // trainer.policy_mini_batch_size)


def needs_old_logprobs(config: SkyRLTrainConfig) -> bool:
    """Whether log-probabilities must be computed before the update.

    With a single optimiser step per batch the policy is still the old one when its gradient is taken: its own
    log-probabilities are the old ones, and a forward pass over the batch is saved.
    """
    return optimizer_steps_per_batch(config) > 1
