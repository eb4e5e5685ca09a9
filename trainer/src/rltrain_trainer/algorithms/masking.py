"""Masks and exponentials that stay finite: the few primitives that all formulas share."""

from __future__ import annotations

import torch
from torch import Tensor

LOG_RATIO_BOUND = 20.0  # SkyRL's bound: e^20 is still far from overflow in float32
VARIANCE_EPSILON = 1e-8


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor in float32, or in float64 if it is that already; masks become 0 and 1."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def masked(tensor: Tensor, mask: Tensor) -> Tensor:
    """The tensor with 0 where the mask is 0; NaN and infinity there do not leak, neither do their gradients."""
    return torch.where(mask.bool(), tensor, torch.zeros((), dtype=tensor.dtype, device=tensor.device))


def finite_where_masked(tensor: Tensor, mask: Tensor) -> Tensor:
    """The tensor with 0 in place of NaN and infinity where the mask is 0; in what counts they stay."""
    return torch.where(mask.bool() | tensor.isfinite(), tensor, 0.0)


def masked_mean(tensor: Tensor, mask: Tensor) -> Tensor:
    """Mean over the positions where the mask is 1, as a scalar; 0 when there are none."""
    return masked(tensor, mask).sum() / mask.sum().clamp(min=1)


def row_means(tensor: Tensor, mask: Tensor) -> Tensor:
    """[batch, 1]: the mean of each row over the positions where its mask is 1; 0 for a row without any."""
    return masked(tensor, mask).sum(dim=-1, keepdim=True) / mask.sum(dim=-1, keepdim=True).clamp(min=1)


def masked_variance(tensor: Tensor, mask: Tensor) -> Tensor:
    """Unbiased variance over the positions where the mask is 1, as a scalar; 0 for fewer than two of them."""
    count = mask.sum()
    deviations = masked(tensor - masked_mean(tensor, mask), mask)
    return deviations.square().sum() / (count - 1).clamp(min=1)


def whitened(tensor: Tensor, mask: Tensor) -> Tensor:
    """Shifted and scaled to mean 0 and (unbiased) variance 1 over the positions where the mask is 1; 0 elsewhere.

    Upstream raises an error for a single position; here its result is 0, as there is nothing to compare it with.
    """
    scale = (masked_variance(tensor, mask) + VARIANCE_EPSILON).rsqrt()
    return masked((tensor - masked_mean(tensor, mask)) * scale, mask)


def log_ratio(numerator: Tensor, denominator: Tensor, mask: Tensor) -> Tensor:
    """The difference of two log-probabilities in float32 or better, 0 where the mask is 0."""
    return masked(at_least_float32(numerator) - at_least_float32(denominator), mask)


def bounded_exp(exponent: Tensor) -> Tensor:
    """exp(exponent) in float32 or better, with the exponent held within ±20 (SkyRL: safe_exp_delta)."""
    return at_least_float32(exponent).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND).exp()
