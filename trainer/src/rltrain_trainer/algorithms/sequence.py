"""The policy loss on the ratio of whole sequences: GSPO."""

from __future__ import annotations

from torch import Tensor

from rltrain_api.config import AlgorithmConfig
from rltrain_trainer.algorithms.losses import LossAndMetrics, clipped_surrogate, register_policy_loss
from rltrain_trainer.algorithms.masking import log_ratio, row_means
from rltrain_trainer.algorithms.off_policy import corrected

LOG_WEIGHT_BOUND = 10.0  # SkyRL's bound


@register_policy_loss("gspo")
def gspo(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    loss_mask: Tensor,
    *,
    rollout_logprobs: Tensor | None,
    config: AlgorithmConfig,
) -> LossAndMetrics:
    """Group sequence policy optimisation (arXiv 2507.18071, its token form, eqs. 14 and 15).

    The ratio of every token is the geometric mean s of the ratios of its sequence, with the gradient of the token's own
    log-probability: exp(log π - sg(log π) + sg(log s)), log s at most 10. Then PPO's clip. It needs the whole row and
    no other, so rows can be dealt out freely. The paper reduces with sequence_mean.
    """
    token_ratios = log_ratio(logprobs, old_logprobs, loss_mask)
    sequence_ratios = row_means(token_ratios, loss_mask).detach()
    ratio = (token_ratios - token_ratios.detach() + sequence_ratios).clamp(max=LOG_WEIGHT_BOUND).exp()
    loss, clip_ratio = clipped_surrogate(ratio, advantages, loss_mask, config)
    return corrected(loss, {"clip_ratio": clip_ratio}, old_logprobs, rollout_logprobs, loss_mask, config)
