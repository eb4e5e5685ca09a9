"""Policy losses that treat a few tokens differently, those whose covariance feeds the collapse of entropy.

Both are of "The entropy mechanism of reinforcement learning for reasoning language models" (arXiv 2505.22617). The
covariance of a token is (log π - mean log π)·(A - mean A) over the trained tokens of the mini-batch. Which tokens are
chosen depends on all of them, so it cannot be decided where only some of the rows are: `choose` decides for a whole
mini-batch, before the update and by the policy as it was then, and `chosen_loss` is the loss of any of its rows. Before
the first optimiser step on a batch that is the paper's choice exactly; later steps keep to it, where the paper would
choose anew. Upstream chooses within each micro-batch, so that its choice depends on how rows are dealt out; in its
later releases it does so by advantages that the reduction has scaled already, for which the bounds are not meant.

Neither loss takes an off-policy correction; validation refuses the two together.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from rltrain_api.config import AlgorithmConfig
from rltrain_trainer.algorithms.losses import (
    LossAndMetrics,
    PolicyLoss,
    clipped_surrogate,
    register_policy_loss,
    share_of_tokens,
)
from rltrain_trainer.algorithms.masking import bounded_exp, log_ratio, masked, masked_mean


def chooses_tokens(policy_loss_type: str) -> bool:
    """Whether the loss needs `choose` for each mini-batch, and with it the log-probabilities from before the update."""
    return policy_loss_type in _CHOICES


@torch.no_grad()
def choose(
    name: str,
    old_logprobs: Tensor,
    advantages: Tensor,
    loss_mask: Tensor,
    config: AlgorithmConfig,
    generator: torch.Generator | None = None,
) -> Tensor:
    """[batch, tokens] bool: the tokens of a whole mini-batch that the loss treats differently.

    old_logprobs, advantages, loss_mask: [batch, tokens]; generator: of clip_cov's random choice, on the tensors' device
    (torch's own if not given).
    """
    trained = loss_mask.bool()
    covariance = covariances(old_logprobs, advantages, loss_mask)[trained]
    chosen = torch.zeros_like(trained)
    chosen[trained] = _CHOICES[name](covariance, config, generator)
    return chosen


def chosen_loss(name: str, chosen: Tensor) -> PolicyLoss:
    """The loss of rows for which the choice has been made; chosen: [batch, tokens] bool."""
    return partial(_LOSSES[name], chosen)


def covariances(logprobs: Tensor, advantages: Tensor, loss_mask: Tensor) -> Tensor:
    """[batch, tokens]: each trained token's part of the covariance of log-probability and advantage; 0 elsewhere."""
    deviations = (masked(tensor - masked_mean(tensor, loss_mask), loss_mask) for tensor in (logprobs, advantages))
    first, second = deviations
    return first * second


def _choose_for_clip_cov(covariance: Tensor, config: AlgorithmConfig, generator: torch.Generator | None) -> Tensor:
    """At random clip_cov.clip_ratio of all trained tokens, at least 1, among those with covariance within bounds."""
    settings = config.clip_cov
    candidates = ((covariance > settings.clip_cov_lb) & (covariance < settings.clip_cov_ub)).nonzero().flatten()
    count = max(int(settings.clip_ratio * len(covariance)), 1)
    order = torch.randperm(len(candidates), generator=generator, device=covariance.device)
    chosen = torch.zeros_like(covariance, dtype=torch.bool)
    chosen[candidates[order[:count]]] = True
    return chosen


def _choose_for_kl_cov(covariance: Tensor, config: AlgorithmConfig, generator: torch.Generator | None) -> Tensor:
    """The kl_cov.kl_cov_frac of all trained tokens, at least 1, that have the greatest covariance."""
    count = min(max(int(config.kl_cov.kl_cov_frac * len(covariance)), 1), len(covariance))
    chosen = torch.zeros_like(covariance, dtype=torch.bool)
    chosen[covariance.topk(count).indices] = True
    return chosen


def _clip_cov(
    chosen: Tensor,
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    loss_mask: Tensor,
    *,
    rollout_logprobs: Tensor | None,
    config: AlgorithmConfig,
) -> LossAndMetrics:
    ratio = bounded_exp(log_ratio(logprobs, old_logprobs, loss_mask))
    loss, _ = clipped_surrogate(ratio, advantages, loss_mask, config)
    return masked(loss, ~chosen), {"clip_ratio": share_of_tokens(chosen, loss_mask)}


def _kl_cov(
    chosen: Tensor,
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    loss_mask: Tensor,
    *,
    rollout_logprobs: Tensor | None,
    config: AlgorithmConfig,
) -> LossAndMetrics:
    difference = log_ratio(logprobs, old_logprobs, loss_mask)
    penalty = masked(config.kl_cov.ppo_kl_coef * difference.abs(), chosen)
    loss = -advantages * bounded_exp(difference) + penalty
    return loss, {"clip_ratio": loss.new_zeros(())}


@register_policy_loss("clip_cov")
def clip_cov(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    loss_mask: Tensor,
    *,
    rollout_logprobs: Tensor | None,
    config: AlgorithmConfig,
) -> LossAndMetrics:
    """Clip-Cov: PPO's clipped surrogate, without the tokens that were chosen.

    clip_cov.clip_ratio of the trained tokens are drawn from those with covariance between clip_cov_lb and clip_cov_ub.
    Called like this, the rows are taken for a whole mini-batch. Upstream draws among tokens that are not clipped
    already; before the update none is, and afterwards a clipped token has no gradient whether it was drawn or not.
    clip_ratio: the share of tokens chosen.
    """
    chosen = choose("clip_cov", old_logprobs, advantages, loss_mask, config)
    return _clip_cov(
        chosen, logprobs, old_logprobs, advantages, loss_mask, rollout_logprobs=rollout_logprobs, config=config
    )


@register_policy_loss("kl_cov")
def kl_cov(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    loss_mask: Tensor,
    *,
    rollout_logprobs: Tensor | None,
    config: AlgorithmConfig,
) -> LossAndMetrics:
    """KL-Cov: -r·A, plus kl_cov.ppo_kl_coef·|log π - log π_old| on the tokens that were chosen.

    Those are the kl_cov.kl_cov_frac of the trained tokens with the greatest covariance. Called like this, the rows are
    taken for a whole mini-batch. clip_ratio is 0, as nothing is clipped.
    """
    chosen = choose("kl_cov", old_logprobs, advantages, loss_mask, config)
    return _kl_cov(
        chosen, logprobs, old_logprobs, advantages, loss_mask, rollout_logprobs=rollout_logprobs, config=config
    )


_CHOICES: dict[str, Callable[[Tensor, AlgorithmConfig, torch.Generator | None], Tensor]] = {
    "clip_cov": _choose_for_clip_cov,
    "kl_cov": _choose_for_kl_cov,
}
_LOSSES: dict[str, Callable[..., LossAndMetrics]] = {"clip_cov": _clip_cov, "kl_cov": _kl_cov}
