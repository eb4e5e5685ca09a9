"""RLTrainingJob: what a person writes into the `spec`, and the little of `metadata` that we read.

camelCase on the wire and snake_case in Python, except inside `spec.config`, which keeps SkyRL's names. Defaults outside
`spec.config` are filled in by the API server too and are thus frozen when the object is created. These models know
bounds of single fields; rules between fields are in `rltrain_api.validate` and, where the API server can check them,
in the `x-kubernetes-validations` here, which say the same.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel

from rltrain_api.config import SkyRLTrainConfig
from rltrain_api.schema_marks import RawObject, cel, list_map
from rltrain_api.status import Status

# Kubernetes' own grammar of a quantity, less the sign: nothing here may be negative.
QUANTITY_PATTERN = r"^\+?([0-9]+\.?[0-9]*|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?$"
DNS_LABEL_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
SUBDOMAIN_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
EXTENDED_RESOURCE_PATTERN = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"
ENV_NAME_PATTERN = r"^[-._a-zA-Z][-._a-zA-Z0-9]*$"
MOUNT_PATH_PATTERN = r"^/[^:]*[^:/]$"


def quantity_from_int(value: object) -> object:
    """An integer quantity (`cpu: 2`) becomes its text; a bool is no integer here, and anything else is left alone."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Quantity = Annotated[
    str,
    Field(pattern=QUANTITY_PATTERN, max_length=32),
    BeforeValidator(quantity_from_int),
    WithJsonSchema({"x-kubernetes-int-or-string": True, "minimum": 0, "pattern": QUANTITY_PATTERN, "maxLength": 32}),
]
DNSLabel = Annotated[str, Field(pattern=DNS_LABEL_PATTERN, min_length=1, max_length=40)]
ObjectName = Annotated[str, Field(pattern=SUBDOMAIN_PATTERN, min_length=1, max_length=253)]
MountPath = Annotated[str, Field(pattern=MOUNT_PATH_PATTERN, max_length=512)]
Argument = Annotated[str, Field(max_length=4096)]
Image = Annotated[str, Field(min_length=1, max_length=512)]
EnvPattern = Annotated[str, Field(min_length=1, max_length=256)]
OverrideText = Annotated[str, Field(min_length=1, max_length=4096)]
Seconds = Annotated[int, Field(ge=0, le=31 * 24 * 3600)]
PositiveSeconds = Annotated[int, Field(ge=1, le=31 * 24 * 3600)]
# Kubernetes' own object, passed on untouched: its fields grow with Kubernetes and are checked by it.
Toleration = RawObject


class SpecModel(BaseModel):
    """One part of the spec outside `config`: camelCase on the wire, unknown keys are errors."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
    )


class EnvVar(SpecModel):
    """One environment variable with a value that everybody may read."""

    name: Annotated[str, Field(pattern=ENV_NAME_PATTERN, max_length=256)] = Field(
        description="Name of the variable; names that begin with RLTRAIN_ are taken."
    )
    value: Annotated[str, Field(max_length=32768)] = Field(
        default="", description="Value of the variable, in the open; secrets come by envFrom."
    )


class EnvReference(SpecModel):
    """The name of a Secret or ConfigMap in the job's namespace."""

    name: ObjectName = Field(description="Name of the Secret or ConfigMap, in the job's namespace.")
    optional: bool = Field(default=False, description="Start the pods even where it does not exist.")


class EnvFrom(SpecModel):
    """All keys of one Secret or ConfigMap as environment variables."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            (
                "has(self.secretRef) != has(self.configMapRef)",
                "set exactly one of secretRef and configMapRef",
            )
        )
    )

    secret_ref: EnvReference | None = Field(default=None, description="The Secret whose keys become variables.")
    config_map_ref: EnvReference | None = Field(default=None, description="The ConfigMap whose keys become variables.")


Environment = Annotated[list[EnvVar], Field(max_length=128), list_map("name")]


class Images(SpecModel):
    """Images of single roles, in place of runtime.image."""

    head: Image | None = Field(default=None, description="Image of the pod of the driver and of Ray's head.")
    trainer: Image | None = Field(default=None, description="Image of the pods that train.")
    inference: Image | None = Field(default=None, description="Image of the pods that generate.")


class Runtime(SpecModel):
    """What runs in every pod of the job."""

    trainer: Literal["builtin", "skyrl"] = Field(
        default="builtin",
        description="Whose trainer runs: RLTrain's own (builtin), or upstream SkyRL's in an image that has it (skyrl).",
        json_schema_extra=cel(
            (
                "self == oldSelf",
                "runtime.trainer cannot be changed, because one trainer cannot continue from the other's checkpoints: "
                "create another RLTrainingJob",
            )
        ),
    )
    image: Image = Field(description="Container image of every pod of the job, but for the roles in images.")
    images: Images = Field(default_factory=Images, description="Images of single roles, in place of image.")
    image_pull_policy: Literal["IfNotPresent", "Always", "Never"] = Field(
        default="IfNotPresent", description="When nodes pull the image."
    )
    env: Environment = Field(default=[], description="Environment variables of every pod, at most 128.")
    env_from: Annotated[list[EnvFrom], Field(max_length=32)] = Field(
        default=[], description="Secrets and ConfigMaps whose keys become variables of every pod, at most 32."
    )
    env_preset: Literal["production", "debug", "multinode", "lowmemory"] | None = Field(
        default=None,
        description="A set of environment variables for every pod, below everything else that sets one; "
        "`kubectl rltrain env` shows what it holds.",
    )
    exclude_env: Annotated[list[EnvPattern], Field(max_length=64)] = Field(
        default=[],
        description="Variables that pods do not get unless env sets them: names, or prefixes with a star such as "
        "VLLM*; at most 64.",
    )


class Resources(SpecModel):
    """What one container asks for."""

    cpu: Quantity = Field(
        default="1",
        description="CPU cores that are requested. No limit is set: a busy neighbour takes no more than its request, "
        "and an idle one lends its cores.",
    )
    memory: Quantity = Field(
        default="4Gi",
        description="Memory that is requested and is also the limit, so that a leak ends the pod that has it and no "
        "other.",
    )


class Pool(SpecModel):
    """Where the pods of one role run and what each gets."""

    resources: Resources = Field(default_factory=Resources, description="CPU and memory of each pod.")
    node_selector: Annotated[
        dict[Annotated[str, Field(min_length=1, max_length=317)], Annotated[str, Field(max_length=63)]],
        Field(max_length=32),
    ] = Field(default={}, description="Labels that a node must have, at most 32.")
    tolerations: Annotated[list[Toleration], Field(max_length=32)] = Field(
        default=[], description="Taints of nodes that the pods accept, as in a pod's spec; at most 32."
    )
    shm_size: Quantity | None = Field(
        default=None, description="Size of /dev/shm, which counts as the pod's memory; unset means half of memory."
    )


class GPUPool(Pool):
    """A pool whose pods have GPUs: how many follows from `config`."""

    gpu_resource: Annotated[str, Field(pattern=EXTENDED_RESOURCE_PATTERN, max_length=253)] = Field(
        default="nvidia.com/gpu", description="Name under which nodes offer GPUs."
    )


class Pools(SpecModel):
    """Where each role runs; the numbers of pods and GPUs follow from `config`."""

    head: Pool = Field(default_factory=Pool, description="The pod of the driver and of Ray's head; it needs no GPU.")
    trainer: GPUPool = Field(default_factory=GPUPool, description="The pods that train.")
    inference: GPUPool = Field(default_factory=GPUPool, description="The pods that generate.")


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


class FailurePolicy(SpecModel):
    """What happens when an attempt fails."""

    backoff_limit: Annotated[int, Field(ge=0, le=1000)] = Field(
        default=3, description="Failed attempts that are tried again, from the newest checkpoint; from 0 to 1000."
    )
    restart_delay_seconds: Seconds = Field(default=5, description="Seconds between a failure and the next attempt.")


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
        default=None, description="Kueue's LocalQueue that the job waits in; unset starts the job at once."
    )
    priority_class_name: ObjectName | None = Field(
        default=None, description="PriorityClass of every pod of the job; unset means the cluster's default."
    )
    startup_deadline_seconds: PositiveSeconds = Field(
        default=1800, description="Seconds from the last initializer's end until the driver must answer."
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
