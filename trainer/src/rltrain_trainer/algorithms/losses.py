"""Policy losses per token, by name; `rltrain_trainer.algorithms.reductions` makes one number of them.

A loss is a function of log-probabilities, advantages and a mask. The families are modules of their own; this one holds
what they share: the registry, the front that callers use, and the clipped surrogate. A loss must not know which model
gave the log-probabilities, nor how its tokens will be weighed.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from rltrain_api.config import AlgorithmConfig
from rltrain_trainer.algorithms.masking import masked_mean
from rltrain_trainer.algorithms.registry import Registry

# Loss per token, and metrics: scalars, which are means over the trained tokens unless `statistics` says otherwise.
LossAndMetrics = tuple[Tensor, dict[str, Tensor]]


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
    ) -> LossAndMetrics:
        """Loss per token and metrics."""


POLICY_LOSSES: Registry[PolicyLoss] = Registry("trainer.algorithm.policy_loss_type")
register_policy_loss = POLICY_LOSSES.register


def policy_loss(
    name: str,
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    loss_mask: Tensor,
    *,
    rollout_logprobs: Tensor | None = None,
    config: AlgorithmConfig,
) -> LossAndMetrics:
    """Loss per token, [batch, tokens] and not yet reduced, and scalar metrics.

    logprobs: under the policy being trained; old_logprobs: under the policy before the update; rollout_logprobs: by the
    engine that sampled; advantages; loss_mask: 1 on trained tokens. All [batch, tokens]. Values of the loss where the
    mask is 0 mean nothing. Metrics are of the tokens of this call; `rltrain_trainer.algorithms.statistics` joins those
    of several calls. Raises ValueError for an unknown name, and for log-probabilities of the engine that a loss needs
    and did not get.
    """
    loss = POLICY_LOSSES.named(name)
    return loss(logprobs, old_logprobs, advantages, loss_mask, rollout_logprobs=rollout_logprobs, config=config)


def clipped_surrogate(
    ratio: Tensor, advantages: Tensor, loss_mask: Tensor, config: AlgorithmConfig
) -> tuple[Tensor, Tensor]:
    """-min(r·A, clamp(r, 1 - eps_clip_low, 1 + eps_clip_high)·A), and the share of tokens where the clip counted."""
    free = -ratio * advantages
    clipped = -ratio.clamp(1 - config.eps_clip_low, 1 + config.eps_clip_high) * advantages
    return torch.maximum(free, clipped), share_of_tokens(clipped > free, loss_mask)


def share_of_tokens(true: Tensor, loss_mask: Tensor) -> Tensor:
    """The share of trained tokens where it is true, as a scalar without gradient."""
    return masked_mean(true.double(), loss_mask).detach()


def needed_rollout_logprobs(name: str, rollout_logprobs: Tensor | None) -> Tensor:
    """The engine's log-probabilities. Raises ValueError, naming the loss, when there are none."""
    if rollout_logprobs is None:
        raise ValueError(
            f"trainer.algorithm.policy_loss_type: {name} needs the log-probabilities of the engine that sampled; set "
            "generator.sampling_params.logprobs to 1"
        )
    return rollout_logprobs
