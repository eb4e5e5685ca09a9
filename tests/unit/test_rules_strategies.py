"""Strategies: what FSDP 1, packing and Megatron cannot do."""

from __future__ import annotations

import pytest

from rltrain_api.errors import ErrorCode
from rltrain_api.rules import strategies
from rule_cases import (
    ALGORITHM,
    CONFIG,
    PLACEMENT,
    TRAINER,
    UPSTREAM,
    Case,
    check_every_rule_is_broken,
    check_every_rule_is_documented,
    check_failure,
    check_remedy,
)

MEGATRON = {f"{TRAINER}.strategy": "megatron"}
SETTINGS = f"{TRAINER}.policy.megatron_config"
OPTIMIZER = f"{TRAINER}.policy.optimizer_config"
REFERENCE = {f"{ALGORITHM}.use_kl_loss": True, f"{PLACEMENT}.colocate_policy_ref": False}

CASES = {
    "FSDP 1 with offloading": Case(
        {f"{TRAINER}.strategy": "fsdp", f"{TRAINER}.policy.fsdp_config.cpu_offload": True},
        f"{TRAINER}.policy.fsdp_config.cpu_offload",
        ErrorCode.CONFLICT,
        ("strategy fsdp (FSDP 1)",),
        {f"{TRAINER}.strategy": "fsdp2"},
        UPSTREAM,
    ),
    "FSDP 1 with an offloaded critic": Case(
        {f"{TRAINER}.strategy": "fsdp", f"{TRAINER}.critic.fsdp_config.cpu_offload": True},
        f"{TRAINER}.critic.fsdp_config.cpu_offload",
        ErrorCode.CONFLICT,
        ("set it to false",),
        {f"{TRAINER}.critic.fsdp_config.cpu_offload": False},
        UPSTREAM,
    ),
    "a wrapping of FSDP 1": Case(
        {f"{TRAINER}.policy.fsdp_config.wrap_policy": {"min_num_params": 1000}},
        f"{TRAINER}.policy.fsdp_config.wrap_policy",
        ErrorCode.CONFLICT,
        ("min_num_params is of FSDP 1", "transformer_layer_cls_to_wrap"),
        {f"{TRAINER}.policy.fsdp_config.wrap_policy": {"transformer_layer_cls_to_wrap": ["Qwen2DecoderLayer"]}},
    ),
    "a wrapping of no classes": Case(
        {f"{TRAINER}.policy.fsdp_config.wrap_policy": {"transformer_layer_cls_to_wrap": [3]}},
        f"{TRAINER}.policy.fsdp_config.wrap_policy",
        ErrorCode.CONFLICT,
        ("is no list of names",),
        {f"{TRAINER}.policy.fsdp_config.wrap_policy": {"transformer_layer_cls_to_wrap": "Qwen2DecoderLayer"}},
    ),
    "engines with other rotary embeddings": Case(
        {f"{CONFIG}.generator.rope_theta": 1e6},
        f"{CONFIG}.generator.rope_theta",
        ErrorCode.CONFLICT,
        ("differs from trainer.rope_theta", "another model"),
        {f"{TRAINER}.rope_theta": 1e6},
    ),
    "packing without flash attention, by default": Case(
        {f"{TRAINER}.flash_attn": False},
        f"{TRAINER}.use_sample_packing",
        ErrorCode.CONFLICT,
        ("is unset, and SkyRL's default is true", "flash_attn is false"),
        {f"{TRAINER}.use_sample_packing": False},
        UPSTREAM,
    ),
    "shared sequences without packing": Case(
        {f"{TRAINER}.policy.sequence_parallel_size": 2, f"{TRAINER}.use_sample_packing": False},
        f"{TRAINER}.policy.sequence_parallel_size",
        ErrorCode.CONFLICT,
        ("2 GPUs can share only packed sequences",),
        {f"{TRAINER}.use_sample_packing": True},
        UPSTREAM,
    ),
    "Megatron with a critic": Case(
        {**MEGATRON, f"{TRAINER}.critic.model.path": "/data/model", f"{TRAINER}.critic_mini_batch_size": 4},
        f"{TRAINER}.critic.model.path",
        ErrorCode.CONFLICT,
        ("strategy megatron trains without a critic",),
        {f"{TRAINER}.critic.model.path": None},
        UPSTREAM,
    ),
    "Megatron with shared sequences": Case(
        {**MEGATRON, f"{TRAINER}.ref.sequence_parallel_size": 2},
        f"{TRAINER}.ref.sequence_parallel_size",
        ErrorCode.CONFLICT,
        ("strategy megatron", "ref.megatron_config.context_parallel_size to 2"),
        {f"{TRAINER}.ref.sequence_parallel_size": 1},
        UPSTREAM,
    ),
    "Megatron with contexts and no packing": Case(
        {**MEGATRON, f"{SETTINGS}.context_parallel_size": 2, f"{TRAINER}.use_sample_packing": False},
        f"{SETTINGS}.context_parallel_size",
        ErrorCode.CONFLICT,
        ("2 GPUs can share only packed sequences",),
        {f"{TRAINER}.use_sample_packing": True},
        UPSTREAM,
    ),
    "Megatron's groups that do not divide": Case(
        {
            **MEGATRON,
            f"{PLACEMENT}.policy_num_gpus_per_node": 8,
            f"{SETTINGS}.tensor_model_parallel_size": 3,
            f"{SETTINGS}.pipeline_model_parallel_size": 2,
        },
        f"{SETTINGS}.tensor_model_parallel_size",
        ErrorCode.NOT_DIVISIBLE,
        (
            "3 times pipeline_model_parallel_size 2 times context_parallel_size 1 is 6",
            "the policy's 8 GPUs",
        ),
        {f"{SETTINGS}.tensor_model_parallel_size": 2},
        UPSTREAM,
    ),
    "Megatron's groups of the reference that do not divide": Case(
        {**MEGATRON, **REFERENCE, f"{TRAINER}.ref.megatron_config.tensor_model_parallel_size": 2},
        f"{TRAINER}.ref.megatron_config.tensor_model_parallel_size",
        ErrorCode.NOT_DIVISIBLE,
        ("is 2, which does not divide the reference model's 1 GPU",),
        {f"{PLACEMENT}.ref_num_gpus_per_node": 2},
        UPSTREAM,
    ),
    "Megatron's experts that do not divide": Case(
        {
            **MEGATRON,
            f"{PLACEMENT}.policy_num_gpus_per_node": 8,
            f"{SETTINGS}.tensor_model_parallel_size": 4,
            f"{SETTINGS}.expert_model_parallel_size": 4,
        },
        f"{SETTINGS}.expert_model_parallel_size",
        ErrorCode.NOT_DIVISIBLE,
        ("4 times expert_tensor_parallel_size 4 times pipeline_model_parallel_size 1 is 16",),
        {f"{SETTINGS}.expert_tensor_parallel_size": 1},
        UPSTREAM,
    ),
    "Megatron with another schedule": Case(
        {**MEGATRON, f"{TRAINER}.policy.optimizer_config.scheduler": "cosine"},
        f"{TRAINER}.policy.optimizer_config.scheduler",
        ErrorCode.CONFLICT,
        ("cosine is not to be had with strategy megatron",),
        {f"{TRAINER}.strategy": "fsdp2"},
        UPSTREAM,
    ),
    "polynomial schedule that begins below its end": Case(
        {f"{OPTIMIZER}.scheduler": "polynomial", f"{OPTIMIZER}.lr": 1e-7},
        f"{OPTIMIZER}.lr",
        ErrorCode.OUT_OF_RANGE,
        ("1e-07 is not above 1e-7", "polynomial"),
        {f"{OPTIMIZER}.lr": 1e-6},
    ),
    "polynomial schedule of the critic that begins below its end": Case(
        {
            f"{ALGORITHM}.advantage_estimator": "gae",
            f"{TRAINER}.critic_mini_batch_size": 4,
            f"{TRAINER}.critic": {
                "model": {"path": "/data/model"},
                "optimizer_config": {"scheduler": "polynomial", "lr": 0},
            },
        },
        f"{TRAINER}.critic.optimizer_config.lr",
        ErrorCode.OUT_OF_RANGE,
        ("0 is not above 1e-7",),
        {f"{TRAINER}.critic.optimizer_config.scheduler": "linear"},
        UPSTREAM,
    ),
    "Megatron's profile without a place": Case(
        {**MEGATRON, f"{SETTINGS}.torch_profiler_config": {"enable": True, "ranks": [0]}},
        f"{SETTINGS}.torch_profiler_config.save_path",
        ErrorCode.REQUIRED,
        ("no place",),
        {f"{SETTINGS}.torch_profiler_config.save_path": "/data/profiles"},
        UPSTREAM,
    ),
    "Megatron's profile of no rank": Case(
        {**MEGATRON, f"{SETTINGS}.torch_profiler_config": {"enable": True, "save_path": "/data/profiles"}},
        f"{SETTINGS}.torch_profiler_config.ranks",
        ErrorCode.REQUIRED,
        ("no rank would be profiled",),
        {f"{SETTINGS}.torch_profiler_config.ranks": [0]},
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
    check_every_rule_is_broken(strategies, CASES.values())


def test_every_rule_is_documented() -> None:
    check_every_rule_is_documented(strategies, CASES.values())
