"""The generator section: how responses are sampled and which engines sample them.

SkyRL: GeneratorConfig, InferenceEngineConfig, SamplingParams, ChatTemplateConfig. These models must not know an
engine's interface.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rltrain_api.config.base import (
    URL,
    ConfigModel,
    Fraction,
    IntFromMinusOne,
    Label,
    NonNegativeNumber,
    Path,
    PositiveFraction,
    PositiveInt,
    PositiveNumber,
    with_rules,
)
from rltrain_api.schema_marks import RawObject

StopString = Annotated[str, Field(min_length=1, max_length=256)]
URLs = Annotated[list[URL], Field(max_length=1024)]


class SamplingParams(ConfigModel):
    """How one response is drawn from the model."""

    max_generate_length: PositiveInt = Field(
        default=1024, description="Longest response of one turn, in tokens, at least 1."
    )
    repetition_penalty: PositiveNumber = Field(
        default=1.0, description="Divides the logits of tokens already seen, above 0; 1 changes nothing."
    )
    temperature: NonNegativeNumber = Field(
        default=1.0, description="Divisor of the logits, at least 0; 0 always takes the likeliest token."
    )
    top_p: PositiveFraction = Field(
        default=1.0, description="Sample from the likeliest tokens that together have this probability; over 0 to 1."
    )
    min_p: Fraction = Field(
        default=0.0,
        description="Leave out tokens less likely than this fraction of the likeliest one; from 0 to 1.",
    )
    top_k: IntFromMinusOne = Field(
        default=-1, description="Sample from this many likeliest tokens; -1 or 0 samples from all."
    )
    logprobs: Annotated[int, Field(ge=0, le=1)] | None = Field(
        default=1,
        description="Log-probabilities returned per token: 0 and 1 both return the sampled token's own.",
    )
    stop: Annotated[list[StopString], Field(max_length=16)] | None = Field(
        default=None, description="Strings that end a response, at most 16."
    )
    additional_kwargs: RawObject | None = Field(
        default=None, description="Further sampling parameters that an engine knows by name; the builtin one has none."
    )


class ChatTemplateConfig(ConfigModel):
    """How messages become the model's input."""

    source: Literal["name", "file"] = Field(
        default="name", description="Whether name_or_path is a template's name or a file."
    )
    name_or_path: Path | None = Field(
        default=None, description="Name or file of the chat template; unset means the tokenizer's own."
    )


class InferenceEngineConfig(ConfigModel):
    """The engines that generate responses."""

    model_config = with_rules(
        (
            "self.?expert_parallel_size.orValue(1) == 1 || self.?expert_parallel_size.orValue(1) == "
            "self.?tensor_parallel_size.orValue(1) * self.?data_parallel_size.orValue(1)",
            "expert_parallel_size must be 1, or tensor_parallel_size times data_parallel_size: change one of them",
        ),
    )

    model_dtype: Literal["bfloat16", "float16", "float32"] = Field(
        default="bfloat16", description="Type of the numbers in the engines' weights and in weight transfers."
    )
    run_engines_locally: bool = Field(
        default=True, description="Start engines with the run (true), or use running ones at remote_urls (false)."
    )
    num_engines: Annotated[int, Field(ge=1, le=1024)] = Field(
        default=1, description="Number of engines, from 1 to 1024."
    )
    backend: Literal["vllm", "sglang", "builtin"] = Field(
        default="vllm",
        description="Which server answers generation requests; builtin is RLTrain's own (torch and transformers).",
    )
    weight_sync_backend: Literal["nccl", "gloo"] = Field(
        default="nccl",
        description="Transport of weights from trainer to engines: nccl between GPUs, gloo between CPUs.",
    )
    weight_transfer_threshold_cuda_ipc_GB: PositiveNumber = Field(  # noqa: N815 - SkyRL's name
        default=1.0, description="Weights sent at once between processes on one GPU, in GB, above 0."
    )
    tensor_parallel_size: PositiveInt = Field(
        default=1, description="GPUs that share every layer of one engine, at least 1."
    )
    pipeline_parallel_size: PositiveInt = Field(
        default=1, description="GPUs that one engine's layers are dealt out to, at least 1."
    )
    expert_parallel_size: PositiveInt = Field(
        default=1, description="GPUs that one engine's experts are dealt out to; 1, or tensor times data parallel."
    )
    data_parallel_size: PositiveInt = Field(
        default=1, description="Replicas of the model inside one engine, at least 1."
    )
    async_engine: bool = Field(
        default=True, description="Let an engine take requests while it generates; false needs generator.batched."
    )
    vllm_v1_disable_multiproc: bool = Field(
        default=True, description="Keep vLLM's engine core in one process, for repeatable results."
    )
    enable_prefix_caching: bool = Field(
        default=True, description="Reuse the cached attention of prompts that begin alike."
    )
    enable_chunked_prefill: bool = Field(
        default=True, description="Read long prompts in pieces between generation steps."
    )
    max_num_batched_tokens: PositiveInt = Field(default=8192, description="Most tokens of one engine step, at least 1.")
    enforce_eager: bool = Field(default=True, description="Run without CUDA graphs: slower, but stable.")
    fully_sharded_loras: bool = Field(
        default=False, description="Shard adapters over tensor-parallel GPUs too; used with LoRA."
    )
    enable_ray_prometheus_stats: bool = Field(
        default=False, description="Export vLLM's metrics through Ray's Prometheus endpoint."
    )
    gpu_memory_utilization: PositiveFraction = Field(
        default=0.8, description="Share of a GPU's memory that an engine takes, over 0 to 1."
    )
    max_num_seqs: PositiveInt = Field(default=1024, description="Most sequences that one engine generates at once.")
    remote_urls: URLs = Field(
        default=[], description="Addresses host:port of running engines; used with run_engines_locally false."
    )
    enable_http_endpoint: bool = Field(
        default=False, description="Serve the engines under one OpenAI-compatible address inside the run."
    )
    http_endpoint_host: Label = Field(default="127.0.0.1", description="Address on which that endpoint listens.")
    http_endpoint_port: Annotated[int, Field(ge=1, le=65535)] = Field(
        default=8000, description="Port on which that endpoint listens, from 1 to 65535."
    )
    served_model_name: Label | None = Field(
        default=None, description="Name of the model at that endpoint; unset means the model's path."
    )
    distributed_executor_backend: Literal["ray", "mp"] = Field(
        default="ray",
        description="How vLLM spreads one engine over GPUs: with Ray, or with processes of one node (mp).",
    )
    engine_init_kwargs: RawObject = Field(
        default={}, description="Further settings of the engine, by the engine's own names."
    )
    override_existing_update_group: Literal["auto", "enable", "disable"] = Field(
        default="auto", description="Whether engines that already have a weight-transfer group replace it."
    )
    external_proxy_url: URL | None = Field(
        default=None, description="Address of a router in front of running engines, for generation requests."
    )
    external_server_urls: URLs | None = Field(
        default=None, description="Addresses of running engines themselves, for control and weight transfers."
    )


class GeneratorConfig(ConfigModel):
    """How prompts become responses."""

    inference_engine: InferenceEngineConfig = Field(
        default_factory=InferenceEngineConfig, description="The engines that generate responses."
    )
    n_samples_per_prompt: Annotated[int, Field(ge=1, le=4096)] = Field(
        default=5, description="Responses sampled for each training prompt, from 1 to 4096; a GRPO group."
    )
    batched: bool = Field(
        default=False, description="Send all prompts of a step to the engines in one request each; single turns only."
    )
    max_turns: Annotated[int, Field(ge=1, le=1024)] = Field(
        default=1, description="Most exchanges between model and environment in one trajectory, from 1 to 1024."
    )
    max_input_length: PositiveInt | None = Field(
        default=None,
        description="Longest input of the model, in tokens, over all turns; unset means trainer.max_prompt_length.",
    )
    chat_template: ChatTemplateConfig = Field(
        default_factory=ChatTemplateConfig, description="How messages become the model's input."
    )
    chat_template_kwargs: RawObject = Field(
        default={}, description="Further arguments of the chat template, such as enable_thinking."
    )
    sampling_params: SamplingParams = Field(
        default_factory=SamplingParams, description="How training responses are sampled."
    )
    use_conversation_multi_turn: bool = Field(
        default=True,
        description="Keep the turns of a trajectory as messages of their own (true) or in one message (false).",
    )
    append_eos_token_after_stop_str_in_multi_turn: bool = Field(
        default=True,
        description="End a turn that met a stop string with the end-of-sequence token; multi-turn conversations only.",
    )
    eval_sampling_params: SamplingParams | None = Field(
        default=None,
        description="How evaluation responses are sampled; unset means temperature 0 and the training length.",
    )
    eval_n_samples_per_prompt: Annotated[int, Field(ge=1, le=4096)] = Field(
        default=1, description="Responses sampled for each evaluation prompt, from 1 to 4096."
    )
    zero_reward_on_non_stop: bool = Field(
        default=False, description="Give reward 0 to a response that did not end by itself."
    )
    apply_overlong_filtering: bool = Field(
        default=False, description="Leave responses that were cut off at their length limit out of the loss."
    )
    rope_scaling: RawObject | None = Field(
        default=None, description="Scaling of the engines' rotary embeddings; unset means trainer.rope_scaling."
    )
    rope_theta: PositiveNumber | None = Field(
        default=None, description="Base of the engines' rotary embeddings, above 0; unset means trainer.rope_theta."
    )
    step_wise_trajectories: bool = Field(
        default=False, description="Train on every turn of a trajectory as a sample of its own."
    )
