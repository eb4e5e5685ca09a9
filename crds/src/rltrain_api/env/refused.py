"""Variables that no layer may bring into pods: which GPUs a process sees, who a Ray process is, and our own.

They describe one process on one machine. Carried to other pods they hide GPUs, claim other people's, or cut a pod off
from its cluster. Must not know where a value comes from.
"""

from __future__ import annotations

OWN_PREFIX = "RLTRAIN_"

# Set by device plugins, container runtimes and Ray, for each container and process.
GPU_VISIBILITY = frozenset(
    {"CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"}
)
# Set by KubeRay in every Ray container, and by Ray in its processes: where the cluster is and which part of it this is.
RAY_IDENTITY = frozenset(
    {
        "FQ_RAY_IP",
        "KUBERAY_GEN_RAY_START_CMD",
        "RAY_ADDRESS",
        "RAY_API_SERVER_ADDRESS",
        "RAY_AUTH_MODE",
        "RAY_AUTH_TOKEN",
        "RAY_AUTH_TOKEN_PATH",
        "RAY_CLOUD_INSTANCE_ID",
        "RAY_CLUSTER_NAME",
        "RAY_CLUSTER_NAMESPACE",
        "RAY_GCS_SERVER_PORT",
        "RAY_IP",
        "RAY_JOB_CONFIG_JSON_ENV_VAR",
        "RAY_JOB_HEADERS",
        "RAY_JOB_ID",
        "RAY_NODE_ID",
        "RAY_NODE_TYPE_NAME",
        "RAY_OVERRIDE_LABELS",
        "RAY_OVERRIDE_RESOURCES",
        "RAY_PORT",
        "RAY_RAYLET_PID",
        "RAY_REDIS_ADDRESS",
        "RAY_REDIS_PASSWORD",
        "RAY_RUNTIME_ENV",
        "RAY_USAGE_STATS_EXTRA_TAGS",
        "RAY_USAGE_STATS_KUBERAY_IN_USE",
        "REDIS_PASSWORD",
    }
)


def refused_in_pods(name: str) -> str | None:
    """Why a variable may not be set for pods and what to do instead, to follow its name; None where it may."""
    if name.startswith(OWN_PREFIX):
        return "is set by the operator and cannot be changed; remove it"
    if name in GPU_VISIBILITY:
        return (
            "is set by the device plugin and Ray for each process, and another value would hide its GPUs or claim "
            "others; remove it, and ask for GPUs by trainer.placement"
        )
    if name in RAY_IDENTITY:
        return "is set by KubeRay and Ray for each pod, and another would cut the pod off from its cluster; remove it"
    return None
