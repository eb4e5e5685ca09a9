"""SkyRLTrainConfig: the part of SkyRL's configuration tree that this release honours, key for key.

Every field that is here has an effect. A field of SkyRL's that is not here yet is an unknown key, and
`rltrain_api.config.known` holds its name, so that the refusal can say so.
"""

from __future__ import annotations

from pydantic import Field

from rltrain_api.config.algorithm import AlgorithmConfig
from rltrain_api.config.base import ConfigModel
from rltrain_api.config.generator import GeneratorConfig, InferenceEngineConfig, SamplingParams
from rltrain_api.config.sections import DataConfig, EnvironmentConfig, SkyRLGymConfig
from rltrain_api.config.trainer import (
    FSDPConfig,
    ModelConfig,
    OptimizerConfig,
    PlacementConfig,
    PolicyConfig,
    RefConfig,
    TrainerConfig,
)

__all__ = [
    "AlgorithmConfig",
    "ConfigModel",
    "DataConfig",
    "EnvironmentConfig",
    "FSDPConfig",
    "GeneratorConfig",
    "InferenceEngineConfig",
    "ModelConfig",
    "OptimizerConfig",
    "PlacementConfig",
    "PolicyConfig",
    "RefConfig",
    "SamplingParams",
    "SkyRLGymConfig",
    "SkyRLTrainConfig",
    "TrainerConfig",
]


class SkyRLTrainConfig(ConfigModel):
    """A whole training run, as SkyRL's class of the same name describes it."""

    data: DataConfig = Field(default_factory=DataConfig, description="Which files hold the prompts.")
    trainer: TrainerConfig = Field(default_factory=TrainerConfig, description="The training run.")
    generator: GeneratorConfig = Field(default_factory=GeneratorConfig, description="How prompts become responses.")
    environment: EnvironmentConfig = Field(
        default_factory=EnvironmentConfig, description="What answers the model's words with a reward."
    )
