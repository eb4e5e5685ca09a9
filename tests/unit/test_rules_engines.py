"""Engines of the upstream trainer: parallelism, addresses, and what vLLM is started with."""

from __future__ import annotations

import pytest

from rltrain_api.errors import ErrorCode
from rltrain_api.rules import engines
from rule_cases import (
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

ARGUMENTS = f"{ENGINE}.engine_init_kwargs"
LOGPROBS = f"{GENERATOR}.sampling_params.logprobs"
NEW_LAYER = {"name": "_SKYRL_USE_NEW_INFERENCE", "value": "1"}

CASES = {
    "experts of half the GPUs": Case(
        {
            f"{ENGINE}.expert_parallel_size": 4,
            f"{ENGINE}.tensor_parallel_size": 2,
            f"{ENGINE}.data_parallel_size": 4,
        },
        f"{ENGINE}.expert_parallel_size",
        ErrorCode.CONFLICT,
        ("4 is not data_parallel_size 4 times tensor_parallel_size 2", "set it to 8"),
        {f"{ENGINE}.expert_parallel_size": 8},
        UPSTREAM,
    ),
    "offline engines without batches": Case(
        {f"{ENGINE}.async_engine": False},
        f"{ENGINE}.async_engine",
        ErrorCode.CONFLICT,
        ("generator.batched",),
        {f"{GENERATOR}.batched": True},
        UPSTREAM,
    ),
    "offline engines with a pipeline": Case(
        {f"{ENGINE}.async_engine": False, f"{GENERATOR}.batched": True, f"{ENGINE}.pipeline_parallel_size": 2},
        f"{ENGINE}.async_engine",
        ErrorCode.CONFLICT,
        ("pipeline_parallel_size is 2",),
        {f"{ENGINE}.pipeline_parallel_size": 1},
        UPSTREAM,
    ),
    "endpoint of offline engines": Case(
        {f"{ENGINE}.async_engine": False, f"{GENERATOR}.batched": True, f"{ENGINE}.enable_http_endpoint": True},
        f"{ENGINE}.enable_http_endpoint",
        ErrorCode.CONFLICT,
        ("async_engine is false",),
        {f"{ENGINE}.async_engine": True},
        UPSTREAM,
    ),
    "remote engines without addresses": Case(
        {f"{ENGINE}.run_engines_locally": False, f"{ENGINE}.num_engines": 2, LOGPROBS: None},
        f"{ENGINE}.remote_urls",
        ErrorCode.CONFLICT,
        ("0 engines for num_engines 2",),
        {f"{ENGINE}.remote_urls": ["a:8000", "b:8000"]},
        UPSTREAM,
    ),
    "addresses that nobody uses": Case(
        {f"{ENGINE}.remote_urls": ["a:8000"]},
        f"{ENGINE}.remote_urls",
        ErrorCode.CONFLICT,
        ("a:8000 would be ignored",),
        {f"{ENGINE}.remote_urls": []},
        UPSTREAM,
    ),
    "remote engine's address with a protocol": Case(
        {f"{ENGINE}.run_engines_locally": False, f"{ENGINE}.remote_urls": ["http://a:8000"], LOGPROBS: None},
        f"{ENGINE}.remote_urls[0]",
        ErrorCode.INVALID,
        ("http://a:8000 has a protocol", "host:port"),
        {f"{ENGINE}.remote_urls": ["a:8000"]},
        UPSTREAM,
    ),
    "external engine's address without a protocol": Case(
        {f"{ENGINE}.external_server_urls": ["http://a:8000", "b:8000"], "spec.runtime.env": [NEW_LAYER]},
        f"{ENGINE}.external_server_urls[1]",
        ErrorCode.INVALID,
        ("b:8000 has no protocol",),
        {f"{ENGINE}.external_server_urls": ["http://a:8000", "https://b:8000"]},
        UPSTREAM,
    ),
    "remote engines asked for log-probabilities, by default": Case(
        {f"{ENGINE}.run_engines_locally": False, f"{ENGINE}.remote_urls": ["a:8000"]},
        LOGPROBS,
        ErrorCode.CONFLICT,
        ("is unset, and SkyRL's default is 1", "set it to null"),
        {LOGPROBS: None},
        UPSTREAM,
    ),
    "external engines on the trainer's GPUs": Case(
        {
            f"{ENGINE}.external_proxy_url": "http://router:8080",
            f"{PLACEMENT}.colocate_all": True,
            f"{ENGINE}.num_engines": 2,
        },
        f"{ENGINE}.external_proxy_url",
        ErrorCode.CONFLICT,
        ("colocate_all is true",),
        {f"{PLACEMENT}.colocate_all": False, "spec.runtime.env": [NEW_LAYER]},
        UPSTREAM,
    ),
    "external engines that nobody asks": Case(
        {f"{ENGINE}.external_server_urls": ["http://engine:8000"]},
        f"{ENGINE}.external_server_urls",
        ErrorCode.CONFLICT,
        ("would be ignored", "_SKYRL_USE_NEW_INFERENCE"),
        {"spec.runtime.env": [NEW_LAYER]},
        UPSTREAM,
    ),
    "processes in the new layer": Case(
        {f"{ENGINE}.distributed_executor_backend": "mp", "spec.runtime.env": [NEW_LAYER]},
        f"{ENGINE}.distributed_executor_backend",
        ErrorCode.CONFLICT,
        ("mp cannot be used with the variable _SKYRL_USE_NEW_INFERENCE",),
        {"spec.runtime.env": [{**NEW_LAYER, "value": "0"}]},
        UPSTREAM,
    ),
    "chunked prefill that nothing reads": Case(
        {f"{ENGINE}.enable_chunked_prefill": False},
        f"{ENGINE}.enable_chunked_prefill",
        ErrorCode.CONFLICT,
        ("nothing in SkyRL reads it", "engine_init_kwargs.enable_chunked_prefill"),
        {f"{ENGINE}.enable_chunked_prefill": True, ARGUMENTS: {"enable_chunked_prefill": False}},
        UPSTREAM,
    ),
    "argument given twice": Case(
        {ARGUMENTS: {"seed": 1, "swap_space": 4}},
        f"{ARGUMENTS}.seed",
        ErrorCode.DUPLICATE,
        ("takes it once", "use trainer.seed instead"),
        {ARGUMENTS: {"swap_space": 4}},
        UPSTREAM,
    ),
    "argument that is SkyRL's own": Case(
        {ARGUMENTS: {"trust_remote_code": False}},
        f"{ARGUMENTS}.trust_remote_code",
        ErrorCode.DUPLICATE,
        ("remove it",),
        {"spec.runtime.env": [NEW_LAYER]},
        UPSTREAM,
    ),
    "argument that data parallelism passes": Case(
        {ARGUMENTS: {"data_parallel_backend": "ray"}, f"{ENGINE}.data_parallel_size": 2},
        f"{ARGUMENTS}.data_parallel_backend",
        ErrorCode.DUPLICATE,
        ("remove it",),
        {f"{ENGINE}.data_parallel_size": 1},
        UPSTREAM,
    ),
    "argument that other fields pass": Case(
        {ARGUMENTS: {"rope_theta": 1e4, "served_model_name": "x"}, f"{TRAINER}.rope_theta": 1e6},
        f"{ARGUMENTS}.rope_theta",
        ErrorCode.DUPLICATE,
        ("use generator.rope_theta instead",),
        {f"{TRAINER}.rope_theta": None},
        UPSTREAM,
    ),
    "model's name given twice": Case(
        {ARGUMENTS: {"served_model_name": "x"}, f"{ENGINE}.served_model_name": "y"},
        f"{ARGUMENTS}.served_model_name",
        ErrorCode.DUPLICATE,
        ("served_model_name instead",),
        {f"{ENGINE}.served_model_name": None},
        UPSTREAM,
    ),
    "scaled embeddings without a length": Case(
        {f"{TRAINER}.rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
        f"{TRAINER}.rope_scaling",
        ErrorCode.REQUIRED,
        ("no original_max_position_embeddings",),
        {f"{TRAINER}.rope_scaling.original_max_position_embeddings": 32768},
        UPSTREAM,
    ),
    "scaled embeddings of the engines without a length": Case(
        {f"{GENERATOR}.rope_scaling": {"rope_type": "linear"}},
        f"{GENERATOR}.rope_scaling",
        ErrorCode.REQUIRED,
        ("no factor and no original_max_position_embeddings",),
        {ARGUMENTS: {"max_model_len": 8192}},
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
    check_every_rule_is_broken(engines, CASES.values())


def test_every_rule_is_documented() -> None:
    check_every_rule_is_documented(engines, CASES.values())
