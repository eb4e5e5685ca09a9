"""Algorithms: what an estimator, a loss or a KL term needs beside itself."""

from __future__ import annotations

import pytest

from rltrain_api.errors import ErrorCode
from rltrain_api.rules import algorithm
from rule_cases import (
    ALGORITHM,
    GENERATOR,
    PLACEMENT,
    TRAINER,
    UPSTREAM,
    Case,
    check_every_rule_is_broken,
    check_every_rule_is_documented,
    check_failure,
    check_remedy,
)

CASES = {
    "steps that were valued by what followed": Case(
        {f"{GENERATOR}.step_wise_trajectories": True, f"{ALGORITHM}.advantage_estimator": "reinforce++"},
        f"{ALGORITHM}.advantage_estimator",
        ErrorCode.CONFLICT,
        ("reinforce++ values a token by what followed it", "grpo or rloo"),
        {f"{ALGORITHM}.advantage_estimator": "rloo"},
        UPSTREAM,
    ),
    "no model": Case(
        {f"{TRAINER}.policy.model.path": None},
        f"{TRAINER}.policy.model.path",
        ErrorCode.REQUIRED,
        ("null", "directory"),
        {f"{TRAINER}.policy.model.path": "Qwen/Qwen2.5-0.5B-Instruct"},
    ),
    "a group of one": Case(
        {f"{GENERATOR}.n_samples_per_prompt": 1},
        f"{GENERATOR}.n_samples_per_prompt",
        ErrorCode.OUT_OF_RANGE,
        ("grpo", "2 or more"),
        {f"{GENERATOR}.n_samples_per_prompt": 2},
    ),
    "a group of one that others leave out": Case(
        {f"{GENERATOR}.n_samples_per_prompt": 1, f"{ALGORITHM}.advantage_estimator": "rloo"},
        f"{GENERATOR}.n_samples_per_prompt",
        ErrorCode.OUT_OF_RANGE,
        ("rloo",),
        {f"{ALGORITHM}.advantage_estimator": "reinforce++"},
        UPSTREAM,
    ),
    "dual clip at one": Case(
        {f"{ALGORITHM}.policy_loss_type": "dual_clip", f"{ALGORITHM}.clip_ratio_c": 1},
        f"{ALGORITHM}.clip_ratio_c",
        ErrorCode.OUT_OF_RANGE,
        ("1 is not above 1",),
        {f"{ALGORITHM}.policy_loss_type": "regular"},
    ),
    "sampling without chance": Case(
        {f"{GENERATOR}.sampling_params.temperature": 0},
        f"{GENERATOR}.sampling_params.temperature",
        ErrorCode.OUT_OF_RANGE,
        ("nothing to learn",),
        {f"{GENERATOR}.sampling_params.temperature": 0.1},
    ),
    "logits divided by zero": Case(
        {f"{ALGORITHM}.temperature": 0},
        f"{ALGORITHM}.temperature",
        ErrorCode.OUT_OF_RANGE,
        ("divided by 0", "unset"),
        {f"{ALGORITHM}.temperature": None},
    ),
    "gae without a critic": Case(
        {f"{ALGORITHM}.advantage_estimator": "gae"},
        f"{TRAINER}.critic.model.path",
        ErrorCode.REQUIRED,
        ("gae needs a critic", "set it"),
        {
            f"{TRAINER}.critic.model.path": "/data/model",
            f"{TRAINER}.critic_mini_batch_size": 4,
        },
        UPSTREAM,
    ),
    "gae where there can be no critic": Case(
        {f"{ALGORITHM}.advantage_estimator": "gae", f"{TRAINER}.strategy": "megatron"},
        f"{ALGORITHM}.advantage_estimator",
        ErrorCode.CONFLICT,
        ("strategy megatron trains without one",),
        {f"{ALGORITHM}.advantage_estimator": "rloo"},
        UPSTREAM,
    ),
    "divergence counted twice": Case(
        {
            f"{ALGORITHM}.use_kl_loss": True,
            f"{ALGORITHM}.use_kl_in_reward": True,
            f"{PLACEMENT}.ref_num_gpus_per_node": 2,
        },
        f"{ALGORITHM}.use_kl_loss",
        ErrorCode.CONFLICT,
        ("is true, and use_kl_in_reward is true as well",),
        {f"{ALGORITHM}.use_kl_loss": False},
    ),
    "divergence counted twice, by default": Case(
        {
            f"{ALGORITHM}": {"use_kl_in_reward": True},
            f"{PLACEMENT}.ref_num_gpus_per_node": 2,
        },
        f"{ALGORITHM}.use_kl_loss",
        ErrorCode.CONFLICT,
        ("is unset, and SkyRL's default is true",),
        {f"{ALGORITHM}.use_kl_in_reward": False},
    ),
    "adaptive weight of a term in the loss": Case(
        {f"{ALGORITHM}.kl_ctrl.type": "adaptive"},
        f"{ALGORITHM}.kl_ctrl.type",
        ErrorCode.CONFLICT,
        ("ignored", "use_kl_in_reward"),
        {f"{ALGORITHM}.use_kl_in_reward": True, f"{PLACEMENT}.ref_num_gpus_per_node": 2},
    ),
    "a reference to update, and none there": Case(
        {f"{TRAINER}.update_ref_every_epoch": True, f"{TRAINER}.export_path": "/data/exports"},
        f"{TRAINER}.update_ref_every_epoch",
        ErrorCode.CONFLICT,
        ("ignored", "no reference model is loaded"),
        {f"{ALGORITHM}.use_kl_loss": True, f"{PLACEMENT}.ref_num_gpus_per_node": 2},
        UPSTREAM,
    ),
    "filter that sees no rewards": Case(
        {f"{ALGORITHM}.zero_variance_filter": True},
        f"{ALGORITHM}.zero_variance_filter",
        ErrorCode.CONFLICT,
        ("ignored", "generator.batched"),
        {f"{GENERATOR}.batched": True},
        UPSTREAM,
    ),
    "covariance bounds the wrong way round": Case(
        {f"{ALGORITHM}.policy_loss_type": "clip_cov", f"{ALGORITHM}.clip_cov.clip_cov_lb": 7},
        f"{ALGORITHM}.clip_cov.clip_cov_lb",
        ErrorCode.OUT_OF_RANGE,
        ("7 is not below clip_cov_ub 5",),
        {f"{ALGORITHM}.clip_cov.clip_cov_ub": 8},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_broken(case: str) -> None:
    check_failure(CASES[case])


@pytest.mark.parametrize("case", CASES)
def test_put_right(case: str) -> None:
    check_remedy(CASES[case])


def test_every_rule_is_broken() -> None:
    check_every_rule_is_broken(algorithm, CASES.values())


def test_every_rule_is_documented() -> None:
    check_every_rule_is_documented(algorithm, CASES.values())
