"""Off-policy correction: weights and masks that make up for engines whose probabilities differ from the trainer's.

It needs a loss that applies it and bounds in order; upstream's trainer also has to ask for the log-probabilities.
"""

from __future__ import annotations

from collections.abc import Iterator

from rltrain_api.errors import ErrorCode, FieldError
from rltrain_api.rules.facts import Facts, Rule, in_config

_ALGORITHM = "trainer.algorithm"
_CORRECTION = f"{_ALGORITHM}.off_policy_correction"
# Losses that take no correction; SkyRL refuses it with the first two, and ignores it with the rest.
_UNCORRECTED_LOSSES = ("clip_cov", "kl_cov", "cross_entropy", "importance_sampling")


def _what_is_corrected(facts: Facts) -> str | None:
    """The field that turns a correction on, relative to `algorithm`; None where nothing does."""
    correction = facts.algorithm.off_policy_correction
    if facts.algorithm.use_tis:
        return "use_tis"
    on = {
        "tis_ratio_type": correction.tis_ratio_type,
        "sequence_mask_metric": correction.sequence_mask_metric,
        "outlier_token_is_threshold_low": correction.outlier_token_is_threshold_low,
        "outlier_token_is_threshold_high": correction.outlier_token_is_threshold_high,
        "token_mask_is_threshold_low": correction.token_mask_is_threshold_low,
        "token_mask_is_threshold_high": correction.token_mask_is_threshold_high,
    }
    name = next((name for name, value in on.items() if value is not None), None)
    return None if name is None else f"off_policy_correction.{name}"


def old_cap_is_positive(facts: Facts) -> Iterator[FieldError]:
    """use_tis comes with a tis_imp_ratio_cap above 0. Ours (2.8), see SkyRL's C14: its default is -1."""
    algorithm = facts.algorithm
    if algorithm.use_tis and algorithm.tis_imp_ratio_cap <= 0:
        yield in_config(
            f"{_ALGORITHM}.tis_imp_ratio_cap",
            ErrorCode.OUT_OF_RANGE,
            f"{algorithm.tis_imp_ratio_cap:g} would weigh every token by that much, and use_tis is true; use more than "
            "0, such as 2, or off_policy_correction.tis_ratio_type token in place of use_tis",
        )


def old_and_new_form_do_not_mix(facts: Facts) -> Iterator[FieldError]:
    """use_tis comes without another tis_ratio_type or token_tis_ratio_clip_high. Ours, see SkyRL's C14: it wins."""
    algorithm, correction = facts.algorithm, facts.algorithm.off_policy_correction
    if not algorithm.use_tis:
        return
    if correction.tis_ratio_type == "sequence":
        yield in_config(
            f"{_CORRECTION}.tis_ratio_type",
            ErrorCode.CONFLICT,
            "sequence would be overwritten by algorithm.use_tis, which means token; set use_tis to false",
        )
    cap, old = correction.token_tis_ratio_clip_high, algorithm.tis_imp_ratio_cap
    if "token_tis_ratio_clip_high" in correction.model_fields_set and cap != old:
        yield in_config(
            f"{_CORRECTION}.token_tis_ratio_clip_high",
            ErrorCode.CONFLICT,
            f"{cap:g} would be overwritten by algorithm.tis_imp_ratio_cap {old:g}, because algorithm.use_tis is true; "
            "set use_tis to false and tis_ratio_type to token",
        )


def loss_applies_the_correction(facts: Facts) -> Iterator[FieldError]:
    """A correction comes with a loss that applies it. SkyRL: C17; masks alone and the last two losses: ours."""
    loss, switch = facts.algorithm.policy_loss_type, _what_is_corrected(facts)
    if switch is not None and loss in _UNCORRECTED_LOSSES:
        yield in_config(
            f"{_ALGORITHM}.policy_loss_type",
            ErrorCode.CONFLICT,
            f"{loss} applies no off-policy correction, and algorithm.{switch} asks for one; remove that, or use "
            "another loss, such as regular",
        )


def masks_have_log_probabilities(facts: Facts) -> Iterator[FieldError]:
    """Masks of tokens come with sampling_params.logprobs. Ours: without, SkyRL masks nothing.

    With tis_ratio_type, sequence_mask_metric or use_tis SkyRL asks the engines for them itself (C16). The builtin
    trainer has them always.
    """
    switch, correction = _what_is_corrected(facts), facts.algorithm.off_policy_correction
    if switch is None or facts.generator.sampling_params.logprobs is not None:
        return
    if facts.algorithm.use_tis or correction.tis_ratio_type or correction.sequence_mask_metric:
        return
    yield in_config(
        "generator.sampling_params.logprobs",
        ErrorCode.CONFLICT,
        f"is null, so engines return no log-probabilities, and algorithm.{switch} would mask nothing without them; set "
        "it to 1",
    )


def remote_engines_cannot_be_corrected(facts: Facts) -> Iterator[FieldError]:
    """A correction comes with engines that the run starts. Ours, from SkyRL's C16 and G7 together."""
    switch = _what_is_corrected(facts)
    if switch is not None and not facts.engine.run_engines_locally:
        yield in_config(
            f"{_ALGORITHM}.{switch}",
            ErrorCode.CONFLICT,
            "needs the log-probabilities of the engines, and SkyRL gets none from those of "
            "inference_engine.run_engines_locally false; remove it, or let the run start its engines",
        )


def token_mask_has_both_bounds(facts: Facts) -> Iterator[FieldError]:
    """token_mask_is_threshold_low and _high are set together. Ours (2.8): with one of them nothing is masked."""
    correction = facts.algorithm.off_policy_correction
    low, high = correction.token_mask_is_threshold_low, correction.token_mask_is_threshold_high
    if (low is None) == (high is None):
        return
    missing, given, value = ("low", "high", high) if low is None else ("high", "low", low)
    yield in_config(
        f"{_CORRECTION}.token_mask_is_threshold_{missing}",
        ErrorCode.REQUIRED,
        f"is unset while token_mask_is_threshold_{given} is {value:g}, and tokens are masked only with both; set it, "
        f"or remove the other",
    )


def correction_bounds_are_in_order(facts: Facts) -> Iterator[FieldError]:
    """Each lower bound that is in use is below its upper one. Ours: otherwise everything is left out."""
    correction = facts.algorithm.off_policy_correction
    for prefix, in_use in (
        ("geo_mask", correction.sequence_mask_metric == "geometric"),
        ("product_mask", correction.sequence_mask_metric == "product"),
        ("outlier_token_is_threshold", True),
        ("token_mask_is_threshold", True),
    ):
        low, high = getattr(correction, f"{prefix}_low"), getattr(correction, f"{prefix}_high")
        if in_use and low is not None and high is not None and low >= high:
            yield in_config(
                f"{_CORRECTION}.{prefix}_low",
                ErrorCode.OUT_OF_RANGE,
                f"{low:g} is not below {prefix}_high {high:g}, so nothing would be kept; lower it or raise the other",
            )


RULES: tuple[Rule, ...] = (
    old_cap_is_positive,
    old_and_new_form_do_not_mix,
    loss_applies_the_correction,
    token_mask_has_both_bounds,
    correction_bounds_are_in_order,
)
SKYRL_RULES: tuple[Rule, ...] = (masks_have_log_probabilities, remote_engines_cannot_be_corrected)
