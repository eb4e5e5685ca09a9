"""spec.storage: the volumes that every pod of the job mounts, and what fills them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from rltrain_api.schema_marks import cel, list_map
from rltrain_api.spec.base import Argument, DNSLabel, MountPath, ObjectName, PositiveSeconds, Quantity, SpecModel
from rltrain_api.spec.pools import Resources
from rltrain_api.spec.runtime import Environment


class ClaimTemplate(SpecModel):
    """A volume claim that is made for the job."""

    storage_class_name: ObjectName | None = Field(
        default=None, description="Storage class of the claim; unset means the cluster's default class."
    )
    access_modes: Annotated[list[Literal["ReadWriteOnce", "ReadWriteMany"]], Field(min_length=1, max_length=2)] = Field(
        default=["ReadWriteMany"],
        description="How many nodes mount the volume at once; ReadWriteOnce keeps all pods of the job on one node.",
    )
    storage: Quantity = Field(description="Size of the volume.")


class Volume(SpecModel):
    """A volume that is either made for the job or exists already."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            (
                "has(self.claimTemplate) != has(self.claimName)",
                "set exactly one of claimTemplate (a new volume) and claimName (an existing one)",
            )
        )
    )

    claim_template: ClaimTemplate | None = Field(default=None, description="The claim that is made for the job.")
    claim_name: ObjectName | None = Field(default=None, description="A claim that exists in the job's namespace.")


class CheckpointVolume(Volume):
    """The volume of checkpoints; it outlives the job."""

    mount_path: MountPath = Field(default="/checkpoints", description="Where every pod of the job mounts the volume.")


class DataVolume(Volume):
    """A volume of data; one made from a template is deleted with the job."""

    name: DNSLabel = Field(description="Name of the volume, unique in the job; the claim is called <job>-<name>.")
    mount_path: MountPath = Field(description="Where every pod of the job mounts the volume.")


class Initializer(SpecModel):
    """A batch Job that prepares volumes before the cluster is made, in the trainer's image."""

    name: DNSLabel = Field(description="Name of the initializer, unique in the job; the Job is <job>-init-<name>.")
    command: Annotated[list[Argument], Field(min_length=1, max_length=64)] = Field(
        description="Program and its first arguments, from 1 to 64; no shell reads them."
    )
    args: Annotated[list[Argument], Field(max_length=64)] = Field(
        default=[], description="Further arguments of the program, at most 64."
    )
    env: Environment = Field(default=[], description="Environment variables besides those of runtime.env.")
    resources: Resources = Field(default_factory=Resources, description="CPU and memory of the pod.")
    backoff_limit: Annotated[int, Field(ge=0, le=100)] = Field(
        default=2, description="Failed pods that are tried again before the job fails, from 0 to 100."
    )
    deadline_seconds: PositiveSeconds = Field(
        default=1800, description="Seconds that the initializer may take, with its retries."
    )


class Storage(SpecModel):
    """The volumes that every pod of the job mounts, and what fills them."""

    checkpoints: CheckpointVolume = Field(
        description="Where checkpoints are kept; it cannot be changed later.",
        json_schema_extra=cel(
            (
                "self == oldSelf",
                "storage.checkpoints cannot be changed, because the run's checkpoints would be left behind: create "
                "another RLTrainingJob whose storage.checkpoints.claimName is the volume that it shall use",
            )
        ),
    )
    data: Annotated[list[DataVolume], Field(max_length=16), list_map("name")] = Field(
        default=[], description="Further volumes, at most 16."
    )
    initializers: Annotated[list[Initializer], Field(max_length=16), list_map("name")] = Field(
        default=[], description="Jobs that run one after the other before the cluster is made, at most 16."
    )
