"""Presets: sets of variables under one name, for `spec.runtime.envPreset`.

They are the four configurations of section 10 of SkyRL's reference, value for value, less what must never reach pods
and with a second variable beside each that nobody reads. Every departure has its reason here. Data only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

PresetName = Literal["production", "debug", "multinode", "lowmemory"]


@dataclass(frozen=True, slots=True)
class Preset:
    """One set of variables.

    Args:
        name: What the job writes.
        purpose: What it is for, in one sentence.
        values: Variables that it sets.
        removed: Variables that it takes away from the layers below.
        departures: Variable -> how the preset differs there from the reference, and why.
    """

    name: PresetName
    purpose: str
    values: Mapping[str, str]
    removed: frozenset[str] = frozenset()
    departures: Mapping[str, str] = field(default_factory=dict)


_GPUS_LEFT_OUT = "left out: Kubernetes and Ray give each pod and process its GPUs"
_TIMEOUT_ADDED = "added: nobody reads NCCL_TIMEOUT; this is the timeout that SkyRL's workers use"

_PRESETS = (
    Preset(
        "production",
        "For long runs: patient collectives, fast downloads, little fragmentation.",
        {
            "NCCL_TIMEOUT": "3600",
            "SKYRL_WORKER_NCCL_TIMEOUT_IN_S": "3600",
            "HF_HUB_ENABLE_HF_TRANSFER": "1",
            "HF_XET_HIGH_PERFORMANCE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "OMP_NUM_THREADS": "8",
            "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
        },
        departures={
            "CUDA_VISIBLE_DEVICES": _GPUS_LEFT_OUT,
            "SKYRL_WORKER_NCCL_TIMEOUT_IN_S": _TIMEOUT_ADDED,
            "HF_XET_HIGH_PERFORMANCE": "added: it does what HF_HUB_ENABLE_HF_TRANSFER did until huggingface_hub 1",
        },
    ),
    Preset(
        "debug",
        "For finding out what goes wrong: synchronous kernels, checked collectives, every line of every log; slow.",
        {
            "CUDA_LAUNCH_BLOCKING": "1",
            "NCCL_DEBUG": "INFO",
            "NCCL_DEBUG_SUBSYS": "ALL",
            "RAY_DEDUP_LOGS": "0",
            "SGLANG_LOG_LEVEL": "debug",
            "SKYRL_LOG_LEVEL": "DEBUG",
            "LOG_LEVEL": "DEBUG",
            "TORCH_DISTRIBUTED_DEBUG": "DETAIL",
            "TORCH_SHOW_CPP_STACKTRACES": "1",
        },
        removed=frozenset({"RAY_RUNTIME_ENV_HOOK"}),
        departures={
            "LOG_LEVEL": "added: SkyRL does not read SKYRL_LOG_LEVEL; this is what it reads",
        },
    ),
    Preset(
        "multinode",
        "For training over several nodes: patient collectives, over the pods' network or InfiniBand.",
        {
            "NCCL_DEBUG": "WARN",
            "NCCL_TIMEOUT": "3600",
            "SKYRL_WORKER_NCCL_TIMEOUT_IN_S": "3600",
            "NCCL_IB_DISABLE": "0",
            "NCCL_SOCKET_IFNAME": "eth0",
            "GLOO_SOCKET_IFNAME": "eth0",
        },
        departures={
            "RAY_ADDRESS": "left out: KubeRay sets it in every pod",
            "SKYRL_WORKER_NCCL_TIMEOUT_IN_S": _TIMEOUT_ADDED,
        },
    ),
    Preset(
        "lowmemory",
        "For models that hardly fit: less fragmentation of GPU memory.",
        {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True,max_split_size_mb:256"},
        departures={"CUDA_VISIBLE_DEVICES": _GPUS_LEFT_OUT},
    ),
)

PRESETS: Mapping[str, Preset] = MappingProxyType({preset.name: preset for preset in _PRESETS})
