"""Every field of a pool, and what the pods then have: shared by the tests of the plan and of the API server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rule_cases import Changes

TRAINER = "spec.pools.trainer"
ZONES = {"topologyKey": "topology.kubernetes.io/zone", "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule"}
SSD = {"key": "disk", "operator": "In", "values": ["ssd"]}
AFFINITY = {
    "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [SSD]}]}
    }
}
SCRATCH = {"name": "scratch", "hostPath": {"path": "/mnt/nvme"}}
MOUNT = {"name": "scratch", "mountPath": "/scratch"}
TOLERATION = {"key": "nvidia.com/gpu", "operator": "Exists"}

# What is asked for, and what the trainer's pods then have: by dotted path into the template, "ray" being the container.
SHAPES: dict[str, tuple[Changes, Mapping[str, Any]]] = {
    "nothing": (
        {},
        {
            "spec.hostNetwork": None,
            "spec.dnsPolicy": None,
            "spec.affinity": None,
            "spec.runtimeClassName": None,
            "spec.imagePullSecrets": None,
            "spec.topologySpreadConstraints": None,
            "ray.resources.limits": {"memory": "4Gi", "nvidia.com/gpu": "2"},
        },
    ),
    "node selector": ({f"{TRAINER}.nodeSelector": {"gpu": "h100"}}, {"spec.nodeSelector": {"gpu": "h100"}}),
    "tolerations": ({f"{TRAINER}.tolerations": [TOLERATION]}, {"spec.tolerations": [TOLERATION]}),
    "affinity": ({f"{TRAINER}.affinity": AFFINITY}, {"spec.affinity": AFFINITY}),
    "spread over zones": (
        {f"{TRAINER}.topologySpreadConstraints": [ZONES]},
        {"spec.topologySpreadConstraints": [ZONES]},
    ),
    "runtime class": ({f"{TRAINER}.runtimeClassName": "nvidia"}, {"spec.runtimeClassName": "nvidia"}),
    "priority class": ({"spec.priorityClassName": "high"}, {"spec.priorityClassName": "high"}),
    "pull secrets": (
        {"spec.runtime.imagePullSecrets": [{"name": "registry"}]},
        {"spec.imagePullSecrets": [{"name": "registry"}]},
    ),
    "another vendor's GPUs": (
        {f"{TRAINER}.gpuResource": "amd.com/gpu"},
        {"ray.resources.requests": {"cpu": "1", "memory": "4Gi", "amd.com/gpu": "2"}},
    ),
    "parts of GPUs": (
        {f"{TRAINER}.gpuResource": "nvidia.com/mig-1g.10gb"},
        {"ray.resources.limits": {"memory": "4Gi", "nvidia.com/mig-1g.10gb": "2"}},
    ),
    "CPU and memory": (
        {f"{TRAINER}.resources": {"cpu": "96", "memory": "1Ti"}},
        {"ray.resources.requests": {"cpu": "96", "memory": "1Ti", "nvidia.com/gpu": "2"}},
    ),
    "shared memory": (
        {f"{TRAINER}.shmSize": "3Gi"},
        {"spec.volumes.shared-memory.emptyDir": {"medium": "Memory", "sizeLimit": "3Gi"}},
    ),
    "RDMA devices": (
        {f"{TRAINER}.network": {"rdmaResource": "rdma/ib", "rdmaCount": 8}},
        {
            "ray.resources.limits": {"memory": "4Gi", "nvidia.com/gpu": "2", "rdma/ib": "8"},
            "ray.resources.requests": {"cpu": "1", "memory": "4Gi", "nvidia.com/gpu": "2", "rdma/ib": "8"},
            "ray.securityContext.capabilities": {"drop": ["ALL"], "add": ["IPC_LOCK"]},
        },
    ),
    "the node's network": (
        {f"{TRAINER}.network": {"hostNetwork": True}},
        {"spec.hostNetwork": True, "spec.dnsPolicy": "ClusterFirstWithHostNet"},
    ),
    "labels beside the operator's": (
        {f"{TRAINER}.labels": {"team": "a"}},
        {"metadata.labels.team": "a", "metadata.labels.'rltrain.io/role'": "trainer"},
    ),
    "annotations beside the operator's": (
        {f"{TRAINER}.annotations": {"example.com/note": "a, b"}},
        {
            "metadata.annotations.'example.com/note'": "a, b",
            "metadata.annotations.'cluster-autoscaler.kubernetes.io/safe-to-evict'": "false",
        },
    ),
    "an autoscaler that may take pods away": (
        {f"{TRAINER}.annotations": {"cluster-autoscaler.kubernetes.io/safe-to-evict": "true"}},
        {"metadata.annotations.'cluster-autoscaler.kubernetes.io/safe-to-evict'": "true"},
    ),
    "another user": (
        {f"{TRAINER}.securityContext": {"runAsUser": 0, "runAsNonRoot": False}},
        {
            "spec.securityContext.runAsUser": 0,
            "spec.securityContext.runAsNonRoot": False,
            "spec.securityContext.fsGroup": 1000,
            "spec.securityContext.seccompProfile": {"type": "RuntimeDefault"},
        },
    ),
    "capabilities of a user's own": (
        {f"{TRAINER}.containerSecurityContext": {"capabilities": {"add": ["SYS_PTRACE"]}}},
        {
            "ray.securityContext.capabilities": {"add": ["SYS_PTRACE"]},
            "ray.securityContext.allowPrivilegeEscalation": False,
        },
    ),
    "a volume": (
        {f"{TRAINER}.volumes": [SCRATCH], f"{TRAINER}.volumeMounts": [MOUNT]},
        {
            "spec.volumes.scratch": SCRATCH,
            "ray.volumeMounts.scratch": MOUNT,
            "ray.volumeMounts.data": {"name": "data", "mountPath": "/data"},
        },
    ),
    "a patch": (
        {
            f"{TRAINER}.podPatch": {
                "metadata": {"annotations": {"karpenter.sh/do-not-disrupt": None}},
                "spec": {
                    "hostIPC": True,
                    "terminationGracePeriodSeconds": 300,
                    "containers": [
                        {"name": "ray", "resources": {"limits": {"cpu": "8"}}},
                        {"name": "exporter", "image": "exporter"},
                    ],
                },
            }
        },
        {
            "metadata.annotations.'karpenter.sh/do-not-disrupt'": None,
            "spec.hostIPC": True,
            "spec.terminationGracePeriodSeconds": 300,
            "spec.containers.exporter": {"name": "exporter", "image": "exporter"},
            "ray.name": "ray",
            "ray.resources.limits": {"memory": "4Gi", "nvidia.com/gpu": "2", "cpu": "8"},
            "ray.resources.requests.cpu": "1",
        },
    ),
}
