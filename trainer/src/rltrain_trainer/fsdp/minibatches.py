"""Dealing a training batch out to optimiser steps and ranks, with the weight of every token fixed beforehand.

A mini-batch is the same run of rows of the whole batch whatever the number of ranks, and each rank takes a run of it.
Weights come from the loss mask of the whole mini-batch, so no rank needs to ask another for a denominator. Pure
functions: it must not know of process groups or models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from rltrain_api.config import SkyRLTrainConfig
from rltrain_trainer.algorithms.reductions import loss_weights
from rltrain_trainer.data.batch import TrainBatch
from rltrain_trainer.fsdp.packing import plan_micro_batches, shares


@dataclass(frozen=True)
class MiniBatchShare:
    """One rank's rows of one mini-batch; the weights sum to their reductions over all ranks' shares together."""

    batch: TrainBatch
    policy_weights: Tensor  # [rows, response] float64, for the policy loss: trainer.algorithm.loss_reduction
    sequence_weights: Tensor  # [rows, response] float64, for the KL term: mean over sequences of means over tokens
    token_weights: Tensor  # [rows, response] float64, for entropy and metrics: mean over trained tokens
    plan: tuple[tuple[int, ...], ...] = ()  # the rows of each micro-batch

    def __len__(self) -> int:
        return len(self.batch)

    def micro_batches(self) -> Iterator[MiniBatchShare]:
        """The rows that go through the model together, one group after the other; as many on every rank.

        Where the plan has an empty one, it is a row that counts nothing: the rank must take part all the same.
        """
        for rows in self.plan:
            yield self.micro_batch(torch.tensor(rows)) if rows else self.micro_batch(torch.tensor([0]))._weightless()

    def micro_batch(self, chosen: slice | Tensor) -> MiniBatchShare:
        """Some of the rows, without columns that are padding in all of them."""
        batch = self.batch.rows(chosen).trimmed()
        return self._map(batch, lambda tensor: tensor[chosen][:, -batch.response_length :])

    def to(self, device: torch.device) -> MiniBatchShare:
        """The share with its tensors on `device`."""
        return self._map(self.batch.to(device), lambda tensor: tensor.to(device))

    def _weightless(self) -> MiniBatchShare:
        batch = replace(self.batch, loss_mask=torch.zeros_like(self.batch.loss_mask))
        return self._map(batch, torch.zeros_like)

    def _map(self, batch: TrainBatch, change: Callable[[Tensor], Tensor]) -> MiniBatchShare:
        return MiniBatchShare(
            batch=batch,
            policy_weights=change(self.policy_weights),
            sequence_weights=change(self.sequence_weights),
            token_weights=change(self.token_weights),
        )


def deal(batch: TrainBatch, config: SkyRLTrainConfig, *, rank: int, ranks: int, prompts: int) -> list[MiniBatchShare]:
    """This rank's shares of the mini-batches of one pass over `batch`, in order.

    rank, ranks: among those that get different sequences; prompts: of a mini-batch.
    """
    found = mini_batches(batch, config, prompts=prompts)
    return [_share(batch.rows(rows), config, rank=rank, ranks=ranks) for rows in found]


def mini_batches(batch: TrainBatch, config: SkyRLTrainConfig, *, prompts: int) -> list[slice]:
    """The rows of each mini-batch, in order: those of the trajectories of so many prompts.

    That is prompts · n_samples_per_prompt rows, or the steps of as many trajectories where every step is a row.
    """
    trajectories = prompts * config.generator.n_samples_per_prompt
    ids = batch.trajectory_ids
    if ids is None:
        return [slice(start, start + trajectories) for start in range(0, len(batch), trajectories)]
    starts = [0, *((ids[1:] != ids[:-1]).nonzero()[:, 0] + 1).tolist()][::trajectories]
    return [slice(start, end) for start, end in pairwise([*starts, len(batch)])]


def _share(mini_batch: TrainBatch, config: SkyRLTrainConfig, *, rank: int, ranks: int) -> MiniBatchShare:
    trainer, algorithm = config.trainer, config.trainer.algorithm
    mask = mini_batch.loss_mask
    dealt = shares(len(mini_batch), ranks)
    plan = plan_micro_batches(
        mini_batch.attention_mask.sum(dim=-1).tolist(),
        dealt,
        rows=trainer.micro_train_batch_size_per_gpu,
        packed=trainer.use_sample_packing,
    )[rank]
    mine = dealt[rank]
    # A rank without rows has one to go through the model with; it counts nothing.
    index = torch.tensor(mine if len(mine) else [0])
    policy_weights = loss_weights(
        mask, algorithm.loss_reduction, max_seq_len=algorithm.max_seq_len, group_ids=mini_batch.group_ids
    )
    return MiniBatchShare(
        batch=mini_batch.rows(index),
        policy_weights=policy_weights[index],
        sequence_weights=loss_weights(mask, "sequence_mean")[index],
        token_weights=loss_weights(mask, "token_mean")[index],
        plan=tuple(tuple(row - mine.start for row in rows) for rows in plan),
    )


def optimizer_steps_per_batch(config: SkyRLTrainConfig, *, prompts: int | None = None) -> int:
    """Optimiser steps of one training step with mini-batches of so many prompts (None: the policy's)."""
    trainer = config.trainer
    return trainer.update_epochs_per_batch * -(-trainer.train_batch_size // (prompts or trainer.policy_mini_batch_size))


def needs_old_logprobs(config: SkyRLTrainConfig) -> bool:
    """Whether the policy's log-probabilities must be computed before the update.

    With a single optimiser step per batch the policy is still the old one when its gradient is taken: its own
    log-probabilities are the old ones, and a forward pass over the batch is saved.
    """
    return optimizer_steps_per_batch(config) > 1


def needs_reference(config: SkyRLTrainConfig) -> bool:
    """Whether a reference model's log-probabilities are needed."""
    algorithm = config.trainer.algorithm
    return algorithm.use_kl_loss or algorithm.use_kl_in_reward


def needs_critic(config: SkyRLTrainConfig) -> bool:
    """Whether a critic is trained."""
    return config.trainer.critic.model.path is not None


def reference_is_the_policy(config: SkyRLTrainConfig) -> bool:
    """Whether the reference is the policy without its adapters, so that no second model is loaded.

    So it is where adapters are trained on the model that is the reference, on the same GPUs, and it stays as it is.
    """
    trainer = config.trainer
    policy, reference = trainer.policy, trainer.ref
    return (
        policy.model.lora.rank > 0
        and reference.model.path == policy.model.path
        and dict(reference.model_config_kwargs) == dict(policy.model_config_kwargs)
        and (trainer.placement.colocate_policy_ref or trainer.placement.colocate_all)
        and not trainer.update_ref_every_epoch
    )
