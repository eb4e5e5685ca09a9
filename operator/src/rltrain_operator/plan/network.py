"""The NetworkPolicy of one job: its pods reach each other, the operator reaches driver and dashboard, nobody else does.

Ray's internal ports and the engines' HTTP ports ask for no credentials, so this is what keeps them to the job. It says
nothing of what pods may call: models, data and loggers are anywhere. Policies add up, so a second one lets more in.
"""

from __future__ import annotations

from rltrain_api import names
from rltrain_api.job import RLTrainingJob
from rltrain_operator.plan.groups import Group, head_group, worker_groups
from rltrain_operator.plan.metadata import Manifest, child_metadata
from rltrain_operator.plan.surroundings import Peer
from rltrain_operator.plan.template import pod_template

NAMESPACE_LABEL = "kubernetes.io/metadata.name"  # set by the API server on every namespace


def plan_network_policy(job: RLTrainingJob, peer: Peer) -> Manifest | None:
    """The policy; None where a pod is on its node's network, because its address is the node's, not a pod's."""
    if any(_on_node_network(job, group) for group in (head_group(job), *worker_groups(job))):
        return None
    own = {"matchLabels": {names.JOB_LABEL: job.metadata.name}}
    operator = {
        "namespaceSelector": {"matchLabels": {NAMESPACE_LABEL: peer.namespace}},
        "podSelector": {"matchLabels": dict(peer.labels)},
    }
    ports = [{"protocol": "TCP", "port": port} for port in (names.DASHBOARD_PORT, names.DRIVER_PORT)]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": child_metadata(job.metadata, names.network_policy_name(job.metadata.name), "cluster"),
        "spec": {
            "podSelector": own,
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"podSelector": own}]}, {"from": [operator], "ports": ports}],
        },
    }


def _on_node_network(job: RLTrainingJob, group: Group) -> bool:
    """Asked of the finished template, because a pool's patch can say it too."""
    return bool(pod_template(job, group)["spec"].get("hostNetwork"))
