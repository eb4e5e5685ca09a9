"""Off-policy correction: weights and masks that make up for engines whose probabilities differ from the trainer's.

The ratio of a token is ρ = π_old/π_rollout: the trainer's policy before the update over the engine's, the exponent held
within ±20. All of it is SkyRL's (`trainer.algorithm.off_policy_correction`), after Yao et al., "Your efficient RL
framework secretly brings you off-policy RL training" (2025). It needs whole rows and no others, so rows can be dealt
out freely, and it never changes what the losses of tokens are divided by: what is left out counts 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rltrain_api.config import AlgorithmConfig, OffPolicyCorrectionConfig
from rltrain_trainer.algorithms.masking import bounded_exp, log_ratio, masked, masked_mean, row_means
from rltrain_trainer.algorithms.statistics import SEQUENCE_METRICS, distribution

# Either what is left of the mask or weights, [batch, tokens]; and where the metrics of these names are true.
Masked = tuple[Tensor, dict[str, Tensor]]


@dataclass(frozen=True)
class Correction:
    """What the loss of each token is multiplied by, [batch, tokens] without gradient, and how it came about."""

    weights: Tensor
    metrics: dict[str, Tensor]


def corrected(
    loss: Tensor,
    metrics: dict[str, Tensor],
    old_logprobs: Tensor,
    rollout_logprobs: Tensor | None,
    loss_mask: Tensor,
    config: AlgorithmConfig,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss per token and metrics with the correction that is configured; without log-probabilities of the engine none.

    All tensors [batch, tokens].
    """
    if rollout_logprobs is None:
        return loss, metrics
    correction = off_policy_correction(old_logprobs, rollout_logprobs, loss_mask, correction_settings(config))
    if correction is None:
        return loss, metrics
    return masked(loss, loss_mask) * correction.weights, metrics | correction.metrics


def correction_settings(config: AlgorithmConfig) -> OffPolicyCorrectionConfig:
    """The settings in force: `use_tis` is the old form of tis_ratio_type token with tis_imp_ratio_cap for its bound."""
    settings = config.off_policy_correction
    if not config.use_tis:
        return settings
    return settings.model_copy(
        update={"tis_ratio_type": "token", "token_tis_ratio_clip_high": config.tis_imp_ratio_cap}
    )


@torch.no_grad()
def off_policy_correction(
    old_logprobs: Tensor, rollout_logprobs: Tensor, loss_mask: Tensor, settings: OffPolicyCorrectionConfig
) -> Correction | None:
    """What each token's loss is multiplied by; None when nothing is configured. All tensors [batch, tokens].

    In this order, each on what the ones before it left of the mask:

    - outlier_token_is_threshold_low, _high: a sequence with a token whose ρ is out of bounds counts 0;
    - token_mask_is_threshold_low, _high (both): a token whose ρ is out of bounds counts 0;
    - tis_ratio_type token: times min(ρ, token_tis_ratio_clip_high); sequence: every token of the sequence times
      min(Πρ, sequence_tis_ratio_clip_high), the product over its trained tokens;
    - sequence_mask_metric geometric: a sequence whose geometric mean of ρ is out of [geo_mask_low, geo_mask_high]
      counts 0; product: the same for Πρ and product_mask_low, _high.

    Metrics under SkyRL's names: is_ratio_{mean,std,max,min} of ρ over the trained tokens (upstream counts masked
    positions as zeros in all but the mean); shares of all trained tokens (tis_token_clip_high_ratio, token_mask_ratio)
    and of all sequences with trained tokens (the others), whatever was left out before.
    """
    outliers = (settings.outlier_token_is_threshold_low, settings.outlier_token_is_threshold_high) != (None, None)
    tokens = None not in (settings.token_mask_is_threshold_low, settings.token_mask_is_threshold_high)
    if not (outliers or tokens or settings.tis_ratio_type or settings.sequence_mask_metric):
        return None
    exponents = log_ratio(old_logprobs, rollout_logprobs, loss_mask)
    ratios = bounded_exp(exponents)
    metrics = {f"is_ratio_{name}": value for name, value in distribution(ratios, loss_mask).items()}
    kept, weights = loss_mask.bool(), torch.ones_like(ratios)
    shares: dict[str, Tensor] = {}
    if outliers:
        kept, found = _without_outliers(ratios, kept, settings)
        shares |= found
    if tokens:
        kept, found = _within_token_bounds(ratios, kept, settings)
        shares |= found
    if settings.tis_ratio_type is not None:
        weights, found = _truncated_weights(exponents, kept, settings)
        shares |= found
    if settings.sequence_mask_metric is not None:
        kept, found = _within_sequence_bounds(exponents, kept, settings)
        shares |= found
    sequences = loss_mask.any(dim=-1, keepdim=True)
    for name, true in shares.items():
        metrics[name] = masked_mean(true.to(ratios.dtype), sequences if name in SEQUENCE_METRICS else loss_mask)
    return Correction(masked(weights, kept), metrics)


def _without_outliers(ratios: Tensor, kept: Tensor, settings: OffPolicyCorrectionConfig) -> Masked:
    """Without sequences that have a token out of bounds; a bound that is unset holds nothing back."""
    high, low = settings.outlier_token_is_threshold_high, settings.outlier_token_is_threshold_low
    nowhere = torch.zeros_like(kept)
    over = ((ratios > high) & kept if high is not None else nowhere).any(dim=-1, keepdim=True)
    under = ((ratios < low) & kept if low is not None else nowhere).any(dim=-1, keepdim=True)
    shares = {
        "outlier_seq_masked_ratio": over | under,
        "outlier_seq_over_high_ratio": over,
        "outlier_seq_under_low_ratio": under,
    }
    return kept & ~(over | under), shares


def _within_token_bounds(ratios: Tensor, kept: Tensor, settings: OffPolicyCorrectionConfig) -> Masked:
    """Without tokens out of bounds; a ratio that is a bound is within."""
    low, high = settings.token_mask_is_threshold_low, settings.token_mask_is_threshold_high
    assert low is not None, "asked for with both"
    assert high is not None, "asked for with both"
    inside = (ratios >= low) & (ratios <= high)
    return kept & inside, {"token_mask_ratio": kept & ~inside}


def _truncated_weights(exponents: Tensor, kept: Tensor, settings: OffPolicyCorrectionConfig) -> Masked:
    """Truncated importance weights of the tokens or of their sequences, and where they were truncated."""
    if settings.tis_ratio_type == "token":
        ratios, bound = bounded_exp(exponents), settings.token_tis_ratio_clip_high
        return ratios.clamp(max=bound), {"tis_token_clip_high_ratio": kept & (ratios > bound)}
    products, bound = bounded_exp(_row_sums(exponents, kept)), settings.sequence_tis_ratio_clip_high
    return products.clamp(max=bound).expand_as(exponents), {"tis_seq_clip_high_ratio": products > bound}


def _within_sequence_bounds(exponents: Tensor, kept: Tensor, settings: OffPolicyCorrectionConfig) -> Masked:
    """Without sequences whose ratio as a whole is out of bounds; those with nothing left are none of them."""
    if settings.sequence_mask_metric == "geometric":
        name, ratios = "geo_sequence_mask", bounded_exp(row_means(exponents, kept))
        low, high = settings.geo_mask_low, settings.geo_mask_high
    else:
        name, ratios = "product_sequence_mask", bounded_exp(_row_sums(exponents, kept))
        low, high = settings.product_mask_low, settings.product_mask_high
    left = kept.any(dim=-1, keepdim=True)
    over, under = left & (ratios > high), left & (ratios < low)
    shares = {
        f"{name}_masked_ratio": over | under,
        f"{name}_over_high_ratio": over,
        f"{name}_under_low_ratio": under,
    }
    return kept & ~(over | under), shares


def _row_sums(exponents: Tensor, mask: Tensor) -> Tensor:
    return masked(exponents, mask).sum(dim=-1, keepdim=True)
