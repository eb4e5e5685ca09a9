"""How many equal nodes a run of upstream SkyRL needs, and how large they are.

SkyRL asks Ray for placement groups: a bundle of GPUs per node and model, and bundles of one GPU for engines, which Ray
packs onto as few nodes as it can. Nodes of different sizes let engines take a node that a model needs as a whole, so
all nodes are as large as the largest bundle. This module must not know what the nodes are: machines, containers or
pods.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal

from rltrain_api.job import RLTrainingJob
from rltrain_api.quantity import parse_quantity
from rltrain_api.rules.facts import Facts
from rltrain_api.sizing.pools import gpus_per_engine_pod
from rltrain_api.spec.pools import Pool

# An engine whose tensor-parallel group is larger than any machine spans several; this is the common largest one.
_LARGEST_MACHINE = 8


@dataclass(frozen=True, slots=True)
class Machines:
    """Equal nodes.

    Args:
        nodes: How many.
        gpus: GPUs of each.
        cpus: CPU cores of each: what the job's pools ask for, but at least one per GPU and one for SkyRL's driver,
            which Ray counts before it places anything.
        memory: Bytes of each, by the job's pools.
        memory_is_set: Whether the job says so itself; else it is the default of its pools.
    """

    nodes: int
    gpus: int
    cpus: int
    memory: int
    memory_is_set: bool

    def __str__(self) -> str:
        """In words: "2 nodes with 8 GPUs each"."""
        gpus = f"{self.gpus} GPU" if self.gpus == 1 else f"{self.gpus} GPUs"
        return f"one node with {gpus}" if self.nodes == 1 else f"{self.nodes} nodes with {gpus} each"


@dataclass(frozen=True, slots=True)
class _Bundles:
    """`count` bundles of `gpus` GPUs: each must be on one node, with the CPU and memory that its pool has for it."""

    count: int
    gpus: int
    cpu: Decimal
    memory: Decimal


@dataclass(frozen=True, slots=True)
class _Nodes:
    """`count` nodes that hold the same: their free GPUs, and what is taken on each."""

    count: int
    free: int
    cpu: Decimal = Decimal(0)
    memory: Decimal = Decimal(0)

    def filled(self, count: int, bundles: _Bundles) -> list[_Nodes]:
        """The same nodes with `count` of the bundles on them, as many on each as there is room for."""
        room = self.free // bundles.gpus
        full, rest = divmod(count, room) if count else (0, 0)
        shares = [(full, room), (1 if rest else 0, rest), (self.count - full - (1 if rest else 0), 0)]
        return [self._with(each, bundles, nodes) for nodes, each in shares if nodes]

    def _with(self, each: int, bundles: _Bundles, nodes: int) -> _Nodes:
        return _Nodes(
            count=nodes,
            free=self.free - each * bundles.gpus,
            cpu=self.cpu + each * bundles.cpu,
            memory=self.memory + each * bundles.memory,
        )


def machines_for_skyrl(job: RLTrainingJob, gpus: int = 0) -> Machines:
    """The nodes that hold all of the run's models and engines at once.

    Args:
        job: The job; its trainer does not matter.
        gpus: GPUs of the nodes that there are; 0 makes them as small as the largest bundle allows. A single node is
            given no more than it needs.
    """
    facts = Facts(job)
    bundles = sorted(_bundles(facts), key=lambda kind: kind.gpus, reverse=True)
    gpus = max(gpus, bundles[0].gpus)
    nodes: list[_Nodes] = []
    for kind in bundles:
        nodes = _placed(kind, nodes, gpus)
    count = sum(alike.count for alike in nodes)
    needed = gpus if count > 1 else gpus - nodes[0].free
    pools = [job.spec.pools.trainer] if facts.placement.colocate_all else _worker_pools(job)
    return Machines(
        nodes=count,
        gpus=needed,
        cpus=max(needed + 1, *(math.ceil(alike.cpu) for alike in nodes)),
        memory=max(math.ceil(alike.memory) for alike in nodes),
        memory_is_set=any("memory" in pool.resources.model_fields_set for pool in pools),
    )


def _worker_pools(job: RLTrainingJob) -> list[Pool]:
    return [job.spec.pools.trainer, job.spec.pools.inference]


def _bundles(facts: Facts) -> Iterator[_Bundles]:
    placement, pools = facts.placement, facts.spec.pools
    yield _model(placement.policy_num_nodes, placement.policy_num_gpus_per_node, pools.trainer)
    if placement.colocate_all:
        return
    if facts.needs_reference and not placement.colocate_policy_ref:
        yield _model(placement.ref_num_nodes, placement.ref_num_gpus_per_node, pools.trainer)
    if facts.has_critic:
        yield _model(placement.critic_num_nodes, placement.critic_num_gpus_per_node, pools.trainer)
    if facts.engine.run_engines_locally:
        yield from _engines(facts, pools.inference)


def _model(nodes: int, gpus: int, pool: Pool) -> _Bundles:
    return _Bundles(nodes, gpus, parse_quantity(pool.resources.cpu), parse_quantity(pool.resources.memory))


def _engines(facts: Facts, pool: Pool) -> Iterator[_Bundles]:
    """Tensor-parallel groups: they exchange most, so the nodes are made large enough to keep each on one."""
    group, per_pod = facts.engine.tensor_parallel_size, gpus_per_engine_pod(facts)
    groups = facts.engine.num_engines * facts.gpus_per_engine // group
    cpu, memory = parse_quantity(pool.resources.cpu) / per_pod, parse_quantity(pool.resources.memory) / per_pod
    whole, rest = divmod(group, _LARGEST_MACHINE)
    for count, gpus in ((groups * whole, _LARGEST_MACHINE), (groups, rest)):
        if count and gpus:
            yield _Bundles(count, gpus, gpus * cpu, gpus * memory)


def _placed(bundles: _Bundles, nodes: list[_Nodes], gpus: int) -> list[_Nodes]:
    """The nodes with these bundles on them: first those that have room, then new ones with `gpus` GPUs each."""
    left, placed = bundles.count, []
    for alike in nodes:
        taken = min(left, alike.count * (alike.free // bundles.gpus))
        placed += alike.filled(taken, bundles)
        left -= taken
    if left:
        placed += _Nodes(math.ceil(left / (gpus // bundles.gpus)), gpus).filled(left, bundles)
    return placed
