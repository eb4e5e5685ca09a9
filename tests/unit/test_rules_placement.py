"""Placement: which models share GPUs, and which numbers of GPUs make whole groups."""

from __future__ import annotations

import pytest

from rltrain_api.errors import ErrorCode
from rltrain_api.rules import placement
from rule_cases import (
    ALGORITHM,
    ENGINE,
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

KL_LOSS = {f"{ALGORITHM}.use_kl_loss": True}
COLOCATED = {f"{PLACEMENT}.colocate_all": True, f"{ENGINE}.num_engines": 2}
CRITIC = {
    f"{ALGORITHM}.advantage_estimator": "gae",
    f"{TRAINER}.critic.model.path": "/data/model",
    f"{TRAINER}.critic_mini_batch_size": 4,
}

CASES = {
    "reference on fewer GPUs": Case(
        KL_LOSS,
        f"{PLACEMENT}.ref_num_gpus_per_node",
        ErrorCode.CONFLICT,
        ("is unset, and SkyRL's default 1 differs from policy_num_gpus_per_node 2", "use_kl_loss", "set it to 2"),
        {f"{PLACEMENT}.ref_num_gpus_per_node": 2},
    ),
    "reference on more nodes": Case(
        {**KL_LOSS, f"{PLACEMENT}.ref_num_gpus_per_node": 2, f"{PLACEMENT}.ref_num_nodes": 3},
        f"{PLACEMENT}.ref_num_nodes",
        ErrorCode.CONFLICT,
        ("3 differs from policy_num_nodes 1",),
        {f"{ALGORITHM}.use_kl_loss": False},
    ),
    "reference of the reward on fewer GPUs": Case(
        {f"{ALGORITHM}.use_kl_in_reward": True},
        f"{PLACEMENT}.ref_num_gpus_per_node",
        ErrorCode.CONFLICT,
        ("with use_kl_in_reward",),
        {f"{PLACEMENT}.colocate_policy_ref": False},
        UPSTREAM,
    ),
    "more engines than the policy has GPUs": Case(
        {**COLOCATED, f"{ENGINE}.num_engines": 4},
        f"{ENGINE}.num_engines",
        ErrorCode.CONFLICT,
        ("4 engines of 1 GPU each need 4 GPUs", "share the policy's 2", "set num_engines to 2"),
        {f"{ENGINE}.num_engines": 2},
        UPSTREAM,
    ),
    "engines that do not divide the policy's GPUs": Case(
        {**COLOCATED, f"{ENGINE}.num_engines": 1, f"{ENGINE}.tensor_parallel_size": 3},
        f"{ENGINE}.num_engines",
        ErrorCode.CONFLICT,
        ("1 engine of 3 GPUs each need 3 GPUs", "a divisor of 2"),
        {f"{ENGINE}.tensor_parallel_size": 2},
        UPSTREAM,
    ),
    "colocated reference on fewer GPUs": Case(
        {**COLOCATED, **KL_LOSS},
        f"{PLACEMENT}.ref_num_gpus_per_node",
        ErrorCode.CONFLICT,
        ("the reference model has 1 GPU,", "shares the policy's 2"),
        {f"{PLACEMENT}.ref_num_nodes": 2},
        UPSTREAM,
    ),
    "colocated critic on more GPUs": Case(
        {**COLOCATED, **CRITIC, f"{PLACEMENT}.critic_num_gpus_per_node": 4},
        f"{PLACEMENT}.critic_num_gpus_per_node",
        ErrorCode.CONFLICT,
        ("the critic has 4 GPUs", "shares the policy's 2"),
        {f"{PLACEMENT}.critic_num_gpus_per_node": 2},
        UPSTREAM,
    ),
    "colocated engines of somebody else": Case(
        {
            **COLOCATED,
            f"{ENGINE}.run_engines_locally": False,
            f"{ENGINE}.remote_urls": ["a:8000", "b:8000"],
            f"{GENERATOR}.sampling_params.logprobs": None,
        },
        f"{PLACEMENT}.colocate_all",
        ErrorCode.CONFLICT,
        ("run_engines_locally false", "set it to false"),
        {f"{PLACEMENT}.colocate_all": False},
        UPSTREAM,
    ),
    "engine processes over two nodes": Case(
        {
            f"{PLACEMENT}.colocate_all": True,
            f"{PLACEMENT}.policy_num_nodes": 2,
            f"{ENGINE}.tensor_parallel_size": 4,
            f"{ENGINE}.distributed_executor_backend": "mp",
        },
        f"{ENGINE}.distributed_executor_backend",
        ErrorCode.CONFLICT,
        ("tensor_parallel_size 4 times pipeline_parallel_size 1", "its 2 GPUs", "ray"),
        {f"{ENGINE}.distributed_executor_backend": "ray"},
        UPSTREAM,
    ),
    "sequences shared by GPUs that do not divide": Case(
        {f"{TRAINER}.policy.sequence_parallel_size": 3, f"{PLACEMENT}.policy_num_gpus_per_node": 4},
        f"{TRAINER}.policy.sequence_parallel_size",
        ErrorCode.NOT_DIVISIBLE,
        ("3 GPUs for each sequence do not divide the policy's 4 GPUs", "use 2 or"),
        {f"{TRAINER}.policy.sequence_parallel_size": 2},
        UPSTREAM,
    ),
    "sequences of the reference shared by GPUs that do not divide": Case(
        {
            **KL_LOSS,
            f"{PLACEMENT}.ref_num_gpus_per_node": 2,
            f"{TRAINER}.ref.sequence_parallel_size": 3,
        },
        f"{TRAINER}.ref.sequence_parallel_size",
        ErrorCode.NOT_DIVISIBLE,
        ("the reference model's 2 GPUs",),
        {f"{ALGORITHM}.use_kl_loss": False},
        UPSTREAM,
    ),
    "shard groups that do not divide": Case(
        {f"{PLACEMENT}.policy_num_gpus_per_node": 8, f"{TRAINER}.policy.fsdp_config.fsdp_size": 3},
        f"{TRAINER}.policy.fsdp_config.fsdp_size",
        ErrorCode.NOT_DIVISIBLE,
        ("3 GPUs for each copy of the model do not divide the policy's 8 GPUs", "-1"),
        {f"{TRAINER}.policy.fsdp_config.fsdp_size": 4},
        UPSTREAM,
    ),
    "shard groups of nothing": Case(
        {f"{TRAINER}.policy.fsdp_config.fsdp_size": 0},
        f"{TRAINER}.policy.fsdp_config.fsdp_size",
        ErrorCode.NOT_DIVISIBLE,
        ("0 GPUs for each copy",),
        {f"{TRAINER}.policy.fsdp_config.fsdp_size": 16},
        UPSTREAM,
    ),
    "resharding to groups that do not divide": Case(
        {f"{PLACEMENT}.policy_num_gpus_per_node": 8, f"{TRAINER}.policy.fsdp_config.reshard_after_forward": 3},
        f"{TRAINER}.policy.fsdp_config.reshard_after_forward",
        ErrorCode.NOT_DIVISIBLE,
        ("3 ranks", "8"),
        {f"{TRAINER}.policy.fsdp_config.reshard_after_forward": 4},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_broken(case: str) -> None:
    check_failure(CASES[case])


@pytest.mark.parametrize("case", CASES)
def test_put_right(case: str) -> None:
    check_remedy(CASES[case])


def test_every_rule_is_broken() -> None:
    check_every_rule_is_broken(placement, CASES.values())


def test_every_rule_is_documented() -> None:
    check_every_rule_is_documented(placement, CASES.values())
