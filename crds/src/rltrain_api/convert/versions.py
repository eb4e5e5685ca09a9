"""Names that SkyRL got after 0.1: mapped where 0.1 has the same thing, otherwise refused with the reason.

A name is left out without harm where its value asks for what happens here anyway (`neutral`), and it matters less where
it only concerns what is logged, or how fast the run is. Facts from the dataclasses of skyrl 0.1.0, 0.2.0 and 0.3.0 and
of SkyRL's main branch. Must not know how values are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Any

from rltrain_api.convert.fields import Path


class Release(IntEnum):
    """When SkyRL got a name."""

    V0_2 = 2
    V0_3 = 3
    LATER = 4

    def __str__(self) -> str:
        """As in a sentence: `SkyRL 0.2`."""
        return {2: "SkyRL 0.2", 3: "SkyRL 0.3"}.get(self.value, "SkyRL after 0.3")


class Concern(StrEnum):
    """What a setting is about."""

    TRAINING = "training"
    SPEED = "speed"  # time and memory, not the result
    LOGGING = "logging"


@dataclass(frozen=True, slots=True)
class Newer:
    """One name that SkyRL 0.1 has not.

    Args:
        since: The release that has it first.
        why: Why it is not carried over, as a clause; for names that are mapped, what is different.
        neutral: Values that ask for what happens without it.
        becomes: The path in SkyRL 0.1 that says the same; None where there is none.
        concern: What it is about.
        switch: Name beside it which must be true for it to have any effect.
    """

    since: Release
    why: str
    neutral: tuple[object, ...] = ()
    becomes: Path | None = None
    concern: Concern = Concern.TRAINING
    switch: str | None = None


_PROFILER = "no profile is written; use trainer.policy.record_memory, or a profiler of your own"
_FP8 = "training in 8-bit floating point is not in SkyRL 0.1"
_VISION = "models with images are not in SkyRL 0.1"
_PREFILL = "engines for prompts alone are not in SkyRL 0.1"
_ROUTING = "replaying the routing of experts is not in SkyRL 0.1"
_MTP = "multi-token prediction is not in SkyRL 0.1"
_SIMULATED = "simulated training is not in SkyRL 0.1"
_INT4 = "quantisation-aware training is not in SkyRL 0.1"
_DPPO = "the DPPO loss is not in SkyRL 0.1"
_LORAS = "one adapter is trained and served"
_EXPANDABLE = "set PYTORCH_CUDA_ALLOC_CONF to expandable_segments:True in runtime.env instead"


def _engine() -> Iterator[tuple[str, Newer]]:
    new, later = Release.V0_2, Release.V0_3
    yield "enable_return_routed_experts", Newer(new, _ROUTING, (False,))
    yield "language_model_only", Newer(new, _VISION, (False,))
    yield "enable_pd", Newer(new, _PREFILL, (False,))
    yield "num_prefill", Newer(new, _PREFILL, (0,), switch="enable_pd")
    yield "router_init_kwargs", Newer(new, "requests reach the engines without a router", ({},), concern=Concern.SPEED)
    yield "use_expandable_segments", Newer(later, _EXPANDABLE, (False,), concern=Concern.SPEED)
    yield "speculative_config", Newer(
        later, "engines do not speculate; vLLM's own setting is engine_init_kwargs.speculative_config", (None,),
        concern=Concern.SPEED,
    )  # fmt: skip
    yield (
        "offload_kv_for_weight_sync",
        Newer(Release.LATER, "the cache stays in GPU memory while weights are synced", (False,), concern=Concern.SPEED),
    )
    yield "fp8_weight_sync_mode", Newer(Release.LATER, _FP8, (None,))
    for name in (
        "sync_dir", "local_checkpoint_dir", "publish_staging_dir", "max_file_size_in_gb", "cloud_download_workers",
        "publish_num_workers", "checkpoint_load_format", "multi_thread_safetensors_max_workers",
    ):  # fmt: skip
        yield (
            f"delta_weight_sync.{name}",
            Newer(Release.LATER, "weights are sent whole, with nccl; no deltas are written"),
        )
    yield "delta_weight_sync", Newer(Release.LATER, "weights are sent whole, with nccl; no deltas are written", (None,))


def _megatron() -> Iterator[tuple[str, Newer]]:
    later, latest = Release.V0_3, Release.LATER
    yield "moe_enable_routing_replay", Newer(Release.V0_2, _ROUTING, (False,))
    yield (
        "moe_aux_loss_coeff",
        Newer(later, "transformer_config_kwargs.moe_aux_loss_coeff is Megatron's own name", (0, 0.0)),
    )
    yield "moe_per_layer_logging", Newer(later, "no metrics per layer are logged", (False,), concern=Concern.LOGGING)
    yield "moe_router_dtype", Newer(later, "transformer_config_kwargs.moe_router_dtype is Megatron's own name", (None,))
    yield "freeze_moe_router", Newer(later, "the router is trained like the rest of the model", (False,))
    yield "hf_export_config.distributed_save", Newer(later, "one rank writes", (False,), concern=Concern.SPEED)
    yield "hf_export_config.save_every_n_ranks", Newer(later, "one rank writes", (1,), concern=Concern.SPEED)
    yield "lora_config.merge_lora", Newer(later, "adapters are merged before they are sent to the engines", (True,))
    yield "mtp_num_layers", Newer(later, _MTP, (None, 0))
    for name in ("mtp_loss_weight", "mtp_loss_chunk_size", "mtp_loss_topk"):
        yield name, Newer(later, _MTP, switch="mtp_num_layers")
    yield "async_dist_ckpt_save", Newer(latest, "training waits for checkpoints", (False,), concern=Concern.SPEED)
    for name in ("async_dist_ckpt_strategy", "async_save_prestage_to_cpu"):
        yield (
            name,
            Newer(latest, "training waits for checkpoints", concern=Concern.SPEED, switch="async_dist_ckpt_save"),
        )
    yield "fp8", Newer(latest, _FP8, (None,))
    for name in ("fp8_recipe", "fp8_amax_compute_algo"):
        yield name, Newer(latest, _FP8, switch="fp8")


def _model() -> Iterator[tuple[str, Newer]]:
    since = Release.V0_3
    yield "lora.max_loras", Newer(since, _LORAS, (1,))
    yield "lora.max_cpu_loras", Newer(since, _LORAS, (None, 1))
    yield "lora.share_expert_adapters", Newer(Release.LATER, "every expert has adapters of its own", (False,))
    yield "lora.sync_mode", Newer(Release.LATER, "adapters reach the engines by files in lora_sync_path", ("disk",))
    yield "fake_int4_qat.enabled", Newer(since, _INT4, (False,))
    for name in ("group_size", "symmetric", "scale_divisor", "q_min", "bf16_base_path"):
        yield f"fake_int4_qat.{name}", Newer(since, _INT4, switch="enabled")


def _policy() -> Iterator[tuple[str, Newer]]:
    since = Release.V0_3
    yield "inference_only_init", Newer(since, "the optimiser is always made", (False,))
    yield "torch_profiler_config.enable", Newer(since, _PROFILER, (False,), concern=Concern.LOGGING)
    for name in (
        "ranks", "save_path", "skip_first", "wait", "warmup", "active", "repeat", "activities", "record_shapes",
        "profile_memory", "with_stack", "with_flops", "with_modules", "export_type",
    ):  # fmt: skip
        yield f"torch_profiler_config.{name}", Newer(since, _PROFILER, concern=Concern.LOGGING, switch="enable")


def _trainer() -> Iterator[tuple[str, Newer]]:
    since, latest = Release.V0_3, Release.LATER
    yield (
        "remove_microbatch_padding",
        Newer(since, "it had that name until 0.3", becomes=("trainer", "use_sample_packing")),
    )
    for name in ("before_train", "interval", "batch_size"):
        yield f"eval.{name}", Newer(latest, "it had that name before", becomes=("trainer", f"eval_{name}"))
    yield "max_training_steps", Newer(since, "the run ends after trainer.epochs; lower those", (None,))
    yield (
        "max_tokens_per_microbatch",
        Newer(since, "micro-batches are counted in sequences", (-1, None), concern=Concern.SPEED),
    )
    yield (
        "recompute_old_logprobs_per_minibatch",
        Newer(since, "old log-probabilities are computed for the whole batch", (False,), concern=Concern.SPEED),
    )
    yield "use_expandable_segments", Newer(since, _EXPANDABLE, (False,), concern=Concern.SPEED)
    yield (
        "logprobs_chunk_size",
        Newer(since, "log-probabilities are not computed in such pieces", (None,), concern=Concern.SPEED),
    )
    yield "fused_lm_head_logprob", Newer(since, "the head is not fused", (False,), concern=Concern.SPEED)
    yield (
        "fused_lm_head_logprob_backend",
        Newer(since, "the head is not fused", concern=Concern.SPEED, switch="fused_lm_head_logprob"),
    )
    for name in ("vocab_entropy_chunk_size", "vocab_entropy_chunk_memory_mb"):
        yield name, Newer(latest, "entropy is not computed in pieces", (0,), concern=Concern.SPEED)
    for name in (
        "enable_ray_gpu_monitor", "tags", "print_example_interval", "log_example_interval", "num_logger_eval_samples",
        "num_logger_train_samples",
    ):  # fmt: skip
        yield name, Newer(since, "SkyRL 0.1 has no choice of what is logged", (None, -1), concern=Concern.LOGGING)
    yield "mtp.enabled", Newer(since, _MTP, (False,))
    for name in ("num_speculative_tokens", "loss_weight"):
        yield f"mtp.{name}", Newer(since, _MTP, switch="enabled")
    yield "fully_async.enabled", Newer(since, "the fully asynchronous trainer is not carried over", (False,))
    yield "fully_async.sample_full_batch", Newer(since, "groups without variance are kept", (False,))
    yield "fully_async.clear_kv_cache_on_weight_sync", Newer(since, "the cache outlives a weight sync", (False,))
    yield "fully_async.simulate_training", Newer(since, _SIMULATED, (False,))
    for name in ("simulate_training_step_seconds", "simulate_weight_sync_seconds"):
        yield f"fully_async.{name}", Newer(since, _SIMULATED, switch="simulate_training")
    yield "algorithm.zero_variance_filter_tol", Newer(since, "rewards must be equal to count as such", (0, 0.0, 1e-6))
    yield "algorithm.dppo.dppo_type", Newer(since, _DPPO, ("binary_tv",))
    for name in ("delta_low", "delta_high"):
        yield f"algorithm.dppo.{name}", Newer(since, _DPPO, (0.2,))
    yield "override_entrypoint", Newer(latest, "the job runs SkyRL's main_base, not a program of your own")
    yield "algorithm.cispo.cispo_anchor", Newer(latest, "CISPO is anchored at the old policy", ("old",))


def _table() -> dict[Path, Newer]:
    rows: list[tuple[str, Newer]] = [
        *((f"generator.inference_engine.{name}", newer) for name, newer in _engine()),
        *((f"trainer.{name}", newer) for name, newer in _trainer()),
        *((f"trainer.policy.{name}", newer) for name, newer in _policy()),
        ("generator.vision_language_generator", Newer(Release.V0_2, _VISION, (False,))),
        ("generator.merge_stepwise_output", Newer(Release.V0_2, "steps are not merged", (False,))),
        (
            "generator.use_cache_salt",
            Newer(Release.V0_3, "cached prefixes are not salted", (False,), concern=Concern.SPEED),
        ),
        (
            "data.dataloader.num_workers",
            Newer(Release.V0_3, "8 processes read the data", (None, 8), concern=Concern.SPEED),
        ),
        (
            "data.dataloader.persistent_workers",
            Newer(Release.V0_3, "they are started anew every epoch", (False,), concern=Concern.SPEED),
        ),
    ]
    for owner in ("policy", "ref"):
        rows += [(f"trainer.{owner}.megatron_config.{name}", newer) for name, newer in _megatron()]
        rows.append((f"trainer.{owner}.language_model_only", Newer(Release.V0_2, _VISION, (False,))))
    for owner in ("policy", "ref", "critic"):
        rows += [(f"trainer.{owner}.model.{name}", newer) for name, newer in _model()]
    return {tuple(path.split(".")): newer for path, newer in rows}


NEWER: Mapping[Path, Newer] = _table()


@dataclass(frozen=True, slots=True)
class NewerValue:
    """A value that a field of SkyRL 0.1 got later.

    Args:
        since: The release that has it first.
        why: Why it is not carried over, or what is different.
        becomes: The value here that means the same, itself where there is no other name; None where there is none.
    """

    since: Release
    why: str
    becomes: str | None = None


_BUILTIN_HAS_IT = "the builtin trainer has it, SkyRL 0.1 has not"

NEWER_VALUES: Mapping[tuple[str, object], NewerValue] = {
    ("trainer.algorithm.loss_reduction", "token_mean_legacy"): NewerValue(
        Release.V0_2, "until 0.2 this was called token_mean", "token_mean"
    ),
    ("trainer.algorithm.loss_reduction", "prompt_mean"): NewerValue(Release.V0_3, _BUILTIN_HAS_IT, "prompt_mean"),
    ("trainer.algorithm.policy_loss_type", "rollout_is"): NewerValue(Release.V0_2, _BUILTIN_HAS_IT, "rollout_is"),
    ("trainer.algorithm.policy_loss_type", "dppo"): NewerValue(
        Release.V0_3, f"{_BUILTIN_HAS_IT}; eps_clip_low and eps_clip_high are its bounds", "dppo"
    ),
    ("trainer.algorithm.advantage_estimator", "maxrl"): NewerValue(Release.V0_2, _BUILTIN_HAS_IT, "maxrl"),
    ("generator.inference_engine.weight_sync_backend", "delta"): NewerValue(
        Release.LATER, "weights are sent whole, with nccl"
    ),
}


def newer_name(path: Path) -> tuple[Path, Newer] | None:
    """The entry for a path, or for the nearest section above it that has one; None for names of SkyRL 0.1."""
    for depth in range(len(path), 0, -1):
        found = NEWER.get(path[:depth])
        if found is not None:
            return path[:depth], found
    return None


def is_newer_section(path: Path) -> bool:
    """Whether a path is a section that came after 0.1, such as `trainer.mtp`."""
    return path not in NEWER and any(other[: len(path)] == path for other in NEWER)


def changed_defaults(release: Release, tree: Mapping[str, Any]) -> list[tuple[Path, object, str]]:
    """What a later release does where nothing is set and 0.1 does otherwise: path, its value there, and what it is.

    Only what concerns the run of this tree.
    """
    found: list[tuple[Path, object, str]] = []
    algorithm = tree.get("trainer", {}).get("algorithm", {})
    if release >= Release.V0_3:
        found.append((("generator", "inference_engine", "enforce_eager"), False, "CUDA graphs are used"))
        if tree.get("trainer", {}).get("strategy") == "megatron":
            found += [
                (("trainer", owner, "megatron_config", "empty_cuda_cache"), True, "the cache is emptied")
                for owner in ("policy", "ref")
            ]
    if release >= Release.LATER and algorithm.get("policy_loss_type") == "cispo":
        found.append((("trainer", "algorithm", "cispo", "cispo_eps_clip_low"), 1.0, "the ratio may fall to 0"))
        found.append((("trainer", "algorithm", "cispo", "cispo_eps_clip_high"), 4.0, "the ratio may rise to 5"))
    return found


def changed_meanings(release: Release, tree: Mapping[str, Any]) -> dict[str, str]:
    """What a setting of this tree does in SkyRL 0.1 and not in a later release, by its key."""
    algorithm = tree.get("trainer", {}).get("algorithm", {})
    found: dict[str, str] = {}
    if release >= Release.V0_2 and algorithm.get("loss_reduction", "token_mean") == "token_mean":
        found["trainer.algorithm.loss_reduction"] = (
            "token_mean is one mean over the whole mini-batch since SkyRL 0.2; in 0.1 it is a mean per micro-batch, "
            "and then over those"
        )
    if release >= Release.V0_2 and algorithm.get("use_kl_loss", True) is True:
        found["trainer.algorithm.use_kl_loss"] = (
            "has no gradient in upstream's SkyRL 0.1.0, by a mistake that 0.2 has mended; it matters with "
            "runtime.trainer skyrl"
        )
    return found
