"""The RayCluster: a head without work and a worker group for each role, for KubeRay 1.6 and Ray 2.60.

It is created once and never applied again: KubeRay's autoscaler and Kueue write into the same atomic lists. Each worker
pod offers Ray a custom resource named after its group, one per GPU, so that our driver places ranks and engines by
group and never by accident on the other's GPUs. How upstream's driver finds them is in `rltrain_api.sizing.pools`.
"""

from __future__ import annotations

from typing import Any

from rltrain_api import names
from rltrain_api.job import RLTrainingJob
from rltrain_operator.plan import queueing, upstream
from rltrain_operator.plan.groups import group_spec, head_group, worker_groups
from rltrain_operator.plan.metadata import Manifest, child_metadata, fingerprint
from rltrain_operator.plan.template import pod_template

RAY_VERSION = "2.60.0"

HEAD_PORTS = {"gcs-server": 6379, "dashboard": names.DASHBOARD_PORT, "client": 10001, "driver": names.DRIVER_PORT}


def plan_ray_cluster(job: RLTrainingJob) -> Manifest:
    """The whole manifest, with a hash of what was asked for as an annotation."""
    metadata = child_metadata(job.metadata, names.ray_cluster_name(job.metadata.name), "cluster")
    metadata["labels"] |= queueing.queue_labels(job) | {names.TRAINER_LABEL: job.spec.runtime.trainer}
    metadata["annotations"] = {names.SPEC_HASH_ANNOTATION: cluster_hash(job)}
    return {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": metadata, "spec": _spec(job)}


def cluster_hash(job: RLTrainingJob) -> str:
    """The hash that the job's RayCluster would bear if it were created now."""
    return fingerprint([_spec(job), queueing.queue_labels(job)])


def _spec(job: RLTrainingJob) -> Manifest:
    return {
        **upstream.ray(job, RAY_VERSION),
        "enableInTreeAutoscaling": False,
        **queueing.held_back(job),
        "headGroupSpec": _head(job),
        "workerGroupSpecs": [group_spec(group, pod_template(job, group)) for group in worker_groups(job)],
    }


def worker_pods_wanted(ray_cluster: Manifest) -> int:
    """How many worker pods a RayCluster asks for, by its own spec."""
    groups: list[dict[str, Any]] = (ray_cluster.get("spec") or {}).get("workerGroupSpecs") or []
    return sum(int(group.get("replicas") or 0) * int(group.get("numOfHosts") or 1) for group in groups)


def _head(job: RLTrainingJob) -> Manifest:
    ports = [{"name": name, "containerPort": port} for name, port in HEAD_PORTS.items()]
    return {
        # No CPUs and no GPUs for tasks: the head runs the driver and Ray itself, nothing else.
        "rayStartParams": {"num-cpus": "0", "num-gpus": "0"},
        "template": pod_template(job, head_group(job), ports),
    }
