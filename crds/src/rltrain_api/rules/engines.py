"""Inference engines of upstream's trainer: parallelism, engines of others, endpoints, what vLLM is started with."""

from __future__ import annotations

from collections.abc import Iterator

from rltrain_api.errors import ErrorCode, FieldError
from rltrain_api.rules.facts import Facts, Rule, in_config
from rltrain_api.rules.wording import choice, counted, told, written

_ENGINE = "generator.inference_engine"
_NEW_LAYER = "_SKYRL_USE_NEW_INFERENCE"  # SkyRL's variable: engines behind HTTP servers instead of Ray actors
_TRUE = ("1", "true", "yes")

# What SkyRL itself hands to vLLM by name; given a second time, Python refuses the call. Values: SkyRL's own field.
_PASSED_BY_SKYRL = {
    "model": "trainer.policy.model.path",
    "enforce_eager": f"{_ENGINE}.enforce_eager",
    "worker_extension_cls": None,
    "tensor_parallel_size": f"{_ENGINE}.tensor_parallel_size",
    "pipeline_parallel_size": f"{_ENGINE}.pipeline_parallel_size",
    "enable_expert_parallel": f"{_ENGINE}.expert_parallel_size",
    "distributed_executor_backend": f"{_ENGINE}.distributed_executor_backend",
    "seed": "trainer.seed",
    "enable_prefix_caching": f"{_ENGINE}.enable_prefix_caching",
    "dtype": f"{_ENGINE}.model_dtype",
    "trust_remote_code": None,
    "vllm_v1_disable_multiproc": f"{_ENGINE}.vllm_v1_disable_multiproc",
    "gpu_memory_utilization": f"{_ENGINE}.gpu_memory_utilization",
    "bundle_indices": None,
    "num_gpus": None,
    "enable_sleep_mode": "trainer.placement.colocate_all",
    "noset_visible_devices": None,
    "max_num_batched_tokens": f"{_ENGINE}.max_num_batched_tokens",
    "max_num_seqs": f"{_ENGINE}.max_num_seqs",
    "max_logprobs": None,
    "enable_ray_prometheus_stats": f"{_ENGINE}.enable_ray_prometheus_stats",
    "enable_lora": "trainer.policy.model.lora.rank",
    "max_lora_rank": "trainer.policy.model.lora.rank",
    "max_loras": None,
    "fully_sharded_loras": f"{_ENGINE}.fully_sharded_loras",
}
# The same, but only where the field named is in use.
_PASSED_WITH_DATA_PARALLEL = (
    "data_parallel_backend",
    "data_parallel_size",
    "data_parallel_rank",
    "data_parallel_address",
    "data_parallel_rpc_port",
)


def experts_fill_tensor_and_data_parallel(facts: Facts) -> Iterator[FieldError]:
    """expert_parallel_size is 1 or data_parallel_size times tensor_parallel_size. SkyRL: I1."""
    engine = facts.engine
    experts = engine.data_parallel_size * engine.tensor_parallel_size
    if engine.expert_parallel_size not in (1, experts):
        yield in_config(
            f"{_ENGINE}.expert_parallel_size",
            ErrorCode.CONFLICT,
            f"{engine.expert_parallel_size} is not data_parallel_size {engine.data_parallel_size} times "
            f"tensor_parallel_size {engine.tensor_parallel_size}; set it to {experts}, or to 1 to keep experts whole",
        )


def offline_engines_take_batches(facts: Facts) -> Iterator[FieldError]:
    """async_engine false comes with generator.batched. SkyRL: G3."""
    if not facts.engine.async_engine and not facts.generator.batched:
        yield in_config(
            f"{_ENGINE}.async_engine",
            ErrorCode.CONFLICT,
            "false starts vLLM's offline engine, which SkyRL uses with generator.batched only; set it to true, or "
            "generator.batched to true",
        )


def pipelines_are_asynchronous(facts: Facts) -> Iterator[FieldError]:
    """pipeline_parallel_size above 1 comes with async_engine. SkyRL: the constructor of its vLLM engine."""
    engine = facts.engine
    if engine.pipeline_parallel_size > 1 and not engine.async_engine:
        yield in_config(
            f"{_ENGINE}.async_engine",
            ErrorCode.CONFLICT,
            f"false starts vLLM's offline engine, which has no pipeline, and pipeline_parallel_size is "
            f"{engine.pipeline_parallel_size}; set it to true, or pipeline_parallel_size to 1",
        )


def endpoint_is_asynchronous(facts: Facts) -> Iterator[FieldError]:
    """enable_http_endpoint comes with async_engine. SkyRL: G10."""
    engine = facts.engine
    if engine.enable_http_endpoint and not engine.async_engine:
        yield in_config(
            f"{_ENGINE}.enable_http_endpoint",
            ErrorCode.CONFLICT,
            "true needs engines that take requests while they generate, and async_engine is false; set async_engine to "
            "true, or this to false",
        )


def every_remote_engine_has_an_address(facts: Facts) -> Iterator[FieldError]:
    """With run_engines_locally false, num_engines is the number of remote_urls. SkyRL: G2."""
    engine = facts.engine
    if not engine.run_engines_locally and engine.num_engines != len(engine.remote_urls):
        yield in_config(
            f"{_ENGINE}.remote_urls",
            ErrorCode.CONFLICT,
            f"has {counted(len(engine.remote_urls), 'engine')} for num_engines {engine.num_engines}, and "
            "run_engines_locally is false; give one host:port for each engine",
        )


def local_engines_have_no_addresses(facts: Facts) -> Iterator[FieldError]:
    """With run_engines_locally, remote_urls is empty. Ours: SkyRL ignores them."""
    engine = facts.engine
    if engine.run_engines_locally and engine.remote_urls:
        yield in_config(
            f"{_ENGINE}.remote_urls",
            ErrorCode.CONFLICT,
            f"{choice(engine.remote_urls[:3])} would be ignored, because run_engines_locally is true; remove them, "
            "or set run_engines_locally to false",
        )


def addresses_have_their_form(facts: Facts) -> Iterator[FieldError]:
    """remote_urls are host:port, external addresses begin with http. Ours: SkyRL adds http:// to the former only."""
    engine = facts.engine
    remote = [] if engine.run_engines_locally else engine.remote_urls
    for index, address in enumerate(remote):
        if "://" in address:
            yield in_config(
                f"{_ENGINE}.remote_urls[{index}]",
                ErrorCode.INVALID,
                f"{written(address)} has a protocol, and SkyRL puts http:// before it; write host:port, as in "
                "engine-0:8000",
            )
    external = [("external_proxy_url", engine.external_proxy_url)]
    external += [
        (f"external_server_urls[{index}]", address) for index, address in enumerate(engine.external_server_urls or ())
    ]
    for field, external_address in external:
        if external_address is not None and not external_address.startswith(("http://", "https://")):
            yield in_config(
                f"{_ENGINE}.{field}",
                ErrorCode.INVALID,
                f"{written(external_address)} has no protocol, and SkyRL takes it as it is; write it as in "
                "http://router:8080",
            )


def remote_engines_return_no_log_probabilities(facts: Facts) -> Iterator[FieldError]:
    """With run_engines_locally false, sampling_params.logprobs is null. SkyRL: G7; its default is 1."""
    sampling = facts.generator.sampling_params
    if not facts.engine.run_engines_locally and sampling.logprobs is not None:
        yield in_config(
            "generator.sampling_params.logprobs",
            ErrorCode.CONFLICT,
            f"{told(sampling, 'logprobs')}, but SkyRL gets no log-probabilities from the engines of "
            "inference_engine.run_engines_locally false; set it to null",
        )


def _external(facts: Facts) -> tuple[str, ...]:
    engine = facts.engine
    return tuple(name for name in ("external_proxy_url", "external_server_urls") if getattr(engine, name) is not None)


def external_engines_are_not_colocated(facts: Facts) -> Iterator[FieldError]:
    """External addresses come without colocate_all. SkyRL: I4."""
    for name in _external(facts):
        if facts.placement.colocate_all:
            yield in_config(
                f"{_ENGINE}.{name}",
                ErrorCode.CONFLICT,
                "engines that run elsewhere cannot be on the trainer's GPUs, and placement.colocate_all is true; "
                "remove it, or set colocate_all to false",
            )


def external_engines_need_the_new_layer(facts: Facts) -> Iterator[FieldError]:
    """External addresses come with _SKYRL_USE_NEW_INFERENCE in runtime.env. Ours: without it SkyRL ignores them."""
    if facts.placement.colocate_all or _uses_new_layer(facts) or facts.spec.runtime.env_from:
        return
    for name in _external(facts):
        yield in_config(
            f"{_ENGINE}.{name}",
            ErrorCode.CONFLICT,
            f"would be ignored: SkyRL 0.1 uses it with the variable {_NEW_LAYER} only; add {_NEW_LAYER} with value "
            "'1' to spec.runtime.env, or remove it",
        )


def new_layer_spreads_engines_with_ray(facts: Facts) -> Iterator[FieldError]:
    """With _SKYRL_USE_NEW_INFERENCE, distributed_executor_backend is ray. SkyRL: I5."""
    if facts.engine.distributed_executor_backend == "mp" and _uses_new_layer(facts):
        yield in_config(
            f"{_ENGINE}.distributed_executor_backend",
            ErrorCode.CONFLICT,
            f"mp cannot be used with the variable {_NEW_LAYER} that spec.runtime.env sets; set it to ray",
        )


def _uses_new_layer(facts: Facts) -> bool:
    return facts.variable(_NEW_LAYER).lower() in _TRUE


def chunked_prefill_is_left_to_vllm(facts: Facts) -> Iterator[FieldError]:
    """enable_chunked_prefill is true. Ours: nothing in SkyRL reads it."""
    if not facts.engine.enable_chunked_prefill:
        yield in_config(
            f"{_ENGINE}.enable_chunked_prefill",
            ErrorCode.CONFLICT,
            "false would be ignored, because nothing in SkyRL reads it; remove it and set "
            "engine_init_kwargs.enable_chunked_prefill to false",
        )


def engine_arguments_are_given_once(facts: Facts) -> Iterator[FieldError]:
    """engine_init_kwargs names nothing that SkyRL passes to vLLM itself. Ours: Python refuses the call."""
    if _uses_new_layer(facts):  # which lets engine_init_kwargs win
        return
    passed = dict(_PASSED_BY_SKYRL)
    if facts.engine.data_parallel_size > 1:
        passed |= dict.fromkeys(_PASSED_WITH_DATA_PARALLEL)
    if facts.engine.served_model_name is not None:
        passed["served_model_name"] = f"{_ENGINE}.served_model_name"
    for name in ("rope_scaling", "rope_theta"):
        if getattr(facts.generator, name) is not None or getattr(facts.trainer, name) is not None:
            passed[name] = f"generator.{name}"
    for name in facts.engine.engine_init_kwargs:
        if name in passed:
            field = passed[name]
            remedy = f"use {field} instead" if field is not None else "remove it"
            yield in_config(
                f"{_ENGINE}.engine_init_kwargs.{name}",
                ErrorCode.DUPLICATE,
                f"SkyRL gives vLLM this argument itself, and vLLM takes it once; {remedy}",
            )


def scaled_embeddings_have_a_length(facts: Facts) -> Iterator[FieldError]:
    """rope_scaling says factor and original_max_position_embeddings, unless max_model_len is set. SkyRL: its engines.

    SkyRL gives the trainer's rope_scaling to the engines where the generator has none of its own.
    """
    engine, own = facts.engine, facts.generator.rope_scaling
    section, scaling = ("generator", own) if own is not None else ("trainer", facts.trainer.rope_scaling)
    if not scaling or not engine.run_engines_locally or "max_model_len" in engine.engine_init_kwargs:
        return
    missing = [name for name in ("factor", "original_max_position_embeddings") if scaling.get(name) is None]
    if missing:
        yield in_config(
            f"{section}.rope_scaling",
            ErrorCode.REQUIRED,
            f"has no {' and no '.join(missing)}, and SkyRL computes the engines' longest sequence from factor times "
            f"original_max_position_embeddings; add what is missing, or set {_ENGINE}.engine_init_kwargs.max_model_len",
        )


RULES: tuple[Rule, ...] = ()
SKYRL_RULES: tuple[Rule, ...] = (
    experts_fill_tensor_and_data_parallel,
    offline_engines_take_batches,
    pipelines_are_asynchronous,
    endpoint_is_asynchronous,
    every_remote_engine_has_an_address,
    local_engines_have_no_addresses,
    addresses_have_their_form,
    remote_engines_return_no_log_probabilities,
    external_engines_are_not_colocated,
    external_engines_need_the_new_layer,
    new_layer_spreads_engines_with_ray,
    chunked_prefill_is_left_to_vllm,
    engine_arguments_are_given_once,
    scaled_embeddings_have_a_length,
)
