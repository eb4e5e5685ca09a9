"""The small sections at the edge of the tree: where the prompts come from, and what answers the model.

SkyRL: DataConfig, EnvironmentConfig, SkyRLGymConfig. These models must not know how data is read or scored.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from rltrain_api.config.base import ConfigModel, Label, Path, PositiveInt

DataFiles = Annotated[list[Path], Field(min_length=1, max_length=256)]


class DataConfig(ConfigModel):
    """Which files hold the prompts."""

    train_data: DataFiles = Field(
        default=["~/data/gsm8k/train.parquet"],
        description="Files of training prompts (parquet, json or jsonl, one row per prompt) on a mounted volume.",
    )
    val_data: DataFiles = Field(
        default=["~/data/gsm8k/validation.parquet"],
        description="Files of evaluation prompts (parquet, json or jsonl, one row per prompt) on a mounted volume.",
    )


class SkyRLGymConfig(ConfigModel):
    """How the environments of skyrl-gym are run."""

    max_env_workers: PositiveInt = Field(
        default=32, description="Threads that step environments at the same time; at least 1."
    )


class EnvironmentConfig(ConfigModel):
    """What answers the model's words with a reward."""

    env_class: Label = Field(
        default="gsm8k",
        description="Registered environment for rows that name none themselves, such as gsm8k.",
    )
    skyrl_gym: SkyRLGymConfig = Field(
        default_factory=SkyRLGymConfig, description="Settings of the skyrl-gym environments."
    )
