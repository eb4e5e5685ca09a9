"""The worker groups of a job's RayCluster: which there are, how many pods each has, and what each offers to Ray.

Numbers come from `rltrain_api.sizing.pools`, which `kubectl rltrain plan` shows; this module says them in KubeRay's
words and must not know how the pods look.
"""

from __future__ import annotations

from dataclasses import dataclass

from rltrain_api import names
from rltrain_api.job import RLTrainingJob
from rltrain_api.rules.facts import Facts
from rltrain_api.sizing.pools import PoolSize, plan_pools
from rltrain_api.spec.pools import GPUPool, Pool
from rltrain_operator.plan.metadata import Manifest


@dataclass(frozen=True, slots=True)
class Group:
    """The pods of one role and the pool that says how they look."""

    size: PoolSize
    pool: Pool

    @property
    def role(self) -> str:
        """The role of the pods, which is also the group's name."""
        return self.size.name

    @property
    def gpu_resource(self) -> str:
        """Name under which nodes offer the pods' GPUs; empty where they have none."""
        return self.pool.gpu_resource if isinstance(self.pool, GPUPool) else ""


def head_group(job: RLTrainingJob) -> Group:
    """The head: one pod without GPUs."""
    return Group(PoolSize(names.ROLE_HEAD, 1, 0, job.spec.pools.head.resources), job.spec.pools.head)


def worker_groups(job: RLTrainingJob) -> list[Group]:
    """All groups but the head's, in a fixed order."""
    pools = job.spec.pools
    pool_of: dict[str, Pool] = {
        names.ROLE_TRAINER: pools.trainer,
        names.ROLE_REFERENCE: pools.trainer,
        names.ROLE_CRITIC: pools.trainer,
        names.ROLE_INFERENCE: pools.inference,
    }
    if pools.environment is not None:
        pool_of[names.ROLE_ENVIRONMENT] = pools.environment
    return [Group(size, pool_of[size.name]) for size in plan_pools(Facts(job)) if size.name != names.ROLE_HEAD]


def group_spec(group: Group, template: Manifest) -> Manifest:
    """An entry of workerGroupSpecs.

    A group of several hosts is made and replaced as a whole: an engine without one of its pods is none.
    """
    replicas = group.size.pods // group.size.hosts
    return {
        "groupName": group.role,
        "replicas": replicas,
        "minReplicas": replicas,
        "maxReplicas": replicas,
        "numOfHosts": group.size.hosts,
        "rayStartParams": {},
        "resources": _ray_resources(group),
        "template": template,
    }


def _ray_resources(group: Group) -> dict[str, str]:
    """What each pod offers to Ray: a resource of the group's own name, and what upstream's trainer asks for.

    KubeRay takes GPUs from the container where the resource's name ends in gpu; here they count under any name.
    """
    size = group.size
    offered = {group.role: str(size.gpus_each or 1)}
    if size.ray_cpus:
        offered |= {"CPU": str(size.ray_cpus), "GPU": str(size.gpus_each)}
    return offered
