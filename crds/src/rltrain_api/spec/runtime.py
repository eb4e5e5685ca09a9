"""spec.runtime: whose trainer runs, in which images and with which environment."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from rltrain_api.schema_marks import cel, list_map
from rltrain_api.spec.base import ENV_NAME_PATTERN, MODULE_PATTERN, EnvPattern, Image, ObjectName, SpecModel


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
ModuleName = Annotated[str, Field(pattern=MODULE_PATTERN, max_length=256)]


class Images(SpecModel):
    """Images of single roles, in place of runtime.image."""

    head: Image | None = Field(default=None, description="Image of the pod of the driver and of Ray's head.")
    trainer: Image | None = Field(default=None, description="Image of the pods that train.")
    inference: Image | None = Field(default=None, description="Image of the pods that generate.")


class PullSecret(SpecModel):
    """The name of a Secret in the job's namespace with which nodes pull images."""

    name: ObjectName = Field(description="Name of a Secret of type kubernetes.io/dockerconfigjson.")


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
    image_pull_secrets: Annotated[list[PullSecret], Field(max_length=16), list_map("name")] = Field(
        default=[], description="Secrets with which nodes pull the images, at most 16."
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
    modules: Annotated[list[ModuleName], Field(max_length=32)] = Field(
        default=[],
        description="Python modules that the builtin trainer's processes import before anything else, in this order; "
        "they register environments, advantage estimators and policy losses of your own. At most 32.",
    )
