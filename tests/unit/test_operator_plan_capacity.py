"""What can never fit the nodes that there are, and how it is said."""

from __future__ import annotations

from typing import Any

import pytest

from rltrain_operator.plan import plan_ray_cluster
from rltrain_operator.plan.capacity import read_node, shortfalls, wanted_pods
from rule_cases import ENGINE, PLACEMENT, Changes, parsed

TAINT = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}
TOLERATION = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
TOLERANT: Changes = {
    "spec.pools.trainer.tolerations": [TOLERATION],
    "spec.pools.inference.tolerations": [TOLERATION],
    "spec.pools.head.tolerations": [TOLERATION],
}
EIGHT: Changes = {f"{PLACEMENT}.policy_num_gpus_per_node": 8}
Body = dict[str, Any]


def node(name: str, gpus: int = 8, *, labels: dict[str, str] | None = None, **more: Any) -> Body:
    """A node as the API server gives it, of 64 CPUs and 256 GiB unless `cpu` or `memory` say otherwise."""
    allocatable = {"cpu": more.get("cpu", "64"), "memory": more.get("memory", "256Gi"), "pods": more.get("pods", "110")}
    if gpus:
        allocatable[more.get("resource", "nvidia.com/gpu")] = str(gpus)
    return {
        "metadata": {"name": name, "labels": labels or {}},
        "spec": {"taints": more.get("taints", [])},
        "status": {"allocatable": allocatable},
    }


def required(operator: str, *values: str) -> Changes:
    """An affinity of the trainer's pods to nodes by their label gpu."""
    expression = {"key": "gpu", "operator": operator, **({"values": list(values)} if values else {})}
    terms = {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}
    return {"spec.pools.trainer.affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}}


# The job wants a head, a trainer of 2 GPUs and an engine of 1 GPU, each with 1 CPU and 4 GiB, unless it is changed.
CASES: dict[str, tuple[Changes, list[Body], list[str]]] = {
    "it fits": ({}, [node("a")], []),
    "it fits on three nodes": ({}, [node("a", 0), node("b", 2), node("c", 1)], []),
    "no nodes": (
        {},
        [],
        [
            "pool head: 1 pod of 1 CPU, 4.0 GiB of memory; the cluster has no nodes",
            "pool trainer: 1 pod of 2 nvidia.com/gpu; the cluster has no nodes",
            "pool inference: 1 pod of 1 nvidia.com/gpu; the cluster has no nodes",
        ],
    ),
    "nodes too small": (
        {**EIGHT, f"{PLACEMENT}.policy_num_nodes": 2},
        [node("a", 4), node("b", 4), node("c", 2), node("d", 0)],
        [
            "pool trainer: 2 pods of 8 nvidia.com/gpu each; the largest node offers 4 nvidia.com/gpu "
            "(3 nodes open to it with nvidia.com/gpu)"
        ],
    ),
    "another kind of GPU": (
        {"spec.pools.trainer.gpuResource": "nvidia.com/mig-1g.10gb"},
        [node("a")],
        ["pool trainer: 1 pod of 2 nvidia.com/mig-1g.10gb; no node of the 1 open to it offers nvidia.com/mig-1g.10gb"],
    ),
    "too few nodes": (
        {**EIGHT, f"{PLACEMENT}.policy_num_nodes": 3},
        [node("a"), node("b"), node("c", 4)],
        ["pool trainer: 3 pods of 8 nvidia.com/gpu each; 3 nodes open to it, with room for 2 when empty"],
    ),
    "no node of that label": (
        {"spec.pools.trainer.nodeSelector": {"gpu": "h100"}},
        [node("a", labels={"gpu": "a100"}), node("b")],
        ["pool trainer: 1 pod of 2 nvidia.com/gpu; no node of 2 has the labels gpu=h100"],
    ),
    "a taint that nobody tolerates": (
        {},
        [node("a", taints=[TAINT]), node("b", 0)],
        [
            "pool trainer: 1 pod of 2 nvidia.com/gpu; no node of the 1 open to it offers nvidia.com/gpu; "
            "pools.trainer.tolerations keeps it from 1 node with the taints nvidia.com/gpu=present:NoSchedule",
            "pool inference: 1 pod of 1 nvidia.com/gpu; no node of the 1 open to it offers nvidia.com/gpu; "
            "pools.inference.tolerations keeps it from 1 node with the taints nvidia.com/gpu=present:NoSchedule",
        ],
    ),
    "a taint on every node of the label": (
        {"spec.pools.trainer.nodeSelector": {"gpu": "h100"}},
        [node("a", labels={"gpu": "h100"}, taints=[TAINT]), node("b")],
        [
            "pool trainer: 1 pod of 2 nvidia.com/gpu; no node is open to it; pools.trainer.tolerations keeps it from "
            "1 node with the taints nvidia.com/gpu=present:NoSchedule"
        ],
    ),
    "a tolerated taint": (TOLERANT, [node("a", taints=[TAINT])], []),
    "a taint of a node that is down": (
        {},
        [node("a", taints=[{"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}])],
        [],
    ),
    "a taint that only discourages": ({}, [node("a", taints=[{**TAINT, "effect": "PreferNoSchedule"}])], []),
    "too little memory": (
        {"spec.pools.head.resources": {"memory": "512Gi"}},
        [node("a"), node("b")],
        [
            "pool head: 1 pod of 1 CPU, 512.0 GiB of memory; the largest node offers 256.0 GiB of memory "
            "(2 nodes open to it with memory)"
        ],
    ),
    "CPU that GPUs need beside them": (
        {"spec.pools.inference.resources": {"cpu": 48}, f"{ENGINE}.num_engines": 3},
        [node("a"), node("b")],
        ["pool inference: 3 pods of 1 nvidia.com/gpu each; 2 nodes open to it, with room for 2 when empty"],
    ),
    "pools that fit alone and not together": (
        {**EIGHT, f"{ENGINE}.num_engines": 4},
        [node("a")],
        ["pools trainer and inference together: 12 nvidia.com/gpu; 1 node open to them, with 8 in all"],
    ),
    "pools on nodes of their own": (
        {
            **EIGHT,
            "spec.pools.trainer.nodeSelector": {"gpu": "h100"},
            "spec.pools.inference.nodeSelector": {"gpu": "l4"},
        },
        [node("a", labels={"gpu": "h100"}), node("b", 1, labels={"gpu": "l4"})],
        [],
    ),
    "an affinity that a node has": (required("In", "a100", "h100"), [node("a", labels={"gpu": "h100"})], []),
    "an affinity that no node has": (
        required("In", "h100"),
        [node("a")],
        ["pool trainer: 1 pod of 2 nvidia.com/gpu; no node of 1 is what the required node affinity asks for"],
    ),
    "an affinity to anything else": (required("NotIn", "l4"), [node("a")], []),
    "an affinity that is not understood": (required("Gt", "1"), [node("a")], []),
    "RDMA devices": (
        {"spec.pools.trainer.network": {"rdmaResource": "rdma/ib", "rdmaCount": 4}},
        [node("a")],
        [
            "pool trainer: 1 pod of 2 nvidia.com/gpu, 4 rdma/ib; no node of the 1 open to it offers rdma/ib",
        ],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_shortfalls(case: str) -> None:
    changes, nodes, expected = CASES[case]
    cluster = plan_ray_cluster(parsed(changes))
    assert shortfalls(wanted_pods(cluster), [read_node(body) for body in nodes]) == expected
