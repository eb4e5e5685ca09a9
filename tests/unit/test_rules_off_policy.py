"""Off-policy correction: caps, bounds, log-probabilities, and losses that apply it."""

from __future__ import annotations

import pytest

from rltrain_api.errors import ErrorCode
from rltrain_api.rules import off_policy
from rule_cases import (
    ALGORITHM,
    ENGINE,
    GENERATOR,
    UPSTREAM,
    Case,
    check_every_rule_is_broken,
    check_every_rule_is_documented,
    check_failure,
    check_remedy,
)

CORRECTION = f"{ALGORITHM}.off_policy_correction"
LOGPROBS = f"{GENERATOR}.sampling_params.logprobs"
REMOTE = {f"{ENGINE}.run_engines_locally": False, f"{ENGINE}.remote_urls": ["engine:8000"], LOGPROBS: None}

CASES = {
    "old cap left at its default": Case(
        {f"{ALGORITHM}.use_tis": True},
        f"{ALGORITHM}.tis_imp_ratio_cap",
        ErrorCode.OUT_OF_RANGE,
        ("-1 would weigh", "more than 0"),
        {f"{ALGORITHM}.tis_imp_ratio_cap": 2},
    ),
    "old form overwrites the new type": Case(
        {
            f"{ALGORITHM}.use_tis": True,
            f"{ALGORITHM}.tis_imp_ratio_cap": 2,
            f"{CORRECTION}.tis_ratio_type": "sequence",
        },
        f"{CORRECTION}.tis_ratio_type",
        ErrorCode.CONFLICT,
        ("sequence would be overwritten by algorithm.use_tis",),
        {f"{CORRECTION}.tis_ratio_type": "token"},
    ),
    "old form overwrites the new cap": Case(
        {
            f"{ALGORITHM}.use_tis": True,
            f"{ALGORITHM}.tis_imp_ratio_cap": 2,
            f"{CORRECTION}.token_tis_ratio_clip_high": 3,
        },
        f"{CORRECTION}.token_tis_ratio_clip_high",
        ErrorCode.CONFLICT,
        ("3 would be overwritten by algorithm.tis_imp_ratio_cap 2",),
        {f"{CORRECTION}.token_tis_ratio_clip_high": 2},
    ),
    "correction of a loss that has none": Case(
        {f"{CORRECTION}.tis_ratio_type": "token", f"{ALGORITHM}.policy_loss_type": "clip_cov"},
        f"{ALGORITHM}.policy_loss_type",
        ErrorCode.CONFLICT,
        ("clip_cov applies no off-policy correction", "off_policy_correction.tis_ratio_type"),
        {f"{ALGORITHM}.policy_loss_type": "gspo"},
    ),
    "mask of a loss that has none": Case(
        {f"{CORRECTION}.outlier_token_is_threshold_high": 100, f"{ALGORITHM}.policy_loss_type": "importance_sampling"},
        f"{ALGORITHM}.policy_loss_type",
        ErrorCode.CONFLICT,
        ("importance_sampling", "outlier_token_is_threshold_high"),
        {f"{CORRECTION}.outlier_token_is_threshold_high": None},
    ),
    "mask without log-probabilities": Case(
        {f"{CORRECTION}.outlier_token_is_threshold_low": 1e-4, LOGPROBS: None},
        LOGPROBS,
        ErrorCode.CONFLICT,
        ("outlier_token_is_threshold_low would mask nothing", "set it to 1"),
        {f"{CORRECTION}.sequence_mask_metric": "product"},
        UPSTREAM,
    ),
    "correction of remote engines": Case(
        {**REMOTE, f"{CORRECTION}.tis_ratio_type": "sequence"},
        f"{CORRECTION}.tis_ratio_type",
        ErrorCode.CONFLICT,
        ("run_engines_locally false",),
        {f"{ENGINE}.run_engines_locally": True, f"{ENGINE}.remote_urls": []},
        UPSTREAM,
    ),
    "token mask without its upper bound": Case(
        {f"{CORRECTION}.token_mask_is_threshold_low": 0.5},
        f"{CORRECTION}.token_mask_is_threshold_high",
        ErrorCode.REQUIRED,
        ("token_mask_is_threshold_low is 0.5", "only with both"),
        {f"{CORRECTION}.token_mask_is_threshold_high": 2},
    ),
    "token mask without its lower bound": Case(
        {f"{CORRECTION}.token_mask_is_threshold_high": 2},
        f"{CORRECTION}.token_mask_is_threshold_low",
        ErrorCode.REQUIRED,
        ("token_mask_is_threshold_high is 2",),
        {f"{CORRECTION}.token_mask_is_threshold_high": None},
    ),
    "bounds of sequences the wrong way round": Case(
        {f"{CORRECTION}.sequence_mask_metric": "geometric", f"{CORRECTION}.geo_mask_low": 1.5},
        f"{CORRECTION}.geo_mask_low",
        ErrorCode.OUT_OF_RANGE,
        ("1.5 is not below geo_mask_high 1.01",),
        {f"{CORRECTION}.sequence_mask_metric": "product"},
    ),
    "bounds of outliers the wrong way round": Case(
        {
            f"{CORRECTION}.outlier_token_is_threshold_low": 100,
            f"{CORRECTION}.outlier_token_is_threshold_high": 100,
        },
        f"{CORRECTION}.outlier_token_is_threshold_low",
        ErrorCode.OUT_OF_RANGE,
        ("100 is not below outlier_token_is_threshold_high 100",),
        {f"{CORRECTION}.outlier_token_is_threshold_low": 1e-4},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_broken(case: str) -> None:
    check_failure(CASES[case])


@pytest.mark.parametrize("case", CASES)
def test_put_right(case: str) -> None:
    check_remedy(CASES[case])


def test_every_rule_is_broken() -> None:
    check_every_rule_is_broken(off_policy, CASES.values())


def test_every_rule_is_documented() -> None:
    check_every_rule_is_documented(off_policy, CASES.values())
