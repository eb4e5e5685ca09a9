"""The inference group of a RayCluster and its pods, as decisions about the number of engines read them."""

from __future__ import annotations

from rltrain_api import names
from rltrain_operator.kube import Body
from rltrain_operator.reconcile.children import condition_of, is_leaving, role_of
from rltrain_operator.reconcile.state import EngineGroup, EnginePod

REPLICA_LABEL = "ray.io/worker-group-replica-name"  # KubeRay's, on pods of a group of several hosts


def view_engine_group(ray_cluster: Body, pods: list[Body]) -> EngineGroup | None:
    """The group of the engines' pods; None where engines have none of their own."""
    groups = (ray_cluster.get("spec") or {}).get("workerGroupSpecs") or []
    numbers = [number for number, group in enumerate(groups) if group.get("groupName") == names.ROLE_INFERENCE]
    if not numbers:
        return None
    group = groups[numbers[0]]
    return EngineGroup(
        number=numbers[0],
        replicas=int(group.get("replicas") or 0),
        hosts=int(group.get("numOfHosts") or 1),
        pods=tuple(
            EnginePod(
                name=pod["metadata"]["name"],
                replica=str(pod["metadata"]["labels"].get(REPLICA_LABEL) or pod["metadata"]["name"]),
                ready=condition_of(pod, "Ready").get("status") == "True",
            )
            for pod in pods
            if role_of(pod) == names.ROLE_INFERENCE and not is_leaving(pod)
        ),
    )
