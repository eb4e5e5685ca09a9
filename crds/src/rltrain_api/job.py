"""RLTrainingJob: what a person writes, and the little of `metadata` that we read.

camelCase on the wire and snake_case in Python, except inside `spec.config`, which keeps SkyRL's names. Defaults outside
`spec.config` are filled in by the API server too and are thus frozen when the object is created. These models know
bounds of single fields; rules between fields are in `rltrain_api.rules` and, where the API server can check them,
in the `x-kubernetes-validations` here, which say the same.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from rltrain_api.config import SkyRLTrainConfig
from rltrain_api.schema_marks import cel
from rltrain_api.spec.base import ObjectName, OverrideText, PositiveSeconds, Seconds, SpecModel
from rltrain_api.spec.policies import FailurePolicy, UpdatePolicy
from rltrain_api.spec.pools import Pools
from rltrain_api.spec.runtime import Runtime
from rltrain_api.spec.scheduling import Scheduling
from rltrain_api.spec.storage import Storage
from rltrain_api.status import Status


class Spec(SpecModel):
    """What is wanted."""

    config: SkyRLTrainConfig = Field(
        description="SkyRL's training configuration, key for key; what is unset has SkyRL's default."
    )
    overrides: Annotated[list[OverrideText], Field(max_length=512)] = Field(
        default=[],
        description="Single values in the form of SkyRL's command line, such as trainer.epochs=20, at most 512; they "
        "win over config, and the last one of a field wins.",
    )
    runtime: Runtime = Field(description="What runs in every pod of the job.")
    pools: Pools = Field(default_factory=Pools, description="Where each role runs and what its pods get.")
    storage: Storage = Field(description="The volumes of the job and what fills them.")
    failure_policy: FailurePolicy = Field(
        default_factory=FailurePolicy, description="What happens when an attempt fails."
    )
    queue_name: ObjectName | None = Field(
        default=None,
        description="The queue that the job waits in: a LocalQueue of Kueue in the job's namespace, or a queue of "
        "scheduling.scheduler; unset starts the job at once.",
    )
    priority_class_name: ObjectName | None = Field(
        default=None, description="PriorityClass of every pod of the job; unset means the cluster's default."
    )
    scheduling: Scheduling = Field(
        default_factory=Scheduling, description="Who decides when the job's pods start, all of them or none."
    )
    managed_by: Annotated[str, Field(min_length=1, max_length=63)] = Field(
        default="rltrain.io/operator",
        description="Who carries the job out; RLTrain's operator leaves a job with another value than "
        "rltrain.io/operator alone. It cannot be changed.",
        json_schema_extra=cel(
            (
                "self == oldSelf",
                "managedBy cannot be changed, because two operators would then run one job: create another "
                "RLTrainingJob",
            )
        ),
    )
    suspend: bool = Field(
        default=False,
        description="Save a checkpoint, stop and give the cluster back; false again goes on from that checkpoint.",
    )
    update_policy: UpdatePolicy = Field(
        default=UpdatePolicy.RESTART_FROM_CHECKPOINT,
        strict=False,
        description="What an edit of a job with a cluster does. RestartFromCheckpoint: the run is saved, stopped and "
        "goes on as edited, on a new cluster where other pods are asked for. Reject: the run goes on as it began. The "
        "number of engines alone changes while the run goes on, where engines have pods of their own.",
    )
    stop_grace_period_seconds: Seconds = Field(
        default=120,
        description="Seconds that a driver which is asked to stop has to end its step and save a checkpoint.",
    )
    startup_deadline_seconds: PositiveSeconds = Field(
        default=1800, description="Seconds from the last initializer's end until the driver must answer."
    )
    active_deadline_seconds: PositiveSeconds | None = Field(
        default=None,
        description="Seconds that the whole job may take, waiting and restarts included and suspension not; then it is "
        "saved, stopped and Failed. Unset means any time.",
    )
    ttl_seconds_after_finished: Seconds = Field(
        default=60, description="Seconds from the end of the job until its cluster is deleted; the job itself stays."
    )


class ObjectMeta(BaseModel):
    """The part of Kubernetes' metadata that we read; everything else is ignored, and the API server checks it."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True)

    name: str = Field(default="", description="Name of the job, unique in its namespace.")
    namespace: str = Field(default="default", description="Namespace of the job and of all that belongs to it.")
    uid: str = Field(default="", description="Identity of this object among all that ever had its name.")
    generation: int = Field(default=0, description="Counts the changes of the spec.")
    resource_version: str = Field(default="", description="Identity of this state of the object.")
    labels: dict[str, str] = Field(default={}, description="Labels of the job.")
    annotations: dict[str, str] = Field(default={}, description="Annotations of the job.")
    finalizers: list[str] = Field(default=[], description="Who must let go before the object is gone.")
    creation_timestamp: AwareDatetime | None = Field(default=None, description="When the object was created.")
    deletion_timestamp: AwareDatetime | None = Field(default=None, description="When deletion was asked for.")

    @property
    def deleting(self) -> bool:
        """Whether somebody has asked for the job's deletion."""
        return self.deletion_timestamp is not None


class RLTrainingJob(BaseModel):
    """One reinforcement-learning run of a language model, from configuration to result."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
    )

    api_version: Literal["rltrain.io/v1alpha1"] = Field(default="rltrain.io/v1alpha1", description="Always this.")
    kind: Literal["RLTrainingJob"] = Field(default="RLTrainingJob", description="Always this.")
    metadata: ObjectMeta = Field(default_factory=ObjectMeta, description="Name, namespace and labels.")
    spec: Spec = Field(description="What is wanted.")
    status: Status = Field(default_factory=Status, description="What is; the operator alone writes it.")
