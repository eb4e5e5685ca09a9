"""What a job's configuration says about its environment: the two lowest layers but for the preset.

Pure functions of the configuration. A job that uses no NCCL, no vLLM and no Megatron gets nothing from here. What
SkyRL finds out by probing GPUs (peer access, hence NCCL_P2P_DISABLE and NCCL_SHM_DISABLE) cannot be known here; SkyRL
does it in the pods.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from rltrain_api.config import SkyRLTrainConfig
from rltrain_api.spec.storage import Storage

Trainer = Literal["builtin", "skyrl"]

# rLLM's PPO_RAY_RUNTIME_ENV.
RLLM_DEFAULTS: Mapping[str, str] = MappingProxyType(
    {
        "TOKENIZERS_PARALLELISM": "true",
        "NCCL_DEBUG": "WARN",
        "VLLM_LOGGING_LEVEL": "WARN",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "true",
        "CUDA_DEVICE_MAX_CONNECTIONS": "1",
        "VLLM_DISABLE_COMPILE_CACHE": "1",
        "NCCL_CUMEM_ENABLE": "0",
    }
)


def default_variables(config: SkyRLTrainConfig) -> dict[str, str]:
    """Those of rLLM's defaults whose readers take part in the job; rLLM itself always has vLLM and NCCL.

    CUDA_DEVICE_MAX_CONNECTIONS is for Megatron only, because FSDP loses overlap by it; TOKENIZERS_PARALLELISM is for
    the forks of vLLM.
    """
    wanted = {
        "NCCL_": _uses_nccl(config),
        "VLLM_": _uses_vllm(config),
        "TOKENIZERS_": _uses_vllm(config),
        "CUDA_": config.trainer.strategy == "megatron",
    }
    return {name: value for name, value in RLLM_DEFAULTS.items() if wanted[name[: name.index("_") + 1]]}


def job_derived(config: SkyRLTrainConfig, trainer: Trainer = "builtin") -> dict[str, str]:
    """The variables that a job needs for its configuration, as `prepare_runtime_environment` of SkyRL 0.1.0 has them.

    Pickles between vLLM's processes are allowed only to upstream's trainer, whose weight transfer needs them.
    """
    derived: dict[str, str] = {}
    if _uses_nccl(config):
        derived["NCCL_CUMEM_ENABLE"] = "0"
    if config.trainer.strategy == "megatron":
        derived["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
        derived["CUDA_DEVICE_MAX_CONNECTIONS"] = "1"
        if config.trainer.flash_attn:
            derived["NVTE_FUSED_ATTN"] = "0"
    if _uses_vllm(config):
        derived["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "true"
        derived["VLLM_DISABLE_COMPILE_CACHE"] = "1"
        if trainer == "skyrl":
            derived["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"
            derived["VLLM_USE_V1"] = "1"
            derived["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    return derived


def storage_derived(storage: Storage) -> dict[str, str]:
    """The variables that point programs at the job's cache: what the Hub's client downloads is kept there."""
    return {} if storage.cache is None else {"HF_HOME": f"{storage.cache.mount_path}/huggingface"}


def clashes(values: Mapping[str, str], config: SkyRLTrainConfig) -> list[str]:
    """What the job's configuration will not bear of its environment, each said so that it can be put right."""
    allocator = values.get("PYTORCH_CUDA_ALLOC_CONF", "")
    if "expandable_segments:True" in allocator and _uses_vllm(config) and config.trainer.placement.colocate_all:
        return [
            "PYTORCH_CUDA_ALLOC_CONF has expandable_segments:True, and vLLM refuses to start with it in sleep mode, "
            "which colocate_all uses; set another value in spec.runtime.env, or name it in spec.runtime.excludeEnv"
        ]
    return []


def _uses_nccl(config: SkyRLTrainConfig) -> bool:
    return config.generator.inference_engine.weight_sync_backend == "nccl"


def _uses_vllm(config: SkyRLTrainConfig) -> bool:
    return config.generator.inference_engine.backend == "vllm"
