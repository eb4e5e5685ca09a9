"""What all pods of a job have in common: volumes, environment, security.

Security: the "restricted" Pod Security Standard in full, and no Kubernetes API token: nothing in a job talks to the API
server. CPU is requested but not limited (throttling only slows training); memory has request = limit, so that a pod
is never evicted for what it was promised.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from rltrain_api import names
from rltrain_api.env import pod_environment
from rltrain_api.job import RLTrainingJob
from rltrain_api.quantity import parse_quantity
from rltrain_api.spec.pools import Pool, Resources
from rltrain_api.spec.runtime import EnvVar
from rltrain_operator.plan import mounts
from rltrain_operator.plan.metadata import Manifest
from rltrain_operator.plan.surroundings import literal

USER_ID = 1000
SHARED_MEMORY_VOLUME = "shared-memory"
NO_VARIABLES: Mapping[str, str] = MappingProxyType({})

POD_ANNOTATIONS = {
    # A run loses its progress since the last checkpoint with any one of its pods: no autoscaler may tidy them away.
    "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
    "karpenter.sh/do-not-disrupt": "true",
}


def pod_security() -> Manifest:
    """The pod's security context."""
    return {
        "runAsNonRoot": True,
        "runAsUser": USER_ID,
        "runAsGroup": USER_ID,
        "fsGroup": USER_ID,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security() -> Manifest:
    """The container's security context."""
    return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def image(job: RLTrainingJob, role: str) -> str:
    """The image of a role's pods: its own, or the one of all; what is neither head nor inference runs the trainer's."""
    images = job.spec.runtime.images
    own = {names.ROLE_HEAD: images.head, names.ROLE_INFERENCE: images.inference}
    return own.get(role, images.trainer) or job.spec.runtime.image


def pull_secrets(job: RLTrainingJob) -> Manifest:
    """The Secrets that images are pulled with as a part of a pod's spec; nothing where the job names none."""
    secrets = [{"name": secret.name} for secret in job.spec.runtime.image_pull_secrets]
    return {"imagePullSecrets": secrets} if secrets else {}


def priority(job: RLTrainingJob) -> Manifest:
    """The pods' priority class as a part of a pod's spec; nothing where the job names none."""
    name = job.spec.priority_class_name
    return {} if name is None else {"priorityClassName": name}


def environment(
    job: RLTrainingJob, extra: list[EnvVar] | None = None, cluster_wide: Mapping[str, str] = NO_VARIABLES
) -> list[Manifest]:
    """The variables of every pod of the job (`rltrain_api.env`), then `extra` ones, which win over those.

    `cluster_wide` are those that the installation adds to every job, below what the job itself sets.
    """
    values = dict(pod_environment(job, {name: literal(value) for name, value in cluster_wide.items()}))
    # Kubernetes expands $(NAME) in a value for the names before it, so the later layer comes last.
    for variable in extra or []:
        values.pop(variable.name, None)
        values[variable.name] = variable.value
    return [{"name": name, "value": value} for name, value in values.items()]


def environment_sources(job: RLTrainingJob) -> list[Manifest]:
    """Whole Secrets and ConfigMaps that the job wants as variables, by reference only."""
    return [source.model_dump(mode="json", by_alias=True, exclude_none=True) for source in job.spec.runtime.env_from]


def token_variable(job: RLTrainingJob) -> Manifest:
    """The driver's token, from the job's Secret: it never passes through Ray's metadata."""
    reference = {"name": names.secret_name(job.metadata.name), "key": names.DRIVER_TOKEN_KEY}
    return {"name": names.DRIVER_TOKEN_ENV, "valueFrom": {"secretKeyRef": reference}}


def volumes(job: RLTrainingJob) -> list[Manifest]:
    """The claims every pod of the job mounts."""
    return mounts.claim_volumes(job)


def volume_mounts(job: RLTrainingJob) -> list[Manifest]:
    """Where those claims appear."""
    return mounts.claim_mounts(job)


def shared_memory(pool: Pool) -> tuple[Manifest, Manifest]:
    """A sized /dev/shm as (volume, mount): Ray's object store and torch's loaders share it, and it counts as memory."""
    size = pool.shm_size or str(int(parse_quantity(pool.resources.memory) / 2))
    empty_dir = {"medium": "Memory", "sizeLimit": size}
    return (
        {"name": SHARED_MEMORY_VOLUME, "emptyDir": empty_dir},
        {"name": SHARED_MEMORY_VOLUME, "mountPath": "/dev/shm"},  # noqa: S108 - the mount point, not a temporary file
    )


def resources(wanted: Resources, gpus: int = 0, gpu_resource: str = "") -> Manifest:
    """Requests and limits of one container: CPU requested only, memory and GPUs requested as much as limited."""
    requests = {"cpu": wanted.cpu, "memory": wanted.memory}
    limits = {"memory": wanted.memory}
    if gpus:
        requests[gpu_resource] = limits[gpu_resource] = str(gpus)
    return {"requests": requests, "limits": limits}
