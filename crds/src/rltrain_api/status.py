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
    QUEUED = "Queued"
    PROVISIONING = "Provisioning"
    STARTING = "Starting"
    RUNNING = "Running"
    RESTARTING = "Restarting"
    UPDATING = "Updating"
    SUSPENDING = "Suspending"
    SUSPENDED = "Suspended"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


class ConditionType(StrEnum):
    """The conditions that a job has; the first three are read by kstatus."""

    READY = "Ready"  # running well, or complete
    RECONCILING = "Reconciling"  # on its way to what the spec asks for
    STALLED = "Stalled"  # will not get there by itself: invalid spec, or retries used up
    CONFIG_VALID = "ConfigValid"
    QUOTA_RESERVED = "QuotaReserved"  # only for jobs in a queue of Kueue
    CLUSTER_READY = "ClusterReady"
    ENGINES_READY = "EnginesReady"
    TRAINING = "Training"
    CHECKPOINTED = "Checkpointed"
    SUSPENDED = "Suspended"
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
    action: Reason | None = Field(default=None, description="What it led to, as in spec.failurePolicy.rules.")
    checkpoint_step: int | None = Field(default=None, ge=0, description="Step of the newest checkpoint at that time.")
    cluster_uid: Name | None = Field(default=None, description="Identity of the RayCluster that the attempt ran on.")
    log: Message | None = Field(default=None, description="The last lines of the driver's log.")


class Stop(StatusModel):
    """How an attempt was, or is being, ended by wish and not by a failure."""

    attempt: int = Field(ge=0, description="The attempt that was asked to stop.")
    reason: Reason = Field(description="Why, as one CamelCase word.")
    requested: AwareDatetime = Field(description="When it was asked; spec.stopGracePeriodSeconds count from here.")
    ended: AwareDatetime | None = Field(default=None, description="When the attempt was over.")


class HandledRequests(StatusModel):
    """The values of the job's request annotations that have been carried out."""

    checkpoint: Name | None = Field(default=None, description="Of rltrain.io/checkpoint-requested-at.")
    restart: Name | None = Field(default=None, description="Of rltrain.io/restart-requested-at.")


class InitializerStatus(StatusModel):
    """How far one initializer is."""

    name: Name = Field(description="Name of the initializer.")
    state: Reason = Field(description="Pending, Running, Complete or Failed.")
    attempts: int = Field(default=0, ge=0, description="Pods that have been started for it.")
    message: Message = Field(default="", description="Why its pod waits, or its last words.")
    bytes: int | None = Field(
        default=None, ge=0, description="Bytes of the dataset or model that are there, while it is fetched."
    )
    total_bytes: int | None = Field(
        default=None, ge=0, description="Bytes that it has in all; unset where the source does not say."
    )


class RayClusterReference(StatusModel):
    """The cluster that the job runs in."""

    name: Name = Field(description="Name of the RayCluster, in the job's namespace.")
    dashboard: Location | None = Field(default=None, description="URL of Ray's dashboard inside the cluster.")


class ResolvedConfigReference(StatusModel):
    """The record of the configuration with all its defaults."""

    config_map: Name = Field(description="Name of the ConfigMap that holds the resolved configuration.")
    hash: Annotated[str, Field(max_length=64)] = Field(description="SHA-256 of the resolved configuration, in hex.")
    spec_hash: Annotated[str, Field(max_length=64)] | None = Field(
        default=None, description="Fingerprint of the spec as it was written, without the policies that apply at once."
    )
    engines: int | None = Field(
        default=None, ge=1, description="Inference engines that it asks for; their number may change while it runs."
    )


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


class Accounting(StatusModel):
    """What the job has used until `updated`, and what came of it; docs/accounting.md defines each number."""

    gpu_seconds: float = Field(
        ge=0, description="GPUs of ready pods times seconds, over all attempts and clusters; it never falls."
    )
    goodput: Annotated[float, Field(ge=0, le=1)] | None = Field(
        default=None, description="Share of the time with a cluster that went into steps that were done once."
    )
    cluster_seconds: float = Field(ge=0, description="Seconds that the job had a cluster before it ended.")
    useful_seconds: float = Field(ge=0, description="Seconds of them that went into steps that were done once.")
    steps: int = Field(default=0, ge=0, description="The highest training step that usefulSeconds holds.")
    gpus: int | None = Field(default=None, ge=0, description="GPUs of ready pods; unset while there is no cluster.")
    step_since: AwareDatetime | None = Field(
        default=None, description="Since when the step after steps is worked on; unset while it is not."
    )
    updated: AwareDatetime = Field(description="Until when all of this counts.")


Durations = Annotated[dict[str, Annotated[float, Field(ge=0)]], Field(max_length=64)]


class Status(StatusModel):
    """What is, as the operator last saw it."""

    observed_generation: int | None = Field(
        default=None, ge=0, description="Generation of the spec that this status is about."
    )
    phase: Phase | None = Field(default=None, description="Where the job is in its life; for display.")
    phase_since: AwareDatetime | None = Field(default=None, description="Since when it is in this phase.")
    conditions: Annotated[list[Condition], Field(max_length=32), list_map("type")] = Field(
        default=[], description="Statements about the job, one of each type."
    )
    attempt: int | None = Field(default=None, ge=0, description="Attempts so far; 0 before the first submission.")
    submission_id: Name | None = Field(default=None, description="Ray's id of the present attempt.")
    start_time: AwareDatetime | None = Field(default=None, description="When the operator took the job up.")
    attempt_start_time: AwareDatetime | None = Field(default=None, description="When the present attempt began.")
    completion_time: AwareDatetime | None = Field(default=None, description="When the job ended, either way.")
    last_failure: Failure | None = Field(default=None, description="Why the last failed attempt failed.")
    failures: int | None = Field(
        default=None, ge=0, description="Failed attempts that count towards spec.failurePolicy.backoffLimit."
    )
    stop: Stop | None = Field(default=None, description="The last attempt that was ended by wish.")
    handled_requests: HandledRequests | None = Field(
        default=None, description="The values of the request annotations that have been carried out."
    )
    ray_cluster: RayClusterReference | None = Field(default=None, description="The cluster that the job runs in.")
    resolved_config: ResolvedConfigReference | None = Field(
        default=None, description="Where the configuration with all its defaults is recorded."
    )
    initializers: Annotated[list[InitializerStatus], Field(max_length=16), list_map("name")] = Field(
        default=[], description="The initializers, in the order in which they run."
    )
    progress: Progress | None = Field(default=None, description="How far training is.")
    engines: Engines | None = Field(default=None, description="The inference engines.")
    checkpoint: Checkpoint | None = Field(default=None, description="The newest whole checkpoint.")
    durations: Durations | None = Field(
        default=None,
        description="Seconds spent in each phase that is over and, as train/<name>, in each part of the training loop.",
    )
    accounting: Accounting | None = Field(
        default=None, description="GPU-seconds and goodput; unset before the first cluster."
    )

    def condition(self, condition_type: str) -> Condition | None:
        """The condition of that type, or None where the operator has not made the statement yet."""
        return next((condition for condition in self.conditions if condition.type == condition_type), None)
