"""Policy losses on the ratio of single tokens: PPO's clip, its dual form, soft gates, clipped weights, hard masks.

With r = π/π_old for the token (the exponent held within ±20) and A its advantage. All of them take the off-policy
correction of `rltrain_trainer.algorithms.off_policy` where one is configured.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rltrain_api.config import AlgorithmConfig
from rltrain_trainer.algorithms.losses import (
    LossAndMetrics,
    clipped_surrogate,
    needed_rollout_logprobs,
    register_policy_loss,
    share_of_tokens,
)
from rltrain_trainer.algorithms.masking import bounded_exp, log_ratio, masked, masked_mean
from rltrain_trainer.algorithms.off_policy import corrected
from rltrain_trainer.algorithms.statistics import distribution


@register_policy_loss("regular")
def regular(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    loss_mask: Tensor,
    *,
    rollout_logprobs: Tensor | None,
    config: AlgorithmConfig,
) -> LossAndMetrics:
    """PPO's clipped surrogate (arXiv 1707.06347, eq. 7): -min(r·A, clamp(r, 1 - low, 1 + high)·A).

    clip_ratio: the share of tokens where the clipped term was the smaller one.
    """
    ratio = bounded_exp(log_ratio(logprobs, old_logprobs, loss_mask))
    loss, clip_ratio = clipped_surrogate(ratio, advantages, loss_mask, config)
    return corrected(loss, {"clip_ratio": clip_ratio}, old_logprobs, rollout_logprobs, loss_mask, config)


@register_policy_loss("dual_clip")
def dual_clip(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    loss_mask: Tensor,
    *,
    rollout_logprobs: Tensor | None,
    config: AlgorithmConfig,
) -> LossAndMetrics:
    """Dual-clip PPO (arXiv 1912.09729, eq. 5): where A < 0 the regular loss is bounded by -clip_ratio_c·A.

    clip_ratio counts the first clip only, as upstream does.
    """
    ratio = bounded_exp(log_ratio(logprobs, old_logprobs, loss_mask))
    loss, clip_ratio = clipped_surrogate(ratio, advantages, loss_mask, config)
    bounded = torch.minimum(loss, -config.clip_ratio_c * advantages)
    loss = torch.where(advantages < 0, bounded, loss)
    return corrected(loss, {"clip_ratio": clip_ratio}, old_logprobs, rollout_logprobs, loss_mask, config)


@register_policy_loss("sapo")
def sapo(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    loss_mask: Tensor,
    *,
    rollout_logprobs: Tensor | None,
    config: AlgorithmConfig,
) -> LossAndMetrics:
    """Soft adaptive policy optimisation (arXiv 2511.20347): -A·σ(τ·(r - 1))·4/τ, τ = tau_pos where A > 0, else tau_neg.

    At r = 1 the gate has slope 1, and it falls off on both sides in place of a clip, so clip_ratio is 0. The paper
    reduces with sequence_mean.
    """
    ratio = bounded_exp(log_ratio(logprobs, old_logprobs, loss_mask))
    temperature = torch.where(advantages > 0, ratio.new_tensor(config.sapo.tau_pos), config.sapo.tau_neg)
    gate = torch.sigmoid(temperature * (ratio - 1)) * 4 / temperature
    metrics = {"clip_ratio": torch.zeros_like(ratio[0, 0])}
    return corrected(-gate * advantages, metrics, old_logprobs, rollout_logprobs, loss_mask, config)


@register_policy_loss("cispo")
def cispo(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    loss_mask: Tensor,
    *,
    rollout_logprobs: Tensor | None,
    config: AlgorithmConfig,
) -> LossAndMetrics:
    """Clipped importance weights (MiniMax-M1, arXiv 2506.13585): -A·sg(clamp(r, 1 - low, 1 + high))·log π.

    No token loses its gradient; the weight is bounded. low and high are cispo.cispo_eps_clip_low and _high. clip_ratio:
    the share of tokens whose weight was clamped; cispo/ratio_*: of r over the trained tokens.
    """
    ratio = bounded_exp(log_ratio(logprobs, old_logprobs, loss_mask)).detach()
    low, high = 1 - config.cispo.cispo_eps_clip_low, 1 + config.cispo.cispo_eps_clip_high
    weight = ratio.clamp(low, high)
    metrics = {
        "clip_ratio": share_of_tokens((ratio < low) | (ratio > high), loss_mask),
        "cispo/ratio_clamped_mean": masked_mean(weight, loss_mask),
        **{f"cispo/ratio_{name}": value for name, value in distribution(ratio, loss_mask).items()},
    }
    loss = -advantages * weight * masked(logprobs, loss_mask)
    return corrected(loss, metrics, old_logprobs, rollout_logprobs, loss_mask, config)


@register_policy_loss("rollout_is")
def rollout_is(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    loss_mask: Tensor,
    *,
    rollout_logprobs: Tensor | None,
    config: AlgorithmConfig,
) -> LossAndMetrics:
    """Importance sampling against the engine (SkyRL 0.3): -sg(r)·A·log π with r = π/π_rollout, 0 outside of the bounds.

    A token counts where 1 - eps_clip_low < r < 1 + eps_clip_high. clip_ratio: the share of tokens that do not. Needs
    rollout_logprobs.
    """
    rollout = needed_rollout_logprobs("rollout_is", rollout_logprobs)
    ratio = bounded_exp(log_ratio(logprobs, rollout, loss_mask)).detach()
    kept = (ratio > 1 - config.eps_clip_low) & (ratio < 1 + config.eps_clip_high)
    loss = -masked(ratio, kept) * advantages * masked(logprobs, loss_mask)
    metrics = {"clip_ratio": share_of_tokens(~kept, loss_mask)}
    return corrected(loss, metrics, old_logprobs, rollout, loss_mask, config)


@register_policy_loss("dppo")
def dppo(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    loss_mask: Tensor,
    *,
    rollout_logprobs: Tensor | None,
    config: AlgorithmConfig,
) -> LossAndMetrics:
    """Divergence PPO (arXiv 2602.04879, its binary total variation): -r·A, 0 where π has moved too far from μ already.

    μ is the engine's policy where its log-probabilities are there, else the old one; r = π/μ. A token is left out where
    A > 0 and π - μ > eps_clip_high, or A < 0 and μ - π > eps_clip_low: differences of probabilities in place of PPO's
    ratio. Later releases of SkyRL have fields of their own for these bounds (algorithm.dppo), with the same defaults.
    clip_ratio: the share of tokens left out.
    """
    anchor = old_logprobs if rollout_logprobs is None else rollout_logprobs
    ratio = bounded_exp(log_ratio(logprobs, anchor, loss_mask))
    moved = (masked(logprobs, loss_mask).exp() - masked(anchor, loss_mask).exp()).detach()
    left_out = ((advantages > 0) & (moved > config.eps_clip_high)) | ((advantages < 0) & (-moved > config.eps_clip_low))
    metrics = {"clip_ratio": share_of_tokens(left_out, loss_mask)}
    return corrected(masked(-ratio * advantages, ~left_out), metrics, old_logprobs, rollout_logprobs, loss_mask, config)
