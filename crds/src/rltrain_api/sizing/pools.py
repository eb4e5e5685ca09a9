"""The pods and GPUs of a job by pool. Exact: the operator makes its worker groups of the same numbers.

RLTrain's own driver tells Ray which pods it means, by a resource named after the pool. Upstream's names GPUs and CPUs
only, so there the sizes of the pods decide what lands where. Ray gives a placement group (strategy PACK) the nodes that
have most left, by the sum over GPU and CPU of (free - asked) / free, and SkyRL asks for its engines first, then for the
policy, the reference model and the critic. So the pods of whom comes first are the largest, or as large as the next
ones': nobody then takes a part of a pod that another needs as a whole. Engines, which ask for single GPUs, also get
more CPUs in Ray's count, which binds nobody. Measured on Ray 2.60.

Must not know Kubernetes' objects, only the job's spec.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from rltrain_api import names
from rltrain_api.quantity import parse_quantity
from rltrain_api.rules.facts import Facts
from rltrain_api.spec.pools import MOST_GPUS_PER_POD, Resources

# The common largest machine: an engine with more GPUs spans several pods unless the job says otherwise.
LARGEST_MACHINE = 8


@dataclass(frozen=True, slots=True)
class PoolSize:
    """The pods of one role.

    Args:
        name: The role, as in `rltrain_api.names`.
        pods: How many.
        gpus_each: GPUs of each.
        resources: CPU and memory of each.
        hosts: Pods that belong together, as one engine that spans them; they come and go as one.
        ray_cpus: CPUs that Ray counts on each; 0 leaves it to KubeRay.
    """

    name: str
    pods: int
    gpus_each: int
    resources: Resources
    hosts: int = 1
    ray_cpus: int = 0

    @property
    def gpus(self) -> int:
        """GPUs of all pods together."""
        return self.pods * self.gpus_each


def plan_pools(facts: Facts) -> list[PoolSize]:
    """The pools of a valid job: the head, then the pods that train, generate, or compute environments.

    With colocate_all the engines are on the GPUs that train, and so are all models. Otherwise the critic has GPUs of
    its own, and so has the reference with colocate_policy_ref false.
    """
    pools = facts.spec.pools
    models, engines = model_pools(facts), _engines(facts)
    if facts.runs_upstream:
        # A bundle takes a CPU for each of its GPUs, and SkyRL's driver is a task with one more.
        models = [replace(model, ray_cpus=max(_cores(model), model.gpus_each + 1)) for model in models]
        most = 2 * max(model.ray_cpus for model in models)
        engines = [replace(pool, ray_cpus=max(_cores(pool), pool.gpus_each + 1, most)) for pool in engines]
    sizes = [PoolSize(names.ROLE_HEAD, 1, 0, pools.head.resources), *models, *engines]
    if pools.environment is not None:
        environment = PoolSize(names.ROLE_ENVIRONMENT, pools.environment.replicas, 0, pools.environment.resources)
        sizes.append(replace(environment, ray_cpus=max(1, _cores(environment))))
    return sizes


def model_pools(facts: Facts) -> list[PoolSize]:
    """The pods of the models that train or judge, in the order in which SkyRL asks for their GPUs.

    With upstream's trainer none is larger than the one before it; our own driver says which pods it means.
    """
    pools = list(_models(facts))
    if not facts.runs_upstream:
        return pools
    return [
        replace(pool, gpus_each=max(later.gpus_each for later in pools[index:])) for index, pool in enumerate(pools)
    ]


def _models(facts: Facts) -> Iterator[PoolSize]:
    placement, resources = facts.placement, facts.spec.pools.trainer.resources
    yield PoolSize(names.ROLE_TRAINER, placement.policy_num_nodes, placement.policy_num_gpus_per_node, resources)
    if placement.colocate_all:
        return
    if facts.reference is not None and not placement.colocate_policy_ref:
        yield PoolSize(names.ROLE_REFERENCE, placement.ref_num_nodes, placement.ref_num_gpus_per_node, resources)
    if facts.critic is not None:
        yield PoolSize(names.ROLE_CRITIC, placement.critic_num_nodes, placement.critic_num_gpus_per_node, resources)


def engines_have_pods(facts: Facts) -> bool:
    """Whether engines run in pods of their own: not on the trainer's GPUs, and not somewhere else."""
    return not facts.placement.colocate_all and facts.engine.run_engines_locally


def gpus_per_engine_pod(facts: Facts) -> int:
    """GPUs of each inference pod: what the job says, or as many as suit its engines and its trainer."""
    said, wanted = facts.spec.pools.inference.gpus_per_node, facts.gpus_per_engine
    if said is not None:
        return said
    if not facts.runs_upstream:
        return wanted  # the builtin engine is one process in one pod
    least = max(model.gpus_each for model in model_pools(facts))
    suited = [size for size in range(least, MOST_GPUS_PER_POD + 1) if wanted % size == 0 or size % wanted == 0]
    most = min(LARGEST_MACHINE, max(wanted, least))
    return max((size for size in suited if size <= most), default=min(suited, default=least))


def _engines(facts: Facts) -> list[PoolSize]:
    if not engines_have_pods(facts):
        return []
    engines, wanted, each = facts.engine.num_engines, facts.gpus_per_engine, gpus_per_engine_pod(facts)
    hosts = max(1, wanted // each)
    pods = engines * hosts if hosts > 1 else math.ceil(engines * wanted / each)
    return [PoolSize(names.ROLE_INFERENCE, pods, each, facts.spec.pools.inference.resources, hosts)]


def _cores(pool: PoolSize) -> int:
    return math.ceil(parse_quantity(pool.resources.cpu))
