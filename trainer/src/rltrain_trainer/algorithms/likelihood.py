"""Policy losses without clip or correction: the likelihood itself, and plain importance sampling.

Upstream sums these over the tokens of a micro-batch whatever the reduction says, and leaves divergence and entropy out
beside cross_entropy. Here trainer.algorithm.loss_reduction, use_kl_loss and use_entropy_loss mean the same with every
loss.
"""

from __future__ import annotations

from torch import Tensor

from rltrain_api.config import AlgorithmConfig
from rltrain_trainer.algorithms.losses import LossAndMetrics, register_policy_loss
from rltrain_trainer.algorithms.masking import at_least_float32, bounded_exp, log_ratio, masked, masked_mean


@register_policy_loss("cross_entropy")
def cross_entropy(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    loss_mask: Tensor,
    *,
    rollout_logprobs: Tensor | None,
    config: AlgorithmConfig,
) -> LossAndMetrics:
    """Negative log-likelihood of what was sampled: -log π. Advantages count nowhere, and there is nothing to clip."""
    loss = -masked(at_least_float32(logprobs), loss_mask)
    return loss, {"clip_ratio": loss.new_zeros(())}


@register_policy_loss("importance_sampling")
def importance_sampling(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    loss_mask: Tensor,
    *,
    rollout_logprobs: Tensor | None,
    config: AlgorithmConfig,
) -> LossAndMetrics:
    """The surrogate without a clip: -r·A with r = π/π_old.

    importance_ratio: the mean of r. Upstream does not bound the exponent and divides that mean by zero in a batch
    without trained tokens; here the exponent is held within ±20, and the mean is 0.
    """
    ratio = bounded_exp(log_ratio(logprobs, old_logprobs, loss_mask))
    return -ratio * advantages, {"importance_ratio": masked_mean(ratio, loss_mask).detach()}
