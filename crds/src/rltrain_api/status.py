"""RLTrainingJob's status: what is, as the operator last saw it.

Every field is optional and the operator alone writes them. Readers must not depend on `phase`, which is for display and
follows from conditions and progress. Nothing here may hold a secret; messages are cut to their bounds on the way in.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from rltrain_api.schema_marks import DEFAULTS_OMITTED, list_map

MESSAGE_MAX_LENGTH = 2048

Message = Annotated[str, Field(max_length=MESSAGE_MAX_LENGTH)]
Name = Annotated[str, Field(max_length=253)]
Reason = Annotated[str, Field(max_length=128)]
Location = Annotated[str, Field(max_length=1024)]


class Phase(StrEnum):
    """Where the job is in its life, in one word for people."""

    PENDING = "Pending"
    INITIALIZING = "Initializing"
    PROVISIONING = "Provisioning"
    STARTING = "Starting"
    RUNNING = "Running"
    RESTARTING = "Restarting"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


class ConditionType(StrEnum):
    """The conditions that a job has; the first three are read by kstatus."""

    READY = "Ready"  # running well, or complete
    RECONCILING = "Reconciling"  # on its way to what the spec asks for
    STALLED = "Stalled"  # will not get there by itself: invalid spec, or retries used up
    CONFIG_VALID = "ConfigValid"
    CLUSTER_READY = "ClusterReady"
    TRAINING = "Training"
    CHECKPOINTED = "Checkpointed"
    COMPLETE = "Complete"
    FAILED = "Failed"


class StatusModel(BaseModel):
    """One part of the status; unknown keys are ignored, so that a newer operator may have written it."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="ignore",
        frozen=True,
        json_schema_extra=DEFAULTS_OMITTED,
    )


class Condition(StatusModel):
    """One statement about the job, with its reason, as in Kubernetes' own conditions."""

    type: Annotated[str, Field(min_length=1, max_length=128)] = Field(description="What the statement is about.")
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it holds.")
    reason: Annotated[str, Field(pattern=r"^[A-Za-z]([A-Za-z0-9_]*[A-Za-z0-9])?$", max_length=128)] = Field(
        description="Why, as one CamelCase word for programs."
    )
    message: Message = Field(default="", description="Why, in words for people, with what to do.")
    observed_generation: int | None = Field(
        default=None, ge=0, description="Generation of the spec that the statement is about."
    )
    last_transition_time: AwareDatetime = Field(description="When status last changed.")


class Failure(StatusModel):
    """Why the last failed attempt failed."""

    reason: Reason = Field(description="Which failure, as one CamelCase word.")
    role: Reason | None = Field(default=None, description="Role of the pod it began in: head, trainer, inference.")
    pod: Name | None = Field(default=None, description="Name of the pod it began in.")
    exit_code: int | None = Field(default=None, description="Exit code of that pod's container.")
    message: Message = Field(default="", description="What happened.")
    remedy: Message = Field(default="", description="What to do about it.")
    time: AwareDatetime | None = Field(default=None, description="When it was seen.")
    attempt: int | None = Field(default=None, ge=0, description="The attempt that failed.")


class RayClusterReference(StatusModel):
    """The cluster that the job runs in."""

    name: Name = Field(description="Name of the RayCluster, in the job's namespace.")
    dashboard: Location | None = Field(default=None, description="URL of Ray's dashboard inside the cluster.")


class ResolvedConfigReference(StatusModel):
    """The record of the configuration with all its defaults."""

    config_map: Name = Field(description="Name of the ConfigMap that holds the resolved configuration.")
    hash: Annotated[str, Field(max_length=64)] = Field(description="SHA-256 of the resolved configuration, in hex.")


class Progress(StatusModel):
    """How far training is."""

    step: int | None = Field(default=None, ge=0, description="Training steps done, resumed ones included.")
    total_steps: int | None = Field(default=None, ge=0, description="Training steps of the whole run.")
    epoch: int | None = Field(default=None, ge=0, description="The pass over the training data, from 0.")
    percent: int | None = Field(default=None, ge=0, le=100, description="Steps done of all steps, in percent.")
    eta_seconds: int | None = Field(default=None, ge=0, description="Seconds until the end, at the present pace.")
    reward: float | None = Field(default=None, description="Mean raw reward of the newest training step.")
    eval_score: float | None = Field(default=None, description="Mean score of the newest evaluation.")
    tokens_per_second: float | None = Field(default=None, ge=0, description="Trained tokens per second of the step.")
    weight_version: int | None = Field(default=None, ge=0, description="Version of the weights that engines serve.")
    phase: Reason | None = Field(default=None, description="What the driver is doing.")
    message: Message | None = Field(default=None, description="What the driver is doing or waiting for, in words.")
    updated: AwareDatetime | None = Field(default=None, description="When the driver last said so.")


class Engines(StatusModel):
    """The inference engines, as the scale subresource counts them."""

    desired: int | None = Field(default=None, ge=0, description="Engines that the spec asks for.")
    ready: int | None = Field(default=None, ge=0, description="Engines that serve.")
    selector: Location | None = Field(default=None, description="Label selector of the engines' pods.")


class Checkpoint(StatusModel):
    """The newest whole checkpoint."""

    latest_step: int = Field(ge=0, description="Training step after which it was taken.")
    path: Location = Field(description="Its directory, on the checkpoint volume.")
    time: AwareDatetime | None = Field(default=None, description="When it was committed.")
    bytes: int | None = Field(default=None, ge=0, description="Its size, in bytes.")


Durations = Annotated[dict[str, Annotated[float, Field(ge=0)]], Field(max_length=64)]


class Status(StatusModel):
    """What is, as the operator last saw it."""

    observed_generation: int | None = Field(
        default=None, ge=0, description="Generation of the spec that this status is about."
    )
    phase: Phase | None = Field(default=None, description="Where the job is in its life; for display.")
    conditions: Annotated[list[Condition], Field(max_length=32), list_map("type")] = Field(
        default=[], description="Statements about the job, one of each type."
    )
    attempt: int | None = Field(default=None, ge=0, description="Attempts so far; 0 before the first submission.")
    submission_id: Name | None = Field(default=None, description="Ray's id of the present attempt.")
    start_time: AwareDatetime | None = Field(default=None, description="When the operator took the job up.")
    attempt_start_time: AwareDatetime | None = Field(default=None, description="When the present attempt began.")
    completion_time: AwareDatetime | None = Field(default=None, description="When the job ended, either way.")
    last_failure: Failure | None = Field(default=None, description="Why the last failed attempt failed.")
    ray_cluster: RayClusterReference | None = Field(default=None, description="The cluster that the job runs in.")
    resolved_config: ResolvedConfigReference | None = Field(
        default=None, description="Where the configuration with all its defaults is recorded."
    )
    progress: Progress | None = Field(default=None, description="How far training is.")
    engines: Engines | None = Field(default=None, description="The inference engines.")
    checkpoint: Checkpoint | None = Field(default=None, description="The newest whole checkpoint.")
    durations: Durations | None = Field(
        default=None, description="Seconds spent by phase of life and, as train/<name>, by part of the training loop."
    )

    def condition(self, condition_type: str) -> Condition | None:
        """The condition of that type, or None where the operator has not made the statement yet."""
        return next((condition for condition in self.conditions if condition.type == condition_type), None)
