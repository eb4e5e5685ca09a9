"""SkyRLTrainConfig: SkyRL's configuration tree, key for key: every dataclass, field, type and default.

The tree says what can be written; `rltrain_api.rules` says what fits together, and `rltrain_api.rules.support` which
values this release's own trainer honours (upstream's trainer, `runtime.trainer: skyrl`, honours its own).
"""

from __future__ import annotations

from pydantic import Field

from rltrain_api.config.algorithm import (
    AlgorithmConfig,
    CISPOConfig,
    ClipCovConfig,
    DynamicSamplingConfig,
    KLCovConfig,
    KLCtrlConfig,
    OffPolicyCorrectionConfig,
    SAPOConfig,
)
from rltrain_api.config.base import ConfigModel, with_rules
from rltrain_api.config.generator import ChatTemplateConfig, GeneratorConfig, InferenceEngineConfig, SamplingParams
from rltrain_api.config.sections import (
    DataConfig,
    EnvironmentConfig,
    GSM8kLLMJudgeEnvConfig,
    SearchEnvConfig,
    SkyRLGymConfig,
    Text2SQLEnvConfig,
)
from rltrain_api.config.strategies import (
    FSDPConfig,
    MegatronConfig,
    MegatronDDPConfig,
    MegatronLoraConfig,
    MegatronTorchProfilerConfig,
    MixedPrecisionConfig,
    ModelConfig,
    OptimizerConfig,
    SkyRLLoraConfig,
)
from rltrain_api.config.trainer import (
    CriticConfig,
    FullyAsyncConfig,
    PlacementConfig,
    PolicyConfig,
    RefConfig,
    TrainerConfig,
)

__all__ = [
    "AlgorithmConfig",
    "CISPOConfig",
    "ChatTemplateConfig",
    "ClipCovConfig",
    "ConfigModel",
    "CriticConfig",
    "DataConfig",
    "DynamicSamplingConfig",
    "EnvironmentConfig",
    "FSDPConfig",
    "FullyAsyncConfig",
    "GSM8kLLMJudgeEnvConfig",
    "GeneratorConfig",
    "InferenceEngineConfig",
    "KLCovConfig",
    "KLCtrlConfig",
    "MegatronConfig",
    "MegatronDDPConfig",
    "MegatronLoraConfig",
    "MegatronTorchProfilerConfig",
    "MixedPrecisionConfig",
    "ModelConfig",
    "OffPolicyCorrectionConfig",
    "OptimizerConfig",
    "PlacementConfig",
    "PolicyConfig",
    "RefConfig",
    "SAPOConfig",
    "SamplingParams",
    "SearchEnvConfig",
    "SkyRLGymConfig",
    "SkyRLLoraConfig",
    "SkyRLTrainConfig",
    "Text2SQLEnvConfig",
    "TrainerConfig",
]


_PLACEMENT = "self.?trainer.placement"
_ENGINE = "self.?generator.inference_engine"
_LONGEST_PROMPT = "self.?trainer.max_prompt_length.orValue(512)"
_LONGEST_INPUT = f"self.?generator.max_input_length.orValue({_LONGEST_PROMPT})"


class SkyRLTrainConfig(ConfigModel):
    """A whole training run, as SkyRL's class of the same name describes it."""

    model_config = with_rules(
        (
            f"!{_PLACEMENT}.colocate_all.orValue(true) || "
            f"{_PLACEMENT}.policy_num_nodes.orValue(1) * {_PLACEMENT}.policy_num_gpus_per_node.orValue(1) == "
            f"{_ENGINE}.num_engines.orValue(1) * {_ENGINE}.tensor_parallel_size.orValue(1) * "
            f"{_ENGINE}.pipeline_parallel_size.orValue(1) * {_ENGINE}.data_parallel_size.orValue(1)",
            "with trainer.placement.colocate_all (default true) the engines' GPUs (num_engines times tensor, "
            "pipeline and data parallel size) must be as many as the policy's (policy_num_nodes times "
            "policy_num_gpus_per_node): change one of them, or set colocate_all to false",
        ),
        (
            f"{_LONGEST_INPUT} >= {_LONGEST_PROMPT}",
            "generator.max_input_length must be at least trainer.max_prompt_length (default 512): raise it, "
            "or leave it unset",
        ),
        (
            f"self.?generator.max_turns.orValue(1) > 1 || {_LONGEST_INPUT} == {_LONGEST_PROMPT}",
            "with one turn, generator.max_input_length must equal trainer.max_prompt_length (default 512): "
            "leave it unset, or raise generator.max_turns",
        ),
    )

    data: DataConfig = Field(default_factory=DataConfig, description="Which files hold the prompts.")
    trainer: TrainerConfig = Field(default_factory=TrainerConfig, description="The training run.")
    generator: GeneratorConfig = Field(default_factory=GeneratorConfig, description="How prompts become responses.")
    environment: EnvironmentConfig = Field(
        default_factory=EnvironmentConfig, description="What answers the model's words with a reward."
    )
