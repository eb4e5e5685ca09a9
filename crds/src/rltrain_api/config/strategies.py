"""How a model is loaded, adapted, optimised and spread over GPUs.

SkyRL: ModelConfig, SkyRLLoraConfig, OptimizerConfig, MixedPrecisionConfig, FSDPConfig and the Megatron classes. These
models must not know torch, nor which of the run's models (policy, reference, critic) they describe.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, WithJsonSchema

from rltrain_api.config.base import (
    INT32_MAX,
    ConfigModel,
    FractionBelowOne,
    IntFromMinusOne,
    Label,
    NonNegativeInt,
    NonNegativeNumber,
    Path,
    PositiveInt,
)
from rltrain_api.schema_marks import RawObject

# A schema of the API server has no word for "boolean or integer", so this one field goes unchecked until `validate`.
BoolOrCount = Annotated[
    bool | Annotated[int, Field(ge=1, le=INT32_MAX)], WithJsonSchema({"x-kubernetes-preserve-unknown-fields": True})
]
Precision = Literal["bf16", "fp16", "fp32"]
ModuleNames = Annotated[str, Field(min_length=1, max_length=1024)]
Scheduler = Literal[
    "constant_with_warmup", "constant", "linear", "cosine", "cosine_with_restarts", "polynomial", "inverse_sqrt"
]


class SkyRLLoraConfig(ConfigModel):
    """Low-rank adapters: small matrices that are trained in place of the model."""

    rank: NonNegativeInt = Field(default=0, description="Rank of the adapters; 0 trains the whole model.")
    alpha: PositiveInt = Field(default=16, description="Scale of the adapters: their output is times alpha / rank.")
    dropout: FractionBelowOne = Field(
        default=0.0, description="Share of the adapters' inputs set to 0 in training, from 0 to under 1."
    )
    lora_sync_path: Path = Field(
        default="/tmp/skyrl_lora_sync",  # noqa: S108 - SkyRL's default, on a pod
        description="Directory through which adapters reach the engines; both sides must see it.",
    )
    target_modules: ModuleNames = Field(
        default="all-linear", description="Layers that get adapters: all-linear, a name or a regular expression."
    )
    exclude_modules: ModuleNames | None = Field(
        default=None, description="Layers that get none, a name or a regular expression."
    )
    init_method: Label = Field(
        default="kaiming",
        description="How adapters begin: kaiming, xavier, normal or zero; with FSDP also a name that PEFT knows.",
    )


class ModelConfig(ConfigModel):
    """Which model is loaded."""

    path: Path | None = Field(
        default=None, description="A directory with a Hugging Face model and its tokenizer, or a name on the Hub."
    )
    lora: SkyRLLoraConfig = Field(
        default_factory=SkyRLLoraConfig, description="Train small adapters in place of the whole model."
    )


class OptimizerConfig(ConfigModel):
    """AdamW and its learning-rate schedule."""

    lr: NonNegativeNumber = Field(default=1e-6, description="Peak learning rate, at least 0.")
    adam_betas: Annotated[list[FractionBelowOne], Field(min_length=2, max_length=2)] = Field(
        default=[0.9, 0.999], description="Decay of AdamW's first and second moment, two numbers from 0 to under 1."
    )
    weight_decay: NonNegativeNumber = Field(default=1e-2, description="AdamW's decoupled weight decay, at least 0.")
    max_grad_norm: NonNegativeNumber = Field(
        default=1.0, description="Gradients are scaled down to this norm; 0 leaves them alone."
    )
    offload_after_step: bool = Field(
        default=True, description="Keep the optimiser's state in CPU memory between steps; used with colocate_all."
    )
    num_warmup_steps: NonNegativeInt = Field(
        default=0, description="Optimiser steps (mini-batches) over which the learning rate rises to its peak."
    )
    scheduler: Scheduler = Field(default="constant_with_warmup", description="Shape of the learning rate over the run.")


class MixedPrecisionConfig(ConfigModel):
    """The types of numbers that FSDP computes in."""

    param_dtype: Precision = Field(default="bf16", description="Type of parameters in forward and backward passes.")
    reduce_dtype: Precision = Field(default="fp32", description="Type in which gradients are summed over GPUs.")
    buffer_dtype: Precision = Field(default="fp32", description="Type of the model's buffers.")


class FSDPConfig(ConfigModel):
    """How a model is sharded."""

    cpu_offload: bool = Field(
        default=False, description="Keep parameters, gradients and the optimiser's state in CPU memory."
    )
    reshard_after_forward: BoolOrCount = Field(
        default=True,
        description="Free gathered parameters after the forward pass (true), keep them until the backward pass "
        "(false), or reshard them to a smaller group of this many ranks.",
    )
    fsdp_size: IntFromMinusOne = Field(
        default=-1, description="GPUs that share one copy of the model; -1 means all of them."
    )
    mixed_precision: MixedPrecisionConfig | None = Field(
        default=None, description="Types of numbers; unset follows trainer.bf16."
    )
    wrap_policy: RawObject = Field(
        default={}, description="Which modules are sharded as one unit, by transformer_layer_cls_to_wrap."
    )


class MegatronDDPConfig(ConfigModel):
    """Megatron's data parallelism."""

    grad_reduce_in_fp32: bool = Field(default=True, description="Sum gradients over GPUs in float32.")
    overlap_grad_reduce: bool = Field(default=False, description="Sum gradients while the backward pass runs.")
    overlap_param_gather: bool = Field(default=False, description="Gather parameters while the forward pass runs.")
    average_in_collective: bool = Field(default=True, description="Average gradients inside the collective operation.")


class MegatronTorchProfilerConfig(ConfigModel):
    """torch's profiler in Megatron's ranks."""

    enable: bool = Field(default=False, description="Profile training steps.")
    ranks: Annotated[list[NonNegativeInt], Field(max_length=4096)] = Field(
        default=[], description="Ranks that are profiled; empty means none."
    )
    save_path: Path | None = Field(default=None, description="Directory of the profiles.")


class MegatronLoraConfig(ConfigModel):
    """Adapters as Megatron knows them."""

    lora_type: Literal["lora", "canonical_lora"] = Field(
        default="lora", description="One adapter per fused layer (lora), or one per original layer (canonical_lora)."
    )


class MegatronConfig(ConfigModel):
    """How Megatron spreads a model; used with trainer.strategy megatron only."""

    tensor_model_parallel_size: PositiveInt = Field(default=1, description="GPUs that share every layer, at least 1.")
    pipeline_model_parallel_size: PositiveInt = Field(
        default=1, description="GPUs that the layers are dealt out to, at least 1."
    )
    context_parallel_size: PositiveInt = Field(default=1, description="GPUs that share one sequence, at least 1.")
    expert_model_parallel_size: PositiveInt = Field(
        default=1, description="GPUs that the experts are dealt out to, at least 1."
    )
    expert_tensor_parallel_size: PositiveInt | None = Field(
        default=None, description="GPUs that share one expert; unset means tensor_model_parallel_size."
    )
    moe_token_dispatcher_type: Literal["alltoall", "allgather", "flex"] = Field(
        default="alltoall", description="How tokens travel to their experts."
    )
    moe_router_load_balancing_type: Literal["none", "aux_loss", "seq_aux_loss", "global_aux_loss", "sinkhorn"] = Field(
        default="none", description="How experts are kept equally busy."
    )
    moe_grouped_gemm: bool = Field(default=True, description="Compute several experts in one matrix product.")
    moe_router_score_function: Literal["softmax", "sigmoid"] | None = Field(
        default=None, description="How the router scores experts; unset follows the model."
    )
    moe_router_enable_expert_bias: bool | None = Field(
        default=None, description="Balance experts by a bias of the router; unset follows the model."
    )
    ddp_config: MegatronDDPConfig = Field(default_factory=MegatronDDPConfig, description="Megatron's data parallelism.")
    torch_profiler_config: MegatronTorchProfilerConfig = Field(
        default_factory=MegatronTorchProfilerConfig, description="torch's profiler."
    )
    lora_config: MegatronLoraConfig = Field(default_factory=MegatronLoraConfig, description="Kind of adapters.")
    optimizer_config_kwargs: RawObject = Field(
        default={
            "overlap_cpu_optimizer_d2h_h2d": False,
            "use_precision_aware_optimizer": False,
            "optimizer_cpu_offload": False,
            "optimizer_offload_fraction": 0.0,
        },
        description="Further settings of Megatron's optimiser, by its own names; what is set replaces the default.",
    )
    transformer_config_kwargs: RawObject = Field(
        default={
            "recompute_granularity": "full",
            "recompute_modules": ["core_attn"],
            "recompute_method": "uniform",
            "recompute_num_layers": 1,
            "gradient_accumulation_fusion": False,
        },
        description="Further settings of Megatron's transformer, by its own names; what is set replaces the default.",
    )
    empty_cuda_cache: bool | None = Field(
        default=None, description="Free cached GPU memory after each optimiser step; unset leaves it to SkyRL."
    )
    model_config_kwargs: RawObject = Field(default={}, description="Further settings of the model's configuration.")
    dist_ckpt_optim_fully_reshardable: bool = Field(
        default=False, description="Save the optimiser's state so that any other parallelism can load it."
    )
