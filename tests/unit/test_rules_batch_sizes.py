"""Batch sizes: what divides what, for each model and strategy."""

from __future__ import annotations

import pytest

from rltrain_api.errors import ErrorCode
from rltrain_api.rules import batch_sizes
from rule_cases import (
    ALGORITHM,
    DELETED,
    PLACEMENT,
    TRAINER,
    UPSTREAM,
    Case,
    check_every_rule_is_broken,
    check_every_rule_is_documented,
    check_failure,
    check_remedy,
)

MICRO = f"{TRAINER}.micro_train_batch_size_per_gpu"
CRITIC = {
    f"{ALGORITHM}.advantage_estimator": "gae",
    f"{TRAINER}.critic.model.path": "/data/model",
    f"{TRAINER}.critic_mini_batch_size": 4,
    f"{PLACEMENT}.critic_num_gpus_per_node": 2,
}

CASES = {
    "step smaller than a mini-batch": Case(
        {f"{TRAINER}.train_batch_size": 2},
        f"{TRAINER}.train_batch_size",
        ErrorCode.OUT_OF_RANGE,
        ("2 prompts are fewer than the 4 of policy_mini_batch_size",),
        {f"{TRAINER}.train_batch_size": 4},
    ),
    "step not of whole mini-batches, by default": Case(
        {f"{TRAINER}.train_batch_size": DELETED, f"{TRAINER}.policy_mini_batch_size": 300},
        f"{TRAINER}.train_batch_size",
        ErrorCode.NOT_DIVISIBLE,
        ("is unset, and SkyRL's default 1024 prompts are not a multiple", "use 900 or 1200"),
        {f"{TRAINER}.policy_mini_batch_size": 256},
    ),
    "step not of whole mini-batches": Case(
        {f"{TRAINER}.train_batch_size": 10},
        f"{TRAINER}.train_batch_size",
        ErrorCode.NOT_DIVISIBLE,
        ("not a multiple of policy_mini_batch_size 4", "use 8 or 12"),
        {f"{TRAINER}.train_batch_size": 12},
    ),
    "sequences do not divide among GPUs": Case(
        {f"{PLACEMENT}.policy_num_gpus_per_node": 3},
        f"{TRAINER}.policy_mini_batch_size",
        ErrorCode.NOT_DIVISIBLE,
        ("4 prompts with 4 responses each has 16 sequences", "3 data-parallel GPUs", "a multiple of 3"),
        {f"{TRAINER}.policy_mini_batch_size": 3, f"{TRAINER}.train_batch_size": 9},
    ),
    "more GPUs than sequences": Case(
        {f"{PLACEMENT}.policy_num_gpus_per_node": 32},
        f"{TRAINER}.policy_mini_batch_size",
        ErrorCode.NOT_DIVISIBLE,
        ("16 sequences", "32 data-parallel GPUs", "a multiple of 8"),
        {f"{TRAINER}.policy_mini_batch_size": 8},
    ),
    "sequences do not divide among groups that share sequences": Case(
        {f"{PLACEMENT}.policy_num_gpus_per_node": 24, f"{TRAINER}.policy.sequence_parallel_size": 4},
        f"{TRAINER}.policy_mini_batch_size",
        ErrorCode.NOT_DIVISIBLE,
        ("6 data-parallel groups (24 GPUs, 4 for each sequence)", "a multiple of 3"),
        {f"{TRAINER}.policy_mini_batch_size": 6, f"{TRAINER}.train_batch_size": 12},
        UPSTREAM,
    ),
    "sequences do not divide among Megatron's groups": Case(
        {
            f"{TRAINER}.strategy": "megatron",
            f"{PLACEMENT}.policy_num_gpus_per_node": 24,
            f"{TRAINER}.policy.megatron_config": {"tensor_model_parallel_size": 4, "pipeline_model_parallel_size": 2},
        },
        f"{TRAINER}.policy_mini_batch_size",
        ErrorCode.NOT_DIVISIBLE,
        ("3 data-parallel groups (24 GPUs, 8 for each sequence)",),
        {f"{PLACEMENT}.policy_num_gpus_per_node": 16},
        UPSTREAM,
    ),
    "micro-batches do not divide a GPU's share": Case(
        {MICRO: 3},
        MICRO,
        ErrorCode.NOT_DIVISIBLE,
        ("3 sequences", "8 on each of 2", "a divisor of 8"),
        {MICRO: 4},
    ),
    "micro-batch larger than a GPU's share": Case(
        {MICRO: 16}, MICRO, ErrorCode.NOT_DIVISIBLE, ("a divisor of 8",), {MICRO: 8}
    ),
    "step not of whole mini-batches of the critic": Case(
        {**CRITIC, f"{TRAINER}.critic_mini_batch_size": 3},
        f"{TRAINER}.train_batch_size",
        ErrorCode.NOT_DIVISIBLE,
        ("8 prompts are not a multiple of critic_mini_batch_size 3", "use 6 or 9"),
        {f"{TRAINER}.critic_mini_batch_size": 2},
        UPSTREAM,
    ),
    "step smaller than a mini-batch of the critic": Case(
        {**CRITIC, f"{TRAINER}.critic_mini_batch_size": 16},
        f"{TRAINER}.train_batch_size",
        ErrorCode.OUT_OF_RANGE,
        ("8 prompts are fewer than the 16 of critic_mini_batch_size",),
        {f"{TRAINER}.train_batch_size": 16},
        UPSTREAM,
    ),
    "sequences do not divide among the critic's GPUs": Case(
        {**CRITIC, f"{PLACEMENT}.critic_num_gpus_per_node": 3},
        f"{TRAINER}.critic_mini_batch_size",
        ErrorCode.NOT_DIVISIBLE,
        ("a mini-batch of the critic of 4 prompts", "3 data-parallel GPUs"),
        {f"{PLACEMENT}.critic_num_gpus_per_node": 4},
        UPSTREAM,
    ),
    "micro-batches do not divide the critic's share": Case(
        {**CRITIC, f"{TRAINER}.critic_mini_batch_size": 1, MICRO: 4},
        MICRO,
        ErrorCode.NOT_DIVISIBLE,
        ("a mini-batch of the critic of 1 prompt with 4 responses each has 4 sequences", "a divisor of 2"),
        {MICRO: 2},
        UPSTREAM,
    ),
    "batch does not divide among the reference's GPUs": Case(
        {
            f"{ALGORITHM}.use_kl_loss": True,
            f"{PLACEMENT}.colocate_policy_ref": False,
            f"{PLACEMENT}.ref_num_gpus_per_node": 3,
        },
        f"{TRAINER}.train_batch_size",
        ErrorCode.NOT_DIVISIBLE,
        ("8 prompts with 4 responses each are 32 sequences", "3 data-parallel GPUs of the reference", "multiple of 3"),
        {f"{TRAINER}.train_batch_size": 12},
        UPSTREAM,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_broken(case: str) -> None:
    check_failure(CASES[case])


@pytest.mark.parametrize("case", CASES)
def test_put_right(case: str) -> None:
    check_remedy(CASES[case])


def test_every_rule_is_broken() -> None:
    check_every_rule_is_broken(batch_sizes, CASES.values())


def test_every_rule_is_documented() -> None:
    check_every_rule_is_documented(batch_sizes, CASES.values())
