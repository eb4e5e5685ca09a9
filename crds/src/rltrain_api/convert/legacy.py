"""SkyRL's first form of configuration: Hydra, a YAML file with flat `generator.*` keys, the package skyrl_train.

The table of SkyRL's own translation (skyrl 0.1, `train/config/legacy.py`), the fields that were gone before 0.1, and
what overrides on top of a full YAML file meant and overrides on top of defaults do not. Must not know how values are
read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rltrain_api.config import CriticConfig, MegatronConfig, PolicyConfig
from rltrain_api.convert.fields import Path
from rltrain_api.convert.report import Report

_ENGINE = ("generator", "inference_engine")
_RENAMED_ENGINE_FIELDS = {
    "num_inference_engines": "num_engines",
    "inference_engine_tensor_parallel_size": "tensor_parallel_size",
    "inference_engine_pipeline_parallel_size": "pipeline_parallel_size",
    "inference_engine_expert_parallel_size": "expert_parallel_size",
    "inference_engine_data_parallel_size": "data_parallel_size",
    "remote_inference_engine_urls": "remote_urls",
}
_MOVED_ENGINE_FIELDS = (
    "model_dtype",
    "run_engines_locally",
    "backend",
    "weight_sync_backend",
    "weight_transfer_threshold_cuda_ipc_GB",
    "async_engine",
    "vllm_v1_disable_multiproc",
    "enable_prefix_caching",
    "enable_chunked_prefill",
    "max_num_batched_tokens",
    "enforce_eager",
    "fully_sharded_loras",
    "enable_ray_prometheus_stats",
    "gpu_memory_utilization",
    "max_num_seqs",
    "enable_http_endpoint",
    "http_endpoint_host",
    "http_endpoint_port",
    "served_model_name",
    "engine_init_kwargs",
    "override_existing_update_group",
    "external_proxy_url",
    "external_server_urls",
)

# Old path -> path in SkyRL 0.1.
RENAMED: Mapping[Path, Path] = {
    **{("generator", old): (*_ENGINE, new) for old, new in _RENAMED_ENGINE_FIELDS.items()},
    **{("generator", name): (*_ENGINE, name) for name in _MOVED_ENGINE_FIELDS},
    ("trainer", "algorithm", "ppo_loss_type"): ("trainer", "algorithm", "policy_loss_type"),
    ("trainer", "target_modules"): ("trainer", "policy", "model", "lora", "target_modules"),
}

# Old path -> why it is not there any more. A section stands for everything in it.
GONE: Mapping[Path, str] = {
    ("generator", "model_name"): "the engines' model is that of trainer.policy.model.path",
    ("generator", "weight_sync_timeout"): "SkyRL has no such field",
    ("deepspeed_config",): "DeepSpeed was removed from SkyRL; use trainer.strategy fsdp2",
    ("trainer", "policy", "deepspeed_config"): "DeepSpeed was removed from SkyRL; use trainer.strategy fsdp2",
    ("trainer", "critic", "deepspeed_config"): "DeepSpeed was removed from SkyRL; use trainer.strategy fsdp2",
    ("trainer", "ref", "deepspeed_config"): "DeepSpeed was removed from SkyRL; use trainer.strategy fsdp2",
    ("trainer", "reward"): "SkyRL has no reward models any more; an environment gives the reward",
    ("trainer", "placement", "reward_num_nodes"): "SkyRL has no reward models any more",
    ("trainer", "placement", "reward_num_gpus_per_node"): "SkyRL has no reward models any more",
    ("trainer", "placement", "colocate_critic_reward"): "SkyRL has no reward models any more",
    ("trainer", "algorithm", "normalize_reward"): "SkyRL has removed it",
    ("trainer", "algorithm", "use_kl_estimator_k3"): "SkyRL has removed it; set trainer.algorithm.kl_estimator_type k3",
    ("trainer", "algorithm", "use_abs_kl"): "SkyRL has removed it; set trainer.algorithm.kl_estimator_type abs",
    ("trainer", "algorithm", "init_kl_coef"): "SkyRL has removed it; set trainer.algorithm.kl_loss_coef",
    ("trainer", "algorithm", "reward_clip_range"): "SkyRL has removed it",
    ("trainer", "use_orm_score"): "SkyRL has removed it",
    ("trainer", "s3_export"): "SkyRL has removed it; set trainer.export_path",
}
# What of the above changes nothing when it is left out.
_WITHOUT_EFFECT = frozenset({("generator", "model_name"), ("generator", "weight_sync_timeout")})

# SkyRL's YAML had these where the dataclasses of 0.1 have other values for a section that is set in part.
_LEGACY_REMOTE_URLS = ["127.0.0.1:8001"]


def is_legacy_path(path: Path) -> bool:
    """Whether only the first form of configuration has this path."""
    return renamed(path) != path or gone(path) is not None


def renamed(path: Path) -> Path:
    """The path in SkyRL 0.1; the same where it never had another name."""
    for depth in range(len(path), 0, -1):
        new = RENAMED.get(path[:depth])
        if new is not None:
            return (*new, *path[depth:])
    return path


def gone(path: Path) -> tuple[str, bool] | None:
    """Why a path exists no more, and whether it can be left out without any effect; None where it does exist."""
    for depth in range(1, len(path) + 1):
        reason = GONE.get(path[:depth])
        if reason is not None:
            return reason, path[:depth] in _WITHOUT_EFFECT
    return None


def complete(tree: dict[str, Any], report: Report) -> None:
    """Write out, in place, what an override on top of SkyRL's YAML file left as the file had it.

    With dataclasses, a section that is set in part takes the class's own defaults instead: a policy model with LoRA
    and no path has no model, and evaluation with only `top_p` set samples 1024 tokens at temperature 1.
    """
    for path, value in _implied(tree):
        section = tree
        for name in path[:-1]:
            section = section[name]
        if path[-1] not in section:
            section[path[-1]] = value
            report.note(
                None, f"{'.'.join(path)} is written out as {value!r}: SkyRL's YAML file had it, its classes do not"
            )


def _implied(tree: dict[str, Any]) -> list[tuple[Path, Any]]:
    """Path and value of what the file implied, for sections that are set in part."""
    found: list[tuple[Path, Any]] = []
    sampling = _section(tree, "generator", "sampling_params") or {}
    if _section(tree, "generator", "eval_sampling_params"):
        length = sampling.get("max_generate_length", 1024)
        found.append((("generator", "eval_sampling_params", "temperature"), 0.0))
        found.append((("generator", "eval_sampling_params", "max_generate_length"), length))
    if _section(tree, "trainer", "policy", "model"):
        found.append((("trainer", "policy", "model", "path"), PolicyConfig().model.path))
    if _section(tree, "trainer", "critic", "optimizer_config"):
        found.append((("trainer", "critic", "optimizer_config", "lr"), CriticConfig().optimizer_config.lr))
    for owner in ("policy", "ref"):
        for name in ("optimizer_config_kwargs", "transformer_config_kwargs"):
            if _section(tree, "trainer", owner, "megatron_config", name):
                defaults = getattr(MegatronConfig(), name)
                found += [(("trainer", owner, "megatron_config", name, key), value) for key, value in defaults.items()]
    engine = _section(tree, "generator", "inference_engine") or {}
    if engine.get("run_engines_locally") is False:
        found.append((("generator", "inference_engine", "remote_urls"), _LEGACY_REMOTE_URLS))
    return found


def _section(tree: dict[str, Any], *path: str) -> dict[str, Any] | None:
    section: Any = tree
    for name in path:
        section = section.get(name) if isinstance(section, dict) else None
    return section if isinstance(section, dict) else None
