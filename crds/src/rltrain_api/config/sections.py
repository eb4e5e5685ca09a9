"""The sections at the edge of the tree: where the prompts come from, and what answers the model.

SkyRL: DataConfig, EnvironmentConfig, SkyRLGymConfig and the settings of its environments. These models must not know
how data is read or scored.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from rltrain_api.config.base import URL, ConfigModel, Label, NonNegativeInt, Path, PositiveInt

DataFiles = Annotated[list[Path], Field(min_length=1, max_length=256)]


class DataConfig(ConfigModel):
    """Which files hold the prompts."""

    train_data: DataFiles = Field(
        default=["~/data/gsm8k/train.parquet"],
        description="Training prompts, one row per prompt: files (parquet, json or jsonl) on a mounted volume, or "
        "datasets of a hub as owner/name or owner/name:split.",
    )
    val_data: DataFiles = Field(
        default=["~/data/gsm8k/validation.parquet"],
        description="Evaluation prompts, one row per prompt: files (parquet, json or jsonl) on a mounted volume, or "
        "datasets of a hub as owner/name or owner/name:split. Read only when there is an evaluation.",
    )


class Text2SQLEnvConfig(ConfigModel):
    """The text2sql environment: questions answered by SQL."""

    db_path: Path = Field(
        default="/home/ray/default/sql_data", description="Directory of the SQLite databases that queries run on."
    )


class GSM8kLLMJudgeEnvConfig(ConfigModel):
    """The llm_as_a_judge environment: another model scores the answer."""

    model: Label = Field(default="gpt-4o-mini", description="Name of the judging model at its endpoint.")
    base_url: URL | None = Field(
        default=None, description="Endpoint of the judging model (OpenAI's protocol); unset means OpenAI's own."
    )


class SearchEnvConfig(ConfigModel):
    """The search environment: the model asks a retriever."""

    log_requests: bool = Field(default=False, description="Log every request to the retriever.")
    search_url: URL = Field(
        default="http://127.0.0.1:8000/retrieve", description="Address of the retriever that answers queries."
    )
    topk: PositiveInt = Field(default=3, description="Documents asked for with each query, at least 1.")
    timeout: PositiveInt = Field(default=30, description="Seconds that a query may take, at least 1.")


class SkyRLGymConfig(ConfigModel):
    """How the environments of skyrl-gym are run."""

    max_env_workers: NonNegativeInt = Field(
        default=32, description="Threads that step environments at the same time; 0 steps them one after the other."
    )
    text2sql: Text2SQLEnvConfig = Field(
        default_factory=Text2SQLEnvConfig, description="Settings of the text2sql environment."
    )
    llm_as_a_judge: GSM8kLLMJudgeEnvConfig = Field(
        default_factory=GSM8kLLMJudgeEnvConfig, description="Settings of the llm_as_a_judge environment."
    )
    search: SearchEnvConfig = Field(default_factory=SearchEnvConfig, description="Settings of the search environment.")


class EnvironmentConfig(ConfigModel):
    """What answers the model's words with a reward."""

    env_class: Label = Field(
        default="gsm8k",
        description="Registered environment for rows that name none themselves, such as gsm8k.",
    )
    skyrl_gym: SkyRLGymConfig = Field(
        default_factory=SkyRLGymConfig, description="Settings of the skyrl-gym environments."
    )
