"""What makes an algorithm whole: a critic where one is needed, groups to compare within, terms that do not clash."""

from __future__ import annotations

from collections.abc import Iterator

from rltrain_api.errors import ErrorCode, FieldError
from rltrain_api.rules.facts import Facts, Rule, in_config
from rltrain_api.rules.wording import told

_ALGORITHM = "trainer.algorithm"
_COMPARES_WITHIN_GROUPS = {"grpo", "rloo", "maxrl"}
_VALUES_BY_WHAT_FOLLOWED = {"gae", "reinforce++"}


def policy_model_is_named(facts: Facts) -> Iterator[FieldError]:
    """trainer.policy.model.path is set. Ours: SkyRL fails when it loads the tokenizer."""
    if facts.trainer.policy.model.path is None:
        yield in_config(
            "trainer.policy.model.path",
            ErrorCode.REQUIRED,
            "is null, so there is no model to train; set it to a directory with a model, or a name on the Hub",
        )


def groups_have_members(facts: Facts) -> Iterator[FieldError]:
    """Estimators that compare the responses to one prompt get at least two. Ours (2.8)."""
    estimator = facts.algorithm.advantage_estimator
    if estimator in _COMPARES_WITHIN_GROUPS and facts.generator.n_samples_per_prompt == 1:
        yield in_config(
            "generator.n_samples_per_prompt",
            ErrorCode.OUT_OF_RANGE,
            f"1 response has no group to be compared with, and advantage_estimator {estimator} compares within groups; "
            "use 2 or more",
        )


def dual_clip_bound_is_above_one(facts: Facts) -> Iterator[FieldError]:
    """With policy_loss_type dual_clip, clip_ratio_c is above 1. Ours: at 1 and below it cuts the loss off itself."""
    algorithm = facts.algorithm
    if algorithm.policy_loss_type == "dual_clip" and algorithm.clip_ratio_c <= 1:
        yield in_config(
            f"{_ALGORITHM}.clip_ratio_c",
            ErrorCode.OUT_OF_RANGE,
            f"{algorithm.clip_ratio_c:g} is not above 1, and policy_loss_type dual_clip needs that; 3 is usual",
        )


def sampling_is_random(facts: Facts) -> Iterator[FieldError]:
    """Training responses are sampled at a temperature above 0. Ours: equal responses teach nothing."""
    if facts.generator.sampling_params.temperature == 0:
        yield in_config(
            "generator.sampling_params.temperature",
            ErrorCode.OUT_OF_RANGE,
            "0 makes all responses to a prompt the same, so there is nothing to learn from; use more than 0, such as 1",
        )


def loss_temperature_divides(facts: Facts) -> Iterator[FieldError]:
    """algorithm.temperature is unset or above 0. Ours: logits are divided by it."""
    if facts.algorithm.temperature == 0:
        sampling = facts.generator.sampling_params.temperature
        yield in_config(
            f"{_ALGORITHM}.temperature",
            ErrorCode.OUT_OF_RANGE,
            f"logits cannot be divided by 0; leave it unset to use generator.sampling_params.temperature {sampling:g}",
        )


def gae_has_a_critic(facts: Facts) -> Iterator[FieldError]:
    """advantage_estimator gae comes with critic.model.path. SkyRL: C3."""
    if facts.algorithm.advantage_estimator != "gae" or facts.has_critic:
        return
    if facts.megatron:
        yield in_config(
            f"{_ALGORITHM}.advantage_estimator",
            ErrorCode.CONFLICT,
            "gae needs a critic, and strategy megatron trains without one; use another estimator, such as grpo, or set "
            "trainer.strategy to fsdp2",
        )
    else:
        yield in_config(
            "trainer.critic.model.path",
            ErrorCode.REQUIRED,
            "is unset, and advantage_estimator gae needs a critic; set it, often to trainer.policy.model.path, or "
            "choose another estimator, such as grpo",
        )


def divergence_counts_once(facts: Facts) -> Iterator[FieldError]:
    """The KL divergence is in the reward or in the loss, not in both. SkyRL: C4."""
    algorithm = facts.algorithm
    if algorithm.use_kl_in_reward and algorithm.use_kl_loss:
        yield in_config(
            f"{_ALGORITHM}.use_kl_loss",
            ErrorCode.CONFLICT,
            f"{told(algorithm, 'use_kl_loss')}, and use_kl_in_reward is true as well, so that the divergence would "
            "count twice; set one of them to false",
        )


def adaptive_weight_has_a_reward_term(facts: Facts) -> Iterator[FieldError]:
    """kl_ctrl.type adaptive comes with use_kl_in_reward. Ours: the controller is for that term only."""
    algorithm = facts.algorithm
    if algorithm.kl_ctrl.type == "adaptive" and not algorithm.use_kl_in_reward:
        yield in_config(
            f"{_ALGORITHM}.kl_ctrl.type",
            ErrorCode.CONFLICT,
            "adaptive would be ignored, because only the weight of the KL term of the reward is adapted, and "
            "use_kl_in_reward is false; set it to fixed, or use_kl_in_reward to true and use_kl_loss to false",
        )


def updated_reference_exists(facts: Facts) -> Iterator[FieldError]:
    """update_ref_every_epoch comes with a reference model. Ours: without one SkyRL ignores it."""
    if facts.trainer.update_ref_every_epoch and not facts.needs_reference:
        yield in_config(
            "trainer.update_ref_every_epoch",
            ErrorCode.CONFLICT,
            "true would be ignored: no reference model is loaded, because algorithm.use_kl_loss and use_kl_in_reward "
            "are false; set it to false, or one of those to true",
        )


def variance_filter_sees_rewards(facts: Facts) -> Iterator[FieldError]:
    """zero_variance_filter comes with generator.batched. Ours (2.8): SkyRL filters rewards of whole responses only."""
    if facts.algorithm.zero_variance_filter and not facts.generator.batched:
        yield in_config(
            f"{_ALGORITHM}.zero_variance_filter",
            ErrorCode.CONFLICT,
            "true would be ignored: SkyRL's trainer filters rewards of whole responses, and with generator.batched "
            "false rewards are given per token; set it to false, or generator.batched to true for single turns; "
            "algorithm.dynamic_sampling.type filter has a similar end",
        )


def covariance_bounds_are_in_order(facts: Facts) -> Iterator[FieldError]:
    """With policy_loss_type clip_cov, clip_cov_lb is below clip_cov_ub. Ours: otherwise no token is ever chosen."""
    algorithm = facts.algorithm
    low, high = algorithm.clip_cov.clip_cov_lb, algorithm.clip_cov.clip_cov_ub
    if algorithm.policy_loss_type == "clip_cov" and low >= high:
        yield in_config(
            f"{_ALGORITHM}.clip_cov.clip_cov_lb",
            ErrorCode.OUT_OF_RANGE,
            f"{low:g} is not below clip_cov_ub {high:g}, so no token's covariance would be between them; lower it, "
            "1 and 5 are usual",
        )


def steps_are_compared_by_their_end(facts: Facts) -> Iterator[FieldError]:
    """step_wise_trajectories comes with an estimator of whole responses. SkyRL: C10, of its later releases."""
    estimator = facts.algorithm.advantage_estimator
    if facts.generator.step_wise_trajectories and estimator in _VALUES_BY_WHAT_FOLLOWED:
        yield in_config(
            f"{_ALGORITHM}.advantage_estimator",
            ErrorCode.CONFLICT,
            f"{estimator} values a token by what followed it, and with generator.step_wise_trajectories true every "
            "turn stands alone; use grpo or rloo, or set that to false",
        )


RULES: tuple[Rule, ...] = (
    policy_model_is_named,
    groups_have_members,
    dual_clip_bound_is_above_one,
    sampling_is_random,
    loss_temperature_divides,
    gae_has_a_critic,
    divergence_counts_once,
    adaptive_weight_has_a_reward_term,
    covariance_bounds_are_in_order,
    steps_are_compared_by_their_end,
)
SKYRL_RULES: tuple[Rule, ...] = (
    updated_reference_exists,
    variance_filter_sees_rewards,
)
