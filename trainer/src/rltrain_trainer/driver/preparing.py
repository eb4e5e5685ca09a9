"""From trajectories to a batch that can be trained on: `prepare`, between rollouts and the update of each step.

The order is SkyRL's: leave out groups without a signal → log-probabilities of policy and reference, values → divergence
in the reward → advantages and returns → their normalisation → choices over whole mini-batches. What each of these means
is in `rltrain_trainer.algorithms`; this module knows their order and which of them the configuration asks for. It must
not know Ray, nor how models compute.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from rltrain_api.config import SkyRLTrainConfig
from rltrain_trainer.algorithms.advantages import compute_advantages, normalized_over_batch
from rltrain_trainer.algorithms.covariance import choose, chooses_tokens
from rltrain_trainer.algorithms.filters import zero_variance_filter
from rltrain_trainer.algorithms.kl import KLController, penalized_rewards
from rltrain_trainer.algorithms.masking import masked_mean
from rltrain_trainer.algorithms.steps import step_wise_advantages
from rltrain_trainer.data.batch import TrainBatch, build_batch
from rltrain_trainer.fsdp.minibatches import mini_batches, needs_critic, needs_old_logprobs, needs_reference
from rltrain_trainer.rollout.trajectory import Trajectory


class Scorer(Protocol):
    """What is asked of the models; each gives [batch, response] float32."""

    async def logprobs(self, batch: TrainBatch) -> Tensor:
        """Log-probabilities of every response token under the policy."""

    async def reference_logprobs(self, batch: TrainBatch) -> Tensor:
        """The same under the frozen reference."""

    async def values(self, batch: TrainBatch) -> Tensor:
        """The critic's value of every response token."""


@dataclass(frozen=True)
class Prepared:
    """A batch with everything that the update reads, and numbers about it under SkyRL's names."""

    batch: TrainBatch
    metrics: dict[str, float]


async def prepare(
    trajectories: Sequence[Trajectory],
    policy: Scorer,
    config: SkyRLTrainConfig,
    controller: KLController,
    *,
    step: int,
    pad_token_id: int,
    timed: Callable[[str], AbstractContextManager[None]] = lambda _: nullcontext(),
) -> Prepared:
    """The batch of one training step.

    trajectories: those to train on, after dynamic sampling, samples of one prompt side by side; controller: of the
    weight of the divergence in the reward, which this moves on; step: the number of the step, from which random choices
    follow, so that a resumed run makes the same; timed: a context that measures a part, by SkyRL's name of it
    (`timing/*` without the prefix). Models are asked only for what the configuration needs.
    """
    algorithm = config.trainer.algorithm
    metrics: dict[str, float] = {}
    with timed("convert_to_training_input"):
        batch = build_batch(trajectories, pad_token_id)
    if algorithm.zero_variance_filter:
        batch, found = _without_equal_rewards(batch)
        metrics |= found
    with timed("fwd_logprobs_values_reward"):
        batch = await _scored(batch, policy, config)
    if algorithm.use_kl_in_reward:
        with timed("apply_reward_kl_penalty"):
            batch, found = _with_divergence_in_reward(batch, config, controller)
            metrics |= found
    with timed("compute_advantages_and_returns"):
        batch, found = _with_advantages(batch, config)
        metrics |= found
        if chooses_tokens(algorithm.policy_loss_type):
            batch = replace(batch, chosen=_chosen(batch, config, step))
    if not needs_old_logprobs(config):
        batch = replace(batch, old_logprobs=None)  # the policy of the single optimiser step is the old one itself
    return Prepared(batch, metrics)


def _without_equal_rewards(batch: TrainBatch) -> tuple[TrainBatch, dict[str, float]]:
    kept = zero_variance_filter(batch.token_rewards, batch.loss_mask, batch.group_ids, ends=batch.is_last_step)
    dropped = batch.loss_mask.any(dim=-1) & ~kept.any(dim=-1)
    return replace(batch, loss_mask=kept), {"reward/num_zero_variance_filtered": float(dropped.sum())}


async def _scored(batch: TrainBatch, policy: Scorer, config: SkyRLTrainConfig) -> TrainBatch:
    """The batch with what the models say of it, as far as the configuration needs it."""
    algorithm = config.trainer.algorithm
    wants_policy = (
        needs_old_logprobs(config) or algorithm.use_kl_in_reward or chooses_tokens(algorithm.policy_loss_type)
    )
    if wants_policy:
        batch = replace(batch, old_logprobs=await policy.logprobs(batch))
    if needs_reference(config):
        batch = replace(batch, reference_logprobs=await policy.reference_logprobs(batch))
    if needs_critic(config):
        batch = replace(batch, values=await policy.values(batch))
    return batch


def _with_divergence_in_reward(
    batch: TrainBatch, config: SkyRLTrainConfig, controller: KLController
) -> tuple[TrainBatch, dict[str, float]]:
    """Rewards less the divergence at the controller's weight, which then moves on."""
    assert batch.old_logprobs is not None, "scored before"
    assert batch.reference_logprobs is not None, "scored before"
    rewards, metrics = penalized_rewards(
        batch.token_rewards,
        batch.old_logprobs,
        batch.reference_logprobs,
        batch.loss_mask,
        kind=config.trainer.algorithm.kl_estimator_type,
        weight=controller.value,
    )
    controller.update(metrics["loss/avg_kl"], len(batch))
    return replace(batch, token_rewards=rewards), metrics


def _with_advantages(batch: TrainBatch, config: SkyRLTrainConfig) -> tuple[TrainBatch, dict[str, float]]:
    """The batch with advantages and returns; metrics are of the advantages before they are normalised."""
    algorithm = config.trainer.algorithm
    ends = torch.ones(len(batch), dtype=torch.bool)
    if config.generator.step_wise_trajectories:
        assert batch.trajectory_ids is not None, "build_batch numbers them"
        assert batch.is_last_step is not None, "build_batch marks them"
        ends = batch.is_last_step
        advantages, returns = step_wise_advantages(
            algorithm.advantage_estimator,
            batch.token_rewards,
            batch.response_mask,
            batch.group_ids,
            trajectory_ids=batch.trajectory_ids,
            is_last_step=ends,
            config=algorithm,
        )
    else:
        advantages, returns = compute_advantages(
            algorithm.advantage_estimator,
            batch.token_rewards,
            batch.response_mask,
            batch.group_ids,
            values=batch.values,
            config=algorithm,
        )
    metrics = {
        "loss/avg_final_rewards": batch.token_rewards[ends].sum(dim=-1).mean().item(),
        "loss/avg_raw_advantages": masked_mean(advantages, batch.response_mask).item(),
        "loss/avg_raw_advantages_abs": masked_mean(advantages.abs(), batch.response_mask).item(),
    }
    if algorithm.advantage_batch_normalize:
        advantages = normalized_over_batch(advantages, batch.response_mask)
    return batch.with_advantages(advantages, returns), metrics


def _chosen(batch: TrainBatch, config: SkyRLTrainConfig, step: int) -> Tensor:
    """[batch, response] bool: what the loss picks out of each mini-batch, the same whenever this step is done again."""
    assert batch.old_logprobs is not None, "scored before"
    assert batch.advantages is not None, "estimated before"
    algorithm = config.trainer.algorithm
    generator = torch.Generator().manual_seed((config.trainer.seed << 32) + step)
    chosen = torch.zeros_like(batch.loss_mask)
    for rows in mini_batches(batch, config, prompts=config.trainer.policy_mini_batch_size):
        chosen[rows] = choose(
            algorithm.policy_loss_type,
            batch.old_logprobs[rows],
            batch.advantages[rows],
            batch.loss_mask[rows],
            algorithm,
            generator,
        )
    return chosen
