"""The pods and GPUs of a job by pool. Exact; the operator makes its worker groups of the same numbers.

Must not know Kubernetes' objects, only the job's spec.
"""

from __future__ import annotations

from dataclasses import dataclass

from rltrain_api.rules.facts import Facts
from rltrain_api.spec.pools import Resources


@dataclass(frozen=True, slots=True)
class PoolSize:
    """The pods of one role."""

    name: str
    pods: int
    gpus_each: int
    resources: Resources  # of each pod

    @property
    def gpus(self) -> int:
        """GPUs of all pods together."""
        return self.pods * self.gpus_each


def plan_pools(facts: Facts) -> list[PoolSize]:
    """The pools of a valid job: the head, the pods that train, and the pods that generate.

    With colocate_all the engines are on the GPUs that train. Reference and critic are on the policy's GPUs, or, with
    upstream's trainer and other placements, on their own.
    """
    pools, placement = facts.spec.pools, facts.placement
    sizes = [
        PoolSize("head", 1, 0, pools.head.resources),
        PoolSize("trainer", placement.policy_num_nodes, placement.policy_num_gpus_per_node, pools.trainer.resources),
    ]
    apart = facts.runs_upstream and not placement.colocate_all
    if apart and facts.reference is not None and not placement.colocate_policy_ref:
        sizes.append(
            PoolSize("reference", placement.ref_num_nodes, placement.ref_num_gpus_per_node, pools.trainer.resources)
        )
    if apart and facts.critic is not None:
        sizes.append(
            PoolSize("critic", placement.critic_num_nodes, placement.critic_num_gpus_per_node, pools.trainer.resources)
        )
    if not placement.colocate_all and facts.engine.run_engines_locally:
        sizes.append(PoolSize("inference", facts.engine.num_engines, facts.gpus_per_engine, pools.inference.resources))
    return sizes
