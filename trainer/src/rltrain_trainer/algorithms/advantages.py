"""Advantage estimators: from rewards to how much better than expected each token was."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from rltrain_api.config import AlgorithmConfig
from rltrain_trainer.algorithms.masking import at_least_float32

GroupIds = Sequence[str] | Sequence[int] | Tensor

STD_EPSILON = 1e-6


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
    estimators that need one. Raises ValueError for an unknown estimator.
    """
    try:
        estimate = ADVANTAGE_ESTIMATORS[estimator]
    except KeyError as error:
        known = ", ".join(sorted(ADVANTAGE_ESTIMATORS))
        raise ValueError(f"trainer.algorithm.advantage_estimator: {estimator} is not one of {known}") from error
    return estimate(token_rewards, response_mask, group_ids, values=values, config=config)


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
    scores = at_least_float32(token_rewards).sum(dim=-1)
    groups = group_indices(group_ids).to(scores.device)
    sizes = _group_sums(torch.ones_like(scores), groups)
    means = torch.where(sizes > 1, _group_sums(scores, groups) / sizes, 0.0)
    deviations = scores - means[groups]
    if config.grpo_norm_by_std:
        variances = _group_sums(deviations.square(), groups) / (sizes - 1).clamp(min=1)
        deviations = deviations / (torch.where(sizes > 1, variances.sqrt(), 1.0)[groups] + STD_EPSILON)
    advantages = deviations[:, None] * response_mask.to(scores.dtype)
    return advantages, advantages


def group_indices(group_ids: GroupIds) -> Tensor:
    """[batch] int64: the groups numbered from 0 in order of appearance."""
    ids = group_ids.tolist() if isinstance(group_ids, Tensor) else group_ids
    numbers: dict[str | int, int] = {}
    return torch.tensor([numbers.setdefault(name, len(numbers)) for name in ids])


def _group_sums(values: Tensor, groups: Tensor) -> Tensor:
    """[groups]: the sum of `values` [batch] over each group."""
    return values.new_zeros(int(groups.max()) + 1).index_add_(0, groups, values)


ADVANTAGE_ESTIMATORS: dict[str, AdvantageEstimator] = {"grpo": grpo}
