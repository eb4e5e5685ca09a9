"""The generator section: how responses are sampled and which engines sample them.

SkyRL: GeneratorConfig, InferenceEngineConfig, SamplingParams. These models must not know an engine's interface.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rltrain_api.config.base import (
    ConfigModel,
    Fraction,
    IntFromMinusOne,
    NonNegativeNumber,
    PositiveFraction,
    PositiveInt,
    PositiveNumber,
)
from rltrain_api.schema_marks import RawObject

StopString = Annotated[str, Field(min_length=1, max_length=256)]


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


class InferenceEngineConfig(ConfigModel):
    """The engines that generate responses, each in a pod of its own."""

    model_dtype: Literal["bfloat16", "float16", "float32"] = Field(
        default="bfloat16", description="Type of the numbers in the engines' weights and in weight transfers."
    )
    num_engines: Annotated[int, Field(ge=1, le=1024)] = Field(
        default=1, description="Number of engines, from 1 to 1024."
    )
    backend: Literal["vllm", "sglang", "builtin"] = Field(
        default="vllm",
        description="Which server answers generation requests; this release runs builtin (torch and transformers).",
    )
    weight_sync_backend: Literal["nccl", "gloo"] = Field(
        default="nccl",
        description="Transport of weights from trainer to engines: nccl between GPUs, gloo between CPUs.",
    )
    tensor_parallel_size: PositiveInt = Field(
        default=1, description="GPUs that share every layer of one engine; this release runs 1."
    )
    pipeline_parallel_size: PositiveInt = Field(
        default=1, description="GPUs that one engine's layers are dealt out to; this release runs 1."
    )
    expert_parallel_size: PositiveInt = Field(
        default=1, description="GPUs that one engine's experts are dealt out to; this release runs 1."
    )
    data_parallel_size: PositiveInt = Field(
        default=1, description="Replicas of the model inside one engine; this release runs 1."
    )


class GeneratorConfig(ConfigModel):
    """How prompts become responses."""

    inference_engine: InferenceEngineConfig = Field(
        default_factory=InferenceEngineConfig, description="The engines that generate responses."
    )
    n_samples_per_prompt: Annotated[int, Field(ge=1, le=4096)] = Field(
        default=5, description="Responses sampled for each training prompt, from 1 to 4096; a GRPO group."
    )
    max_turns: Annotated[int, Field(ge=1, le=1024)] = Field(
        default=1, description="Most exchanges between model and environment in one trajectory, from 1 to 1024."
    )
    max_input_length: PositiveInt | None = Field(
        default=None,
        description="Longest input of the model, in tokens, over all turns; unset means trainer.max_prompt_length.",
    )
    sampling_params: SamplingParams = Field(
        default_factory=SamplingParams, description="How training responses are sampled."
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
