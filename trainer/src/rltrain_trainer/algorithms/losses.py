"""Policy losses per token; `rltrain_trainer.algorithms.reductions` makes one number of them."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from rltrain_api.config import AlgorithmConfig
from rltrain_trainer.algorithms.masking import bounded_exp, masked_mean


class PolicyLoss(Protocol):
    """One policy loss; see `policy_loss` for shapes."""

    def __call__(
        self,
        logprobs: Tensor,
        old_logprobs: Tensor,
        advantages: Tensor,
        loss_mask: Tensor,
        *,
        rollout_logprobs: Tensor | None,
        config: AlgorithmConfig,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss per token and metrics."""


def policy_loss(
    name: str,
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    loss_mask: Tensor,
    *,
    rollout_logprobs: Tensor | None = None,
    config: AlgorithmConfig,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss per token, [batch, tokens] and not yet reduced, and scalar metrics.

    logprobs: under the policy being trained; old_logprobs: under the policy before the update; rollout_logprobs: by the
    engine that sampled; advantages; loss_mask: 1 on trained tokens. All [batch, tokens]. Values of the loss where the
    mask is 0 mean nothing. Metrics are means over the trained tokens of this call, so that those of micro-batches
    combine weighted by their number of trained tokens. Raises ValueError for an unknown name.
    """
    try:
        loss = POLICY_LOSSES[name]
    except KeyError as error:
        known = ", ".join(sorted(POLICY_LOSSES))
        raise ValueError(f"trainer.algorithm.policy_loss_type: {name} is not one of {known}") from error
    return loss(logprobs, old_logprobs, advantages, loss_mask, rollout_logprobs=rollout_logprobs, config=config)


def regular(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    loss_mask: Tensor,
    *,
    rollout_logprobs: Tensor | None,
    config: AlgorithmConfig,
) -> tuple[Tensor, dict[str, Tensor]]:
    """PPO's clipped surrogate (arXiv 1707.06347, eq. 7): -min(r·A, clamp(r, 1 - low, 1 + high)·A), r = π/π_old.

    clip_ratio: the share of tokens where the clipped term was the smaller one.
    """
    ratio = bounded_exp(logprobs - old_logprobs)
    free = -ratio * advantages
    clipped = -ratio.clamp(1 - config.eps_clip_low, 1 + config.eps_clip_high) * advantages
    clip_ratio = masked_mean((clipped > free).to(ratio.dtype), loss_mask).detach()
    return torch.maximum(free, clipped), {"clip_ratio": clip_ratio}


def dual_clip(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    loss_mask: Tensor,
    *,
    rollout_logprobs: Tensor | None,
    config: AlgorithmConfig,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Dual-clip PPO (arXiv 1912.09729, eq. 5): where A < 0 the regular loss is bounded by -clip_ratio_c·A.

    clip_ratio counts the first clip only, as upstream does.
    """
    loss, metrics = regular(
        logprobs, old_logprobs, advantages, loss_mask, rollout_logprobs=rollout_logprobs, config=config
    )
    bounded = torch.minimum(loss, -config.clip_ratio_c * advantages)
    return torch.where(advantages < 0, bounded, loss), metrics


POLICY_LOSSES: dict[str, PolicyLoss] = {"regular": regular, "dual_clip": dual_clip}
