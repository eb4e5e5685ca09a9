"""Which models share which ranks, and how many there are: from the placement to the pools of the trainer's pods.

The operator gives each pod a Ray resource named after its group, one per GPU. Pure: it must not know Ray.
"""

from __future__ import annotations

from dataclasses import dataclass

from rltrain_api import names
from rltrain_api.config import SkyRLTrainConfig
from rltrain_trainer.fsdp.minibatches import needs_critic, needs_reference, reference_is_the_policy

POLICY, REFERENCE, CRITIC = "policy", "reference", "critic"


@dataclass(frozen=True)
class RankPool:
    """Ranks that form one process group.

    Args:
        resource: Ray's resource that their pods offer, one per GPU.
        ranks: How many, one per GPU.
        models: Which models each of them has a part of.
    """

    resource: str
    ranks: int
    models: tuple[str, ...]


def rank_pools(config: SkyRLTrainConfig) -> list[RankPool]:
    """The pools of a run, the policy's first.

    The reference is on the policy's ranks with colocate_policy_ref, the critic only with colocate_all; a reference that
    is the policy without its adapters is no model of its own.
    """
    placement = config.trainer.placement
    on_policys = [POLICY]
    others = []
    if needs_reference(config) and not reference_is_the_policy(config):
        if placement.colocate_policy_ref or placement.colocate_all:
            on_policys.append(REFERENCE)
        else:
            ranks = placement.ref_num_nodes * placement.ref_num_gpus_per_node
            others.append(RankPool(names.ROLE_REFERENCE, ranks, (REFERENCE,)))
    if needs_critic(config):
        if placement.colocate_all:
            on_policys.append(CRITIC)
        else:
            ranks = placement.critic_num_nodes * placement.critic_num_gpus_per_node
            others.append(RankPool(names.ROLE_CRITIC, ranks, (CRITIC,)))
    policys = placement.policy_num_nodes * placement.policy_num_gpus_per_node
    return [RankPool(names.ROLE_TRAINER, policys, tuple(on_policys)), *others]
