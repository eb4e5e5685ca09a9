"""The algorithm section: what an advantage is, which loss is minimised, and how it is reduced.

SkyRL: AlgorithmConfig and the sections of single algorithms. Formulas live in the trainer; these models know names and
bounds only. Which values this release's own trainer computes is in `rltrain_api.rules.support`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rltrain_api.config.base import (
    ConfigModel,
    Fraction,
    FractionBelowOne,
    IntFromMinusOne,
    Label,
    NonNegativeNumber,
    Number,
    PositiveInt,
    PositiveNumber,
    with_rules,
)

# What SkyRL 0.1 has. Two of these fields are open: RLTrain's own trainer has more, and a user's module can add some.
AdvantageEstimator = Literal["grpo", "rloo", "gae", "reinforce++"]
PolicyLossType = Literal[
    "regular", "dual_clip", "gspo", "cispo", "clip_cov", "kl_cov", "sapo", "cross_entropy", "importance_sampling"
]
LossReduction = Literal["token_mean", "sequence_mean", "seq_mean_token_sum_norm", "prompt_mean"]
KLEstimatorType = Literal["k1", "k2", "k3", "abs"]


class KLCtrlConfig(ConfigModel):
    """The weight of the KL penalty in the reward over time."""

    type: Literal["fixed", "adaptive"] = Field(
        default="fixed", description="Keep the weight (fixed), or steer it towards kl_target (adaptive)."
    )
    kl_target: PositiveNumber = Field(
        default=0.1, description="KL divergence per token that the adaptive controller aims at, in nats, above 0."
    )
    horizon: PositiveInt = Field(
        default=10000, description="Sequences over which the adaptive controller moves its weight, at least 1."
    )


class SAPOConfig(ConfigModel):
    """The sapo loss: soft gates in place of clipping."""

    tau_pos: PositiveNumber = Field(
        default=1.0, description="Temperature of the gate of tokens with positive advantage, above 0."
    )
    tau_neg: PositiveNumber = Field(
        default=1.05, description="Temperature of the gate of tokens with negative advantage, above 0."
    )


class DynamicSamplingConfig(ConfigModel):
    """What happens with prompts whose responses all have the same reward."""

    type: Literal["filter", "replace"] | None = Field(
        default=None,
        description="Sample on until enough prompts have a signal (filter), put others in their place (replace), or "
        "keep them (unset).",
    )
    max_sample_batches: IntFromMinusOne = Field(
        default=30, description="Batches sampled for one step before the run fails; -1 or 0 samples without end."
    )
    min_replace_ratio: Fraction = Field(
        default=0.3,
        description="Share of prompts with a signal that replace needs, from 0 to 1; with fewer it samples anew.",
    )


class ClipCovConfig(ConfigModel):
    """The clip_cov loss: tokens with high covariance are left out."""

    clip_ratio: Fraction = Field(default=0.0002, description="Share of tokens left out of the loss, from 0 to 1.")
    clip_cov_lb: Number = Field(default=1.0, description="Least covariance of a token that may be left out.")
    clip_cov_ub: Number = Field(default=5.0, description="Greatest covariance of a token that may be left out.")


class KLCovConfig(ConfigModel):
    """The kl_cov loss: tokens with high covariance get a KL penalty."""

    kl_cov_frac: Fraction = Field(default=0.2, description="Share of tokens that get the penalty, from 0 to 1.")
    ppo_kl_coef: NonNegativeNumber = Field(default=1.0, description="Weight of the penalty, at least 0.")


class CISPOConfig(ConfigModel):
    """The cispo loss: the importance weight is clipped, the gradient is not."""

    cispo_eps_clip_low: NonNegativeNumber = Field(
        default=0.0, description="The importance weight is clipped at 1 minus this from below; at least 0."
    )
    cispo_eps_clip_high: NonNegativeNumber = Field(
        default=5.0, description="The importance weight is clipped at 1 plus this from above; at least 0."
    )


class OffPolicyCorrectionConfig(ConfigModel):
    """What makes up for engines that give other probabilities than the trainer; ratio = trainer's over engine's."""

    tis_ratio_type: Literal["token", "sequence"] | None = Field(
        default=None,
        description="Weigh the loss by the truncated ratio of each token or of the whole sequence; unset weighs "
        "nothing.",
    )
    token_tis_ratio_clip_high: PositiveNumber = Field(
        default=2.0, description="Greatest weight with tis_ratio_type token, above 0; 1.5 to 5 is usual."
    )
    sequence_tis_ratio_clip_high: PositiveNumber = Field(
        default=5.0, description="Greatest weight with tis_ratio_type sequence, above 0; 2 to 10 is usual."
    )
    sequence_mask_metric: Literal["product", "geometric"] | None = Field(
        default=None,
        description="Leave out sequences whose ratio (product of the tokens' ratios, or their geometric mean) is out "
        "of bounds; unset leaves out none.",
    )
    geo_mask_high: PositiveNumber = Field(
        default=1.01, description="Greatest geometric mean of a sequence that is kept, above 0."
    )
    geo_mask_low: NonNegativeNumber = Field(
        default=0.99, description="Least geometric mean of a sequence that is kept, at least 0."
    )
    product_mask_high: PositiveNumber = Field(
        default=2.0, description="Greatest product of a sequence that is kept, above 0."
    )
    product_mask_low: NonNegativeNumber = Field(
        default=0.5, description="Least product of a sequence that is kept, at least 0."
    )
    outlier_token_is_threshold_low: NonNegativeNumber | None = Field(
        default=None, description="Leave out sequences with a token whose ratio is below this; 1e-4 is usual."
    )
    outlier_token_is_threshold_high: PositiveNumber | None = Field(
        default=None, description="Leave out sequences with a token whose ratio is above this; 100 is usual."
    )
    token_mask_is_threshold_low: NonNegativeNumber | None = Field(
        default=None, description="Leave out tokens whose ratio is below this; goes with the high threshold."
    )
    token_mask_is_threshold_high: PositiveNumber | None = Field(
        default=None, description="Leave out tokens whose ratio is above this; goes with the low threshold."
    )


class AlgorithmConfig(ConfigModel):
    """How rewards become gradients."""

    model_config = with_rules(
        (
            "!self.?use_kl_in_reward.orValue(false) || !self.?use_kl_loss.orValue(true)",
            "use_kl_in_reward and use_kl_loss (default true) exclude each other: set use_kl_loss to false",
        ),
        (
            "!self.?use_tis.orValue(false) || self.?tis_imp_ratio_cap.orValue(-1.0) > 0.0",
            "use_tis needs a tis_imp_ratio_cap above 0: set it, or set off_policy_correction.tis_ratio_type "
            "to token in place of both",
        ),
    )

    advantage_estimator: Label = Field(
        default="grpo",
        description="How the advantage of a response is estimated from rewards: grpo, rloo, gae (needs a critic), "
        "reinforce++, with the builtin trainer also maxrl, or what a module of runtime.modules registers.",
    )
    kl_ctrl: KLCtrlConfig = Field(
        default_factory=KLCtrlConfig,
        description="The weight of the KL penalty over time; used with use_kl_in_reward, begins at kl_loss_coef.",
    )
    kl_estimator_type: KLEstimatorType = Field(
        default="k3",
        description="Estimator of the per-token KL divergence between the policy and the reference model, in nats.",
    )
    use_kl_in_reward: bool = Field(
        default=False, description="Subtract the KL divergence from the rewards; excludes use_kl_loss."
    )
    use_kl_loss: bool = Field(
        default=True,
        description="Add kl_loss_coef times the KL divergence from the reference model to the loss; excludes "
        "use_kl_in_reward.",
    )
    kl_loss_coef: NonNegativeNumber = Field(
        default=0.001, description="Weight of the KL term, at least 0, in the loss or (at first) in the reward."
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
    advantage_batch_normalize: bool = Field(
        default=False, description="Shift and scale the advantages of a batch to mean 0 and standard deviation 1."
    )
    value_head_prefix: Label = Field(
        default="value_head", description="Name of the critic's output layer in its checkpoint."
    )
    policy_loss_type: Label = Field(
        default="regular",
        description="Form of the policy loss: regular, dual_clip, gspo, cispo, clip_cov, kl_cov, sapo, cross_entropy, "
        "importance_sampling, with the builtin trainer also rollout_is and dppo, or what a module of runtime.modules "
        "registers.",
    )
    loss_reduction: LossReduction = Field(
        default="token_mean",
        description="How the losses of tokens become one number per mini-batch; prompt_mean with the builtin trainer.",
    )
    grpo_norm_by_std: bool = Field(
        default=True, description="Divide a GRPO advantage by the standard deviation of the rewards in its group."
    )
    zero_variance_filter: bool = Field(
        default=False, description="Leave prompts whose responses all had the same reward out of the loss."
    )
    lambd: Fraction = Field(default=1.0, description="Decay of generalised advantage estimation, from 0 to 1.")
    gamma: Fraction = Field(default=1.0, description="Discount of rewards per token, from 0 to 1.")
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
    tis_imp_ratio_cap: Number = Field(
        default=-1.0, description="Old name of off_policy_correction.token_tis_ratio_clip_high; used with use_tis."
    )
    use_tis: bool = Field(
        default=False,
        description="Old form of off_policy_correction.tis_ratio_type token; needs a tis_imp_ratio_cap above 0.",
    )
    off_policy_correction: OffPolicyCorrectionConfig = Field(
        default_factory=OffPolicyCorrectionConfig,
        description="What makes up for engines that give other probabilities than the trainer.",
    )
    sapo: SAPOConfig = Field(default_factory=SAPOConfig, description="Settings of policy_loss_type sapo.")
    value_clip: NonNegativeNumber = Field(
        default=0.2, description="The critic's values may move this far in one update; at least 0."
    )
    dynamic_sampling: DynamicSamplingConfig = Field(
        default_factory=DynamicSamplingConfig, description="What happens with prompts that carry no signal."
    )
    clip_cov: ClipCovConfig = Field(default_factory=ClipCovConfig, description="Settings of policy_loss_type clip_cov.")
    kl_cov: KLCovConfig = Field(default_factory=KLCovConfig, description="Settings of policy_loss_type kl_cov.")
    cispo: CISPOConfig = Field(default_factory=CISPOConfig, description="Settings of policy_loss_type cispo.")
    max_seq_len: PositiveInt | None = Field(
        default=None,
        description="Divisor of loss_reduction seq_mean_token_sum_norm, in tokens, at least 1; unset means "
        "generator.max_input_length plus generator.sampling_params.max_generate_length.",
    )
