"""Which addresses a cluster uses: a block for nodes and pods, a block for Services, and one for the host's own end.

Several clusters live side by side on one machine, each with its own blocks; blocks that the machine already uses are
passed over. Pure: it must not look at the machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network

from rltrain_cluster.errors import ClusterError

FIRST_NODE = 10  # the node's place in the block: node-1 is .10
FIRST_POD = 64
BLOCKS = 32  # clusters that one machine can hold


@dataclass(frozen=True)
class AddressPlan:
    """The addresses of one cluster: pods and nodes share `pods`, a /21; Services have `services`, a /21.

    `gateway` (.1) is where the control plane and DNS listen; `host` (the last one) is the machine itself.
    """

    pods: IPv4Network
    services: IPv4Network

    @classmethod
    def numbered(cls, index: int) -> AddressPlan:
        return cls(IPv4Network(f"10.244.{index * 8}.0/21"), IPv4Network(f"10.96.{index * 8}.0/21"))

    @property
    def gateway(self) -> str:
        return str(self.pods[1])

    @property
    def host(self) -> str:
        return str(self.pods[-2])

    @property
    def kubernetes_service(self) -> str:
        return str(self.services[1])

    @property
    def pod_range(self) -> tuple[str, str]:
        """The first and the last address that a pod may get."""
        return str(self.pods[FIRST_POD]), str(self.pods[-3])

    def node(self, number: int) -> str:
        """The address of the node with this number; the first node is 1."""
        return str(self.pods[FIRST_NODE + number - 1])


def choose_plan(taken: Sequence[IPv4Network]) -> AddressPlan:
    """The first plan whose blocks overlap nothing that is `taken` on this machine."""
    for index in range(BLOCKS):
        plan = AddressPlan.numbered(index)
        if not any(block.overlaps(network) for network in taken for block in (plan.pods, plan.services)):
            return plan
    raise ClusterError(
        "no free addresses: all of 10.244.0.0/16 or 10.96.0.0/16 is in use on this machine (see `ip route`); "
        "take a cluster down that is no longer needed"
    )
