"""The trainer section: models, placement, optimiser, batch sizes, evaluation, checkpoints.

SkyRL: TrainerConfig, PlacementConfig, PolicyConfig, RefConfig, ModelConfig, OptimizerConfig, FSDPConfig. These models
must not know torch; `rltrain_api.validate` holds the rules between fields.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, WithJsonSchema

from rltrain_api.config.algorithm import AlgorithmConfig
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
from rltrain_api.schema_marks import DEFAULTS_IN_WORDS, cel

Nodes = Annotated[int, Field(ge=1, le=1024)]
GPUsPerNode = Annotated[int, Field(ge=1, le=64)]
# A schema of the API server has no word for "boolean or integer", so this one field goes unchecked until `validate`.
BoolOrCount = Annotated[
    bool | Annotated[int, Field(ge=1, le=INT32_MAX)], WithJsonSchema({"x-kubernetes-preserve-unknown-fields": True})
]

_BATCH = "(has(self.train_batch_size) ? self.train_batch_size : 1024)"
_MINI_BATCH = "(has(self.policy_mini_batch_size) ? self.policy_mini_batch_size : 256)"


class PlacementConfig(ConfigModel):
    """How many GPUs each model gets, and which models share them."""

    colocate_all: bool = Field(
        default=True,
        description="Run engines on the trainer's GPUs; this release runs them apart, so it must be set to false.",
    )
    colocate_policy_ref: bool = Field(
        default=True, description="Keep the reference model on the policy's GPUs; this release always does."
    )
    policy_num_nodes: Nodes = Field(default=1, description="Pods that train the policy, from 1 to 1024.")
    policy_num_gpus_per_node: GPUsPerNode = Field(
        default=1, description="GPUs, and with them ranks, of each pod that trains the policy, from 1 to 64."
    )
    ref_num_nodes: Nodes = Field(
        default=1, description="Pods of the reference model; equals policy_num_nodes where the two share GPUs."
    )
    ref_num_gpus_per_node: GPUsPerNode = Field(
        default=1, description="GPUs per pod of the reference model; equals policy_num_gpus_per_node when shared."
    )


class ModelConfig(ConfigModel):
    """Which model is loaded."""

    path: Path | None = Field(
        default=None, description="A directory with a Hugging Face model and its tokenizer, or a name on the Hub."
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
    num_warmup_steps: NonNegativeInt = Field(
        default=0, description="Optimiser steps (mini-batches) over which the learning rate rises to its peak."
    )
    scheduler: Literal[
        "constant_with_warmup", "constant", "linear", "cosine", "cosine_with_restarts", "polynomial", "inverse_sqrt"
    ] = Field(default="constant_with_warmup", description="Shape of the learning rate over the run.")


class FSDPConfig(ConfigModel):
    """How the trained model is sharded."""

    reshard_after_forward: BoolOrCount = Field(
        default=True,
        description="Free gathered parameters after the forward pass (true), keep them until the backward pass "
        "(false), or reshard them to a smaller group of this many ranks.",
    )


class PolicyConfig(ConfigModel):
    """The model that is trained."""

    model: ModelConfig = Field(
        default_factory=lambda: ModelConfig(path="Qwen/Qwen2.5-1.5B-Instruct"),
        description="Which model is trained; its path defaults to Qwen/Qwen2.5-1.5B-Instruct only when model is unset.",
    )
    optimizer_config: OptimizerConfig = Field(default_factory=OptimizerConfig, description="The policy's optimiser.")
    fsdp_config: FSDPConfig = Field(default_factory=FSDPConfig, description="How the policy is sharded.")
    sequence_parallel_size: PositiveInt = Field(
        default=1, description="GPUs that share one sequence; this release runs 1."
    )


class RefConfig(ConfigModel):
    """The frozen model that the KL term compares with."""

    model: ModelConfig = Field(
        default_factory=ModelConfig, description="Which model is the reference; an unset path means the policy's."
    )


class TrainerConfig(ConfigModel):
    """The training run."""

    # The API server checks these too, with SkyRL's defaults for what is unset; `rltrain_api.rules` says the same.
    model_config = ConfigDict(
        json_schema_extra={
            **DEFAULTS_IN_WORDS,
            **cel(
                (
                    f"{_BATCH} % {_MINI_BATCH} == 0",
                    "train_batch_size (default 1024) must be a multiple of policy_mini_batch_size (default 256): "
                    "change one of them",
                ),
                (
                    "!has(self.max_ckpts_to_keep) || self.max_ckpts_to_keep != 0",
                    "max_ckpts_to_keep 0 would keep no checkpoint: use -1 to keep all, or a number from 1",
                ),
                (
                    "!has(self.resume_mode) || self.resume_mode != 'from_path' || has(self.resume_path)",
                    "resume_mode from_path needs resume_path: set it to a directory global_step_N",
                ),
            ),
        }
    )

    placement: PlacementConfig = Field(default_factory=PlacementConfig, description="How many GPUs, and where.")
    strategy: Literal["fsdp2", "fsdp", "megatron"] = Field(
        default="fsdp2", description="How the trained model is spread over GPUs; this release runs fsdp2."
    )
    policy: PolicyConfig = Field(default_factory=PolicyConfig, description="The model that is trained.")
    ref: RefConfig = Field(default_factory=RefConfig, description="The reference model of the KL term.")
    algorithm: AlgorithmConfig = Field(default_factory=AlgorithmConfig, description="How rewards become gradients.")
    gradient_checkpointing: bool = Field(
        default=True, description="Recompute activations in the backward pass instead of keeping them."
    )
    seed: NonNegativeInt = Field(default=42, description="Seed of every random number generator of the run.")
    resume_mode: Literal["none", "latest", "from_path"] | None = Field(
        default="latest",
        description="Start fresh (none or null), continue from the newest checkpoint under ckpt_path (latest), or "
        "from resume_path (from_path).",
    )
    resume_path: Path | None = Field(
        default=None, description="Directory global_step_N of the checkpoint that resume_mode from_path continues from."
    )
    ckpt_path: Path = Field(default="~/ckpts/", description="Directory of checkpoints, on a mounted volume.")
    max_ckpts_to_keep: IntFromMinusOne = Field(
        default=-1, description="Newest checkpoints that are kept, at least 1; -1 keeps all."
    )
    ckpt_interval: IntFromMinusOne = Field(
        default=10, description="Training steps between checkpoints; -1 or 0 saves only at the end."
    )
    bf16: bool = Field(default=True, description="Compute in bfloat16 with float32 master weights; false is float32.")
    epochs: PositiveInt = Field(default=1, description="Passes over the training data, at least 1.")
    update_epochs_per_batch: PositiveInt = Field(
        default=1, description="Passes of gradient updates over each training batch, at least 1."
    )
    train_batch_size: PositiveInt = Field(
        default=1024, description="Prompts per training step, a multiple of policy_mini_batch_size."
    )
    policy_mini_batch_size: PositiveInt = Field(default=256, description="Prompts per optimiser step of the policy.")
    micro_train_batch_size_per_gpu: PositiveInt = Field(
        default=1, description="Sequences per forward and backward pass on one GPU; divides its share of a mini-batch."
    )
    micro_forward_batch_size_per_gpu: PositiveInt = Field(
        default=1, description="Sequences per forward pass without gradients on one GPU, at least 1."
    )
    eval_batch_size: PositiveInt = Field(default=1024, description="Prompts evaluated at a time, at least 1.")
    eval_before_train: bool = Field(default=True, description="Evaluate once before the first training step.")
    eval_interval: IntFromMinusOne = Field(
        default=5, description="Training steps between evaluations; -1 or 0 never evaluates during training."
    )
    max_prompt_length: PositiveInt = Field(
        default=512, description="Longest prompt, in tokens; rows with longer ones are left out."
    )
    project_name: Label = Field(default="skyrl", description="Name of the project that trackers file the run under.")
    run_name: Label = Field(default="test_run", description="Name of the run in trackers.")
    logger: Literal["wandb", "mlflow", "swanlab", "tensorboard", "console"] = Field(
        default="wandb", description="Where metrics are written; this release writes to the console."
    )
