"""Masks and exponentials that stay finite: the few primitives that all formulas share."""

from __future__ import annotations

import torch
from torch import Tensor

LOG_RATIO_BOUND = 20.0  # SkyRL's bound: e^20 is still far from overflow in float32


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor in float32, or in float64 if it is that already; masks become 0 and 1."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def masked(tensor: Tensor, mask: Tensor) -> Tensor:
    """The tensor with 0 where the mask is 0; NaN and infinity there do not leak, neither do their gradients."""
    return torch.where(mask.bool(), tensor, torch.zeros((), dtype=tensor.dtype, device=tensor.device))


def masked_mean(tensor: Tensor, mask: Tensor) -> Tensor:
    """Mean over the positions where the mask is 1, as a scalar; 0 when there are none."""
    return masked(tensor, mask).sum() / mask.sum().clamp(min=1)


def bounded_exp(log_ratio: Tensor) -> Tensor:
    """exp(log_ratio) in float32 or better, with the exponent held within ±20 (SkyRL: safe_exp_delta)."""
    return at_least_float32(log_ratio).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND).exp()
