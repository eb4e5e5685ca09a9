"""spec.storage: the volumes that every pod of the job mounts, and what fills them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from rltrain_api.schema_marks import cel, list_map
from rltrain_api.spec.base import (
    DNS_LABEL_PATTERN,
    Argument,
    DNSLabel,
    Image,
    MountPath,
    ObjectName,
    PositiveSeconds,
    Quantity,
    SpecModel,
)
from rltrain_api.spec.pools import Resources
from rltrain_api.spec.runtime import Environment

SHA256_PATTERN = r"^[0-9a-f]{64}$"
# No user, password or query: a URL is shown to everybody. In Azure's the part before @ is the container.
STORE_URL_PATTERN = r"^((s3|gs)://[^/@?#\s]+|abfss?://[^/@?#:\s]+@[^/@?#:\s]+)(/[^?#\s]*)?$"
CONFIG_KEY_PATTERN = r"^[-._a-zA-Z0-9]+$"

FetchSource = Annotated[str, Field(min_length=1, max_length=2048)]
FilePattern = Annotated[str, Field(min_length=1, max_length=256)]
RelativePath = Annotated[str, Field(min_length=1, max_length=512)]
StoreURL = Annotated[str, Field(pattern=STORE_URL_PATTERN, min_length=1, max_length=1024)]


class ClaimTemplate(SpecModel):
    """A volume claim that is made for the job."""

    storage_class_name: ObjectName | None = Field(
        default=None, description="Storage class of the claim; unset means the cluster's default class."
    )
    access_modes: Annotated[list[Literal["ReadWriteOnce", "ReadWriteMany"]], Field(min_length=1, max_length=2)] = Field(
        default=["ReadWriteMany"],
        description="How many nodes mount the volume at once; ReadWriteOnce keeps all pods of the job on one node.",
    )
    storage: Quantity = Field(
        description="Size of the volume when it is made; to enlarge it later, edit the PersistentVolumeClaim itself."
    )


_ONE_SOURCE = (
    "has(self.claimTemplate) != has(self.claimName)",
    "set exactly one of claimTemplate (a new volume) and claimName (an existing one)",
)


class Volume(SpecModel):
    """A volume that is either made for the job or exists already."""

    model_config = ConfigDict(json_schema_extra=cel(_ONE_SOURCE))

    claim_template: ClaimTemplate | None = Field(default=None, description="The claim that is made for the job.")
    claim_name: ObjectName | None = Field(default=None, description="A claim that exists in the job's namespace.")


class ResumeFrom(SpecModel):
    """A step that another job has written, from which this job begins."""

    job: Annotated[str, Field(pattern=DNS_LABEL_PATTERN, min_length=1, max_length=45)] = Field(
        description="Name of the other job, in the same namespace; it need not exist any more, its claim must."
    )
    step: Annotated[int, Field(ge=0)] = Field(description="Training step of the checkpoint.")
    claim_name: ObjectName | None = Field(
        default=None, description="Claim of the other job's checkpoints; unset means <job>-checkpoints."
    )
    path: RelativePath | None = Field(
        default=None,
        description="Directory in that volume that holds global_step_<step>; unset means the other job's name.",
    )
    url: StoreURL | None = Field(
        default=None,
        description="Directory in an object store that holds global_step_<step>, in place of a claim: the other job's "
        "ckpt_path.",
    )


class BestSteps(SpecModel):
    """Steps that are kept for how well they did."""

    metric: Annotated[str, Field(min_length=1, max_length=256)] = Field(
        description="Metric of which the highest values count, such as eval/all/avg_score."
    )
    keep: Annotated[int, Field(ge=1, le=1000)] = Field(default=1, description="How many steps, from 1 to 1000.")


class Retention(SpecModel):
    """Which steps are kept: those that any of the three asks for, the newest, and the one that was resumed from."""

    last: Annotated[int, Field(ge=1, le=100000)] = Field(default=1, description="The newest so many steps.")
    every: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Every step whose number this one divides."
    )
    best: BestSteps | None = Field(default=None, description="The steps with the highest values of a metric.")


class CheckpointVolume(Volume):
    """Where checkpoints are kept; a volume outlives the job, unless deletePolicy says otherwise."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            (
                "[has(self.claimTemplate), has(self.claimName), has(self.url)].exists_one(one, one)",
                "set exactly one of claimTemplate (a new volume), claimName (an existing one), url (an object store)",
            ),
            (
                "self.deletePolicy == 'Retain' || has(self.claimTemplate)",
                "deletePolicy Delete needs claimTemplate: a claim that was there before the job is not deleted with it",
            ),
        )
    )

    url: StoreURL | None = Field(
        default=None,
        description="Directory in an object store: s3://bucket/path, gs://bucket/path or "
        "abfs://container@account.dfs.core.windows.net/path; config.trainer.ckpt_path lies below it.",
    )
    mount_path: MountPath = Field(default="/checkpoints", description="Where every pod of the job mounts the volume.")
    retain: Retention | None = Field(
        default=None, description="Which steps are kept; unset leaves it to config.trainer.max_ckpts_to_keep."
    )
    delete_policy: Literal["Retain", "Delete"] = Field(
        default="Retain",
        description="Whether a claim made from claimTemplate stays when the job is deleted (Retain), or goes with it.",
    )
    resume_from: ResumeFrom | None = Field(
        default=None,
        description="A checkpoint of another job that this one begins from; its later attempts resume from its own.",
    )


class DataVolume(Volume):
    """A volume of data; one made from a template is deleted with the job."""

    name: DNSLabel = Field(description="Name of the volume, unique in the job; the claim is called <job>-<name>.")
    mount_path: MountPath = Field(description="Where every pod of the job mounts the volume.")


class CacheVolume(Volume):
    """A volume for what is downloaded while the job runs; one made from a template is deleted with the job."""

    mount_path: MountPath = Field(
        default="/cache", description="Where every pod of the job mounts the volume; HF_HOME lies below it."
    )


class Fetch(SpecModel):
    """Files that are fetched once and kept: a later job that finds them whole does not fetch them again."""

    source: FetchSource = Field(
        alias="from",
        description="hf://owner/name[@revision][/path], https://…, s3://…, gs://…, abfs://…, or a path on a volume of "
        "the job.",
    )
    to: MountPath = Field(description="Directory on a volume of the job that the files are put into.")
    sha256: Annotated[str, Field(pattern=SHA256_PATTERN, max_length=64)] | None = Field(
        default=None, description="SHA-256 that the file must have, in hex; for a source that is one file."
    )
    include: Annotated[list[FilePattern], Field(max_length=32)] = Field(
        default=[],
        description="Patterns such as *.safetensors: of a hub's repository only files that match one; at most 32.",
    )


class Script(SpecModel):
    """A program out of a ConfigMap."""

    config_map: ObjectName = Field(description="ConfigMap in the job's namespace that holds the program.")
    key: Annotated[str, Field(pattern=CONFIG_KEY_PATTERN, min_length=1, max_length=253)] = Field(
        description="Its key in the ConfigMap: a name that ends in .py is run by Python, one in .sh by bash."
    )


class Initializer(SpecModel):
    """A batch Job that prepares volumes before the cluster is made, in the trainer's image."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            (
                "[has(self.command), has(self.dataset), has(self.model), has(self.script)].exists_one(one, one)",
                "set exactly one of command, dataset, model and script",
            )
        )
    )

    name: DNSLabel = Field(description="Name of the initializer, unique in the job; the Job is <job>-init-<name>.")
    command: Annotated[list[Argument], Field(min_length=1, max_length=64)] | None = Field(
        default=None, description="Program and its first arguments, from 1 to 64; no shell reads them."
    )
    dataset: Fetch | None = Field(default=None, description="A dataset to fetch.")
    model: Fetch | None = Field(default=None, description="A model to fetch.")
    script: Script | None = Field(default=None, description="A program out of a ConfigMap.")
    args: Annotated[list[Argument], Field(max_length=64)] = Field(
        default=[], description="Further arguments of the command or script, at most 64."
    )
    image: Image | None = Field(default=None, description="Image of the initializer; unset means the trainer's.")
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
    cache: CacheVolume | None = Field(
        default=None,
        description="A volume for downloads of models and datasets; jobs that name the same claim share them.",
    )
    initializers: Annotated[list[Initializer], Field(max_length=16), list_map("name")] = Field(
        default=[], description="Jobs that run one after the other before the cluster is made, at most 16."
    )
