"""The trainer section: models, placement, batch sizes, evaluation, checkpoints.

SkyRL: TrainerConfig, PlacementConfig, PolicyConfig, RefConfig, CriticConfig, FullyAsyncConfig. These models must not
know torch; `rltrain_api.rules` holds the rules between fields.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, WithJsonSchema

from rltrain_api.config.algorithm import AlgorithmConfig
from rltrain_api.config.base import (
    ConfigModel,
    IntFromMinusOne,
    Label,
    NonNegativeInt,
    Path,
    PositiveInt,
    PositiveNumber,
    with_rules,
)
from rltrain_api.config.strategies import FSDPConfig, MegatronConfig, ModelConfig, OptimizerConfig
from rltrain_api.schema_marks import RawObject

Tracker = Literal["wandb", "mlflow", "swanlab", "tensorboard", "console"]
# SkyRL's tracking takes one name or a list; a schema of the API server has no word for that.
Loggers = Annotated[
    Tracker | Annotated[list[Tracker], Field(min_length=1, max_length=5)],
    WithJsonSchema({"x-kubernetes-preserve-unknown-fields": True}),
]
Nodes = Annotated[int, Field(ge=1, le=1024)]
GPUsPerNode = Annotated[int, Field(ge=1, le=64)]

# As CEL reads them: what is set, or SkyRL's default.
_BATCH = "self.?train_batch_size.orValue(1024)"
_MINI_BATCH = "self.?policy_mini_batch_size.orValue(256)"
_CRITIC_MINI_BATCH = "self.?critic_mini_batch_size.orValue(256)"


class PlacementConfig(ConfigModel):
    """How many GPUs each model gets, and which models share them."""

    colocate_all: bool = Field(
        default=True, description="Run engines on the trainer's GPUs (true) or on GPUs of their own (false)."
    )
    colocate_policy_ref: bool = Field(default=True, description="Keep the reference model on the policy's GPUs.")
    policy_num_nodes: Nodes = Field(default=1, description="Pods that train the policy, from 1 to 1024.")
    policy_num_gpus_per_node: GPUsPerNode = Field(
        default=1, description="GPUs, and with them ranks, of each pod that trains the policy, from 1 to 64."
    )
    critic_num_nodes: Nodes = Field(default=1, description="Pods that train the critic, from 1 to 1024.")
    critic_num_gpus_per_node: GPUsPerNode = Field(
        default=1, description="GPUs of each pod that trains the critic, from 1 to 64."
    )
    ref_num_nodes: Nodes = Field(
        default=1, description="Pods of the reference model; equals policy_num_nodes where the two share GPUs."
    )
    ref_num_gpus_per_node: GPUsPerNode = Field(
        default=1, description="GPUs per pod of the reference model; equals policy_num_gpus_per_node when shared."
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
        default=1, description="GPUs that share one sequence, a divisor of the policy's GPUs."
    )
    use_torch_compile: bool = Field(default=False, description="Compile the computation of log-probabilities.")
    record_memory: bool = Field(
        default=False, description="Save snapshots of GPU memory to memory_snapshots under trainer.ckpt_path."
    )
    megatron_config: MegatronConfig = Field(
        default_factory=MegatronConfig, description="How Megatron spreads the policy; strategy megatron only."
    )
    model_config_kwargs: RawObject = Field(
        default={}, description="Further settings of the policy's Hugging Face configuration, by its own names."
    )


class CriticConfig(ConfigModel):
    """The model that estimates values; used where its path is set."""

    model: ModelConfig = Field(
        default_factory=ModelConfig, description="Which model is the critic; an unset path means that there is none."
    )
    optimizer_config: OptimizerConfig = Field(
        default_factory=lambda: OptimizerConfig(lr=5e-6),
        description="The critic's optimiser; its lr defaults to 5e-6 only when optimizer_config is unset.",
    )
    fsdp_config: FSDPConfig = Field(default_factory=FSDPConfig, description="How the critic is sharded.")
    sequence_parallel_size: PositiveInt = Field(
        default=1, description="GPUs that share one sequence, a divisor of the critic's GPUs."
    )
    model_config_kwargs: RawObject = Field(
        default={}, description="Further settings of the critic's Hugging Face configuration, by its own names."
    )


class RefConfig(ConfigModel):
    """The frozen model that the KL term compares with."""

    model: ModelConfig = Field(
        default_factory=ModelConfig, description="Which model is the reference; an unset path means the policy's."
    )
    sequence_parallel_size: PositiveInt = Field(
        default=1, description="GPUs that share one sequence, a divisor of the reference model's GPUs."
    )
    fsdp_config: FSDPConfig = Field(default_factory=FSDPConfig, description="How the reference model is sharded.")
    megatron_config: MegatronConfig = Field(
        default_factory=MegatronConfig, description="How Megatron spreads the reference model; strategy megatron only."
    )
    model_config_kwargs: RawObject = Field(
        default={}, description="Further settings of the reference's Hugging Face configuration, by its own names."
    )


class FullyAsyncConfig(ConfigModel):
    """Generation that does not wait for training; used by the fully asynchronous trainer only."""

    max_staleness_steps: NonNegativeInt = Field(
        default=4, description="Training steps that may lie between generating a group and training on it."
    )
    num_parallel_generation_workers: PositiveInt = Field(
        default=768,
        description="Groups generated at once, from policy_mini_batch_size to that times max_staleness_steps plus 1.",
    )


class TrainerConfig(ConfigModel):
    """The training run."""

    # The API server checks these too, with SkyRL's defaults for what is unset; `rltrain_api.rules` says the same.
    model_config = with_rules(
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
        (
            "self.?algorithm.advantage_estimator.orValue('grpo') != 'gae' || self.?critic.model.path.hasValue()",
            "advantage_estimator gae needs a critic: set critic.model.path",
        ),
        (
            f"!self.?critic.model.path.hasValue() || {_BATCH} % {_CRITIC_MINI_BATCH} == 0",
            "train_batch_size (default 1024) must be a multiple of critic_mini_batch_size (default 256): "
            "change one of them",
        ),
    )

    placement: PlacementConfig = Field(default_factory=PlacementConfig, description="How many GPUs, and where.")
    sequence_parallel_backend: Literal["ulysses"] = Field(
        default="ulysses", description="How GPUs share one sequence; SkyRL knows ulysses only."
    )
    strategy: Literal["fsdp2", "fsdp", "megatron"] = Field(
        default="fsdp2", description="How models are spread over GPUs; megatron is upstream's trainer only."
    )
    policy: PolicyConfig = Field(default_factory=PolicyConfig, description="The model that is trained.")
    ref: RefConfig = Field(default_factory=RefConfig, description="The reference model of the KL term.")
    critic: CriticConfig = Field(default_factory=CriticConfig, description="The model that estimates values.")
    algorithm: AlgorithmConfig = Field(default_factory=AlgorithmConfig, description="How rewards become gradients.")
    fully_async: FullyAsyncConfig = Field(
        default_factory=FullyAsyncConfig, description="Generation that does not wait for training."
    )
    gradient_checkpointing: bool = Field(
        default=True, description="Recompute activations in the backward pass instead of keeping them."
    )
    gradient_checkpointing_use_reentrant: bool = Field(
        default=False, description="Use torch's older, reentrant form of gradient checkpointing."
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
    log_path: Path = Field(
        default="/tmp/skyrl-logs",  # noqa: S108 - SkyRL's default, on a pod
        description="Directory of SkyRL's infrastructure logs, on a mounted volume where they shall outlive the pod.",
    )
    ckpt_path: Path = Field(default="~/ckpts/", description="Directory of checkpoints, on a mounted volume.")
    max_ckpts_to_keep: IntFromMinusOne = Field(
        default=-1, description="Newest checkpoints that are kept, at least 1; -1 keeps all."
    )
    ckpt_interval: IntFromMinusOne = Field(
        default=10, description="Training steps between checkpoints; -1 or 0 saves only at the end."
    )
    hf_save_interval: IntFromMinusOne = Field(
        default=-1, description="Training steps between exports in Hugging Face's format; -1 or 0 exports nothing."
    )
    export_path: Path = Field(
        default="~/exports/", description="Directory of exported models and dumps, on a mounted volume."
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
    critic_mini_batch_size: PositiveInt = Field(default=256, description="Prompts per optimiser step of the critic.")
    micro_train_batch_size_per_gpu: PositiveInt = Field(
        default=1, description="Sequences per forward and backward pass on one GPU; divides its share of a mini-batch."
    )
    micro_forward_batch_size_per_gpu: PositiveInt = Field(
        default=1, description="Sequences per forward pass without gradients on one GPU, at least 1."
    )
    update_ref_every_epoch: bool = Field(
        default=False, description="Replace the reference model by the policy at the end of every epoch."
    )
    use_sample_packing: bool = Field(
        default=True, description="Train on sequences laid end to end, without padding between them."
    )
    eval_batch_size: PositiveInt = Field(default=1024, description="Prompts evaluated at a time, at least 1.")
    eval_before_train: bool = Field(default=True, description="Evaluate once before the first training step.")
    eval_interval: IntFromMinusOne = Field(
        default=5, description="Training steps between evaluations; -1 or 0 never evaluates during training."
    )
    max_prompt_length: PositiveInt = Field(
        default=512, description="Longest prompt, in tokens; rows with longer ones are left out."
    )
    flash_attn: bool = Field(default=True, description="Compute attention with the flash-attn package.")
    disable_fast_tokenizer: bool = Field(default=False, description="Load the tokenizer's slow implementation.")
    project_name: Label = Field(default="skyrl", description="Name of the project that trackers file the run under.")
    run_name: Label = Field(default="test_run", description="Name of the run in trackers.")
    logger: Loggers = Field(default="wandb", description="Where metrics are written: one tracker, or a list of them.")
    dump_data_batch: bool = Field(default=False, description="Write every training batch to a file under export_path.")
    dump_eval_results: bool = Field(
        default=True, description="Write the responses of every evaluation to files under export_path."
    )
    rope_scaling: RawObject | None = Field(
        default=None, description="Scaling of the models' rotary embeddings, by Hugging Face's names."
    )
    rope_theta: PositiveNumber | None = Field(
        default=None, description="Base of the models' rotary embeddings, above 0; unset follows the model."
    )

    @property
    def loggers(self) -> tuple[str, ...]:
        """The trackers that `logger` names, each once."""
        return (self.logger,) if isinstance(self.logger, str) else tuple(dict.fromkeys(self.logger))
