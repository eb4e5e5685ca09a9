"""Advantage estimators: from rewards to how much better than expected each token was."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from rltrain_api.config import AlgorithmConfig
from rltrain_trainer.algorithms.groups import GroupIds, group_indices, group_sums
from rltrain_trainer.algorithms.masking import (
    VARIANCE_EPSILON,
    at_least_float32,
    finite_where_masked,
    masked,
    masked_mean,
    whitened,
)
from rltrain_trainer.algorithms.registry import Registry

STD_EPSILON = 1e-6
MEAN_EPSILON = 1e-6


class AdvantageEstimator(Protocol):
    """One estimator; see `compute_advantages` for shapes."""

    def __call__(
        self,
        token_rewards: Tensor,
        response_mask: Tensor,
        group_ids: GroupIds,
        *,
        values: Tensor | None,
        config: AlgorithmConfig,
    ) -> tuple[Tensor, Tensor]:
        """Advantages and returns."""


ADVANTAGE_ESTIMATORS: Registry[AdvantageEstimator] = Registry("trainer.algorithm.advantage_estimator")
register_advantage_estimator = ADVANTAGE_ESTIMATORS.register

# These value each token by what followed it, so they need a sequence as a whole.
ESTIMATORS_OVER_TIME = frozenset({"gae", "reinforce++"})


@torch.no_grad()
def compute_advantages(
    estimator: str,
    token_rewards: Tensor,
    response_mask: Tensor,
    group_ids: GroupIds,
    *,
    values: Tensor | None = None,
    config: AlgorithmConfig,
) -> tuple[Tensor, Tensor]:
    """Advantages and returns, each [batch, tokens] in float32 or better, without gradient.

    token_rewards: [batch, tokens], the reward given at each token; response_mask: [batch, tokens], 1 on all tokens of
    the response; group_ids: [batch], equal for samples of one prompt; values: [batch, tokens], the critic's, for
    estimators that need one. NaN and infinity where the mask is 0 are taken for 0. Raises ValueError for an unknown
    estimator.
    """
    estimate = ADVANTAGE_ESTIMATORS.named(estimator)
    rewards = finite_where_masked(at_least_float32(token_rewards), response_mask)
    return estimate(rewards, response_mask, group_ids, values=values, config=config)


@register_advantage_estimator("grpo")
def grpo(
    token_rewards: Tensor,
    response_mask: Tensor,
    group_ids: GroupIds,
    *,
    values: Tensor | None,
    config: AlgorithmConfig,
) -> tuple[Tensor, Tensor]:
    """Group-relative policy optimisation (DeepSeekMath, arXiv 2402.03300; without the division: Dr. GRPO, 2503.20783).

    With s the summed reward of each response, μ and σ its mean and unbiased deviation over the responses to the same
    prompt: (s - μ) / (σ + 1e-6) on every token of the response, or s - μ when grpo_norm_by_std is off. A prompt with a
    single response has μ = 0 and σ = 1. Returns equal advantages.
    """
    scores, sizes, means, groups = _group_statistics(token_rewards, group_ids)
    means = torch.where(sizes > 1, means, 0.0)
    deviations = scores - means[groups]
    if config.grpo_norm_by_std:
        variances = group_sums(deviations.square(), groups) / (sizes - 1).clamp(min=1)
        deviations = deviations / (torch.where(sizes > 1, variances.sqrt(), 1.0)[groups] + STD_EPSILON)
    return _on_all_tokens(deviations, response_mask)


@register_advantage_estimator("rloo")
def rloo(
    token_rewards: Tensor,
    response_mask: Tensor,
    group_ids: GroupIds,
    *,
    values: Tensor | None,
    config: AlgorithmConfig,
) -> tuple[Tensor, Tensor]:
    """REINFORCE leave-one-out (arXiv 2402.14740): each response against the mean of the others to the same prompt.

    With n responses that is (s - μ)·n / (n - 1), on every token; 0 for a prompt with a single response. Returns equal
    advantages.
    """
    scores, sizes, means, groups = _group_statistics(token_rewards, group_ids)
    factors = torch.where(sizes > 1, sizes / (sizes - 1).clamp(min=1), 0.0)
    return _on_all_tokens((scores - means[groups]) * factors[groups], response_mask)


@register_advantage_estimator("maxrl")
def maxrl(
    token_rewards: Tensor,
    response_mask: Tensor,
    group_ids: GroupIds,
    *,
    values: Tensor | None,
    config: AlgorithmConfig,
) -> tuple[Tensor, Tensor]:
    """Maximum-likelihood reinforcement learning (arXiv 2602.02710): (s - μ) / (μ + 1e-6) on every token.

    Made for rewards of 0 and 1, where μ is the pass rate, so that rare successes weigh most. As in SkyRL a prompt with
    a single response keeps s. Returns equal advantages.
    """
    scores, sizes, means, groups = _group_statistics(token_rewards, group_ids)
    relative = (scores - means[groups]) / (means[groups] + MEAN_EPSILON)
    return _on_all_tokens(torch.where(sizes[groups] > 1, relative, scores), response_mask)


@register_advantage_estimator("reinforce++")
def reinforce_plus_plus(
    token_rewards: Tensor,
    response_mask: Tensor,
    group_ids: GroupIds,
    *,
    values: Tensor | None,
    config: AlgorithmConfig,
) -> tuple[Tensor, Tensor]:
    """REINFORCE++ (arXiv 2501.03262): discounted rewards to come, whitened over all response tokens of the batch.

    Going back in time R ← r + gamma·R is the return of a token; where the mask is 0 the sum begins anew.
    """
    mask = at_least_float32(response_mask)
    returns = torch.zeros_like(token_rewards)
    running = torch.zeros_like(token_rewards[:, 0])
    for token in reversed(range(token_rewards.shape[1])):
        running = token_rewards[:, token] + config.gamma * running
        returns[:, token] = running
        running = running * mask[:, token]
    return whitened(returns, response_mask), returns


@register_advantage_estimator("gae")
def gae(
    token_rewards: Tensor,
    response_mask: Tensor,
    group_ids: GroupIds,
    *,
    values: Tensor | None,
    config: AlgorithmConfig,
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (arXiv 1506.02438), whitened over all response tokens of the batch.

    Going back in time, with V = 0 after the last token: δ = r + gamma·V_next - V and Â = δ + gamma·lambd·Â_next.
    Returns are Â + V before whitening: what the critic should have said. Raises ValueError without values.
    """
    if values is None:
        raise ValueError("trainer.algorithm.advantage_estimator: gae needs the values of a critic; set critic.model")
    values = finite_where_masked(at_least_float32(values), response_mask)
    advantages = torch.zeros_like(values)
    following_value = following_advantage = torch.zeros_like(values[:, 0])
    for token in reversed(range(values.shape[1])):
        error = token_rewards[:, token] + config.gamma * following_value - values[:, token]
        advantages[:, token] = error + config.gamma * config.lambd * following_advantage
        following_value, following_advantage = values[:, token], advantages[:, token]
    return whitened(advantages, response_mask), advantages + values


def normalized_over_batch(advantages: Tensor, response_mask: Tensor) -> Tensor:
    """Advantages shifted and scaled to mean 0 and variance 1 over all response tokens of the batch; 0 elsewhere.

    trainer.algorithm.advantage_batch_normalize, in SkyRL's form: the variance is biased and at least 1e-8. Upstream
    takes the mean over padding too, so that its result depends on the longest response; here padding does not count.
    """
    centred = masked(advantages - masked_mean(advantages, response_mask), response_mask)
    return centred * masked_mean(centred.square(), response_mask).clamp(min=VARIANCE_EPSILON).rsqrt()


def _group_statistics(token_rewards: Tensor, group_ids: GroupIds) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Summed reward [batch]; size and mean reward [groups]; the group of each response [batch]."""
    scores = token_rewards.sum(dim=-1)
    groups = group_indices(group_ids).to(scores.device)
    sizes = group_sums(torch.ones_like(scores), groups)
    return scores, sizes, group_sums(scores, groups) / sizes, groups


def _on_all_tokens(scores: Tensor, response_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Advantages and returns that are the same for every token of a response; scores: [batch]."""
    advantages = scores[:, None] * response_mask.to(scores.dtype)
    return advantages, advantages
