"""The algorithm section: what an advantage is, which loss is minimised, and how it is reduced.

SkyRL: AlgorithmConfig. Formulas live in the trainer; these models know names and bounds only.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rltrain_api.config.base import ConfigModel, FractionBelowOne, NonNegativeNumber, PositiveInt

AdvantageEstimator = Literal["grpo", "rloo", "gae", "reinforce++"]
PolicyLossType = Literal[
    "regular", "dual_clip", "gspo", "cispo", "clip_cov", "kl_cov", "sapo", "cross_entropy", "importance_sampling"
]
LossReduction = Literal["token_mean", "sequence_mean", "seq_mean_token_sum_norm"]
KLEstimatorType = Literal["k1", "k2", "k3", "abs"]


class AlgorithmConfig(ConfigModel):
    """How rewards become gradients."""

    advantage_estimator: AdvantageEstimator = Field(
        default="grpo",
        description="How the advantage of a response is estimated from rewards; this release computes grpo.",
    )
    kl_estimator_type: KLEstimatorType = Field(
        default="k3",
        description="Estimator of the per-token KL divergence between the policy and the reference model, in nats.",
    )
    use_kl_loss: bool = Field(
        default=True, description="Add kl_loss_coef times the KL divergence from the reference model to the loss."
    )
    kl_loss_coef: NonNegativeNumber = Field(
        default=0.001, description="Weight of the KL term of the loss, at least 0; used with use_kl_loss."
    )
    use_entropy_loss: bool = Field(
        default=False, description="Subtract entropy_loss_coef times the policy's entropy from the loss."
    )
    entropy_loss_coef: NonNegativeNumber = Field(
        default=0.01, description="Weight of the entropy term of the loss, at least 0; used with use_entropy_loss."
    )
    temperature: NonNegativeNumber | None = Field(
        default=None,
        description="Divisor of the logits in the policy loss, above 0; unset means generator.sampling_params."
        "temperature.",
    )
    policy_loss_type: PolicyLossType = Field(
        default="regular",
        description="Form of the policy loss; this release computes regular (clipped ratio) and dual_clip.",
    )
    loss_reduction: LossReduction = Field(
        default="token_mean", description="How the losses of tokens become one number per mini-batch."
    )
    grpo_norm_by_std: bool = Field(
        default=True, description="Divide a GRPO advantage by the standard deviation of the rewards in its group."
    )
    zero_variance_filter: bool = Field(
        default=False, description="Leave prompts whose responses all had the same reward out of the loss."
    )
    eps_clip_low: FractionBelowOne = Field(
        default=0.2, description="The probability ratio is clipped at 1 - eps_clip_low from below; from 0 to under 1."
    )
    eps_clip_high: NonNegativeNumber = Field(
        default=0.2, description="The probability ratio is clipped at 1 + eps_clip_high from above; at least 0."
    )
    clip_ratio_c: NonNegativeNumber = Field(
        default=3.0,
        description="Bound on the loss of tokens with negative advantage, above 1; used by policy_loss_type dual_clip.",
    )
    max_seq_len: PositiveInt | None = Field(
        default=None,
        description="Divisor of loss_reduction seq_mean_token_sum_norm, in tokens, at least 1; unset means "
        "generator.max_input_length plus generator.sampling_params.max_generate_length.",
    )
