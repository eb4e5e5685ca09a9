"""The RayCluster: a head without work and a worker group for each role, for KubeRay 1.6 and Ray 2.60.

It is created once and never applied again: KubeRay's autoscaler and Kueue write into the same atomic lists. The one
thing of it that changes is the number of engines, by a JSON patch that names what it expects to find. Each worker
pod offers Ray a custom resource named after its group, one per GPU, so that our driver places ranks and engines by
group and never by accident on the other's GPUs. How upstream's driver finds them is in `rltrain_api.sizing.pools`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rltrain_api import names
from rltrain_api.job import RLTrainingJob
from rltrain_operator.plan import queueing, upstream
from rltrain_operator.plan.groups import group_spec, head_group, worker_groups
from rltrain_operator.plan.metadata import Manifest, child_metadata, fingerprint
from rltrain_operator.plan.once import once_per_job
from rltrain_operator.plan.pods import NO_VARIABLES
from rltrain_operator.plan.scaling import fixed_engines, with_engines
from rltrain_operator.plan.template import pod_template

RAY_VERSION = "2.60.0"

HEAD_PORTS = {"gcs-server": 6379, "dashboard": names.DASHBOARD_PORT, "client": 10001, "driver": names.DRIVER_PORT}


def plan_ray_cluster(job: RLTrainingJob, cluster_wide: Mapping[str, str] = NO_VARIABLES) -> Manifest:
    """The whole manifest, with a hash of what was asked for as an annotation.

    `cluster_wide` are the installation's variables for all jobs. They are not in the hash: no job asked for them.
    """
    metadata = child_metadata(job.metadata, names.ray_cluster_name(job.metadata.name), "cluster")
    metadata["labels"] |= queueing.queue_labels(job) | {names.TRAINER_LABEL: job.spec.runtime.trainer}
    metadata["annotations"] = {names.SPEC_HASH_ANNOTATION: cluster_hash(job)}
    return {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": metadata, "spec": _spec(job, cluster_wide)}


@once_per_job
def cluster_hash(job: RLTrainingJob) -> str:
    """The hash that the job's RayCluster would bear if it were created now.

    Where the number of engines may change while the cluster lives, the hash does not know it.
    """
    lasting = with_engines(job, 1) if fixed_engines(job) is None else job
    return fingerprint([_spec(lasting), queueing.queue_labels(job)])


def plan_resize(group: int, found: int, wanted: int, leaving: Sequence[str], cluster_uid: str) -> list[Manifest]:
    """A JSON patch that gives the worker group of that number `wanted` replicas instead of the `found` ones.

    KubeRay removes the pods that are named; further ones, if there are too many, it picks itself. The patch is refused
    as a whole where the cluster is another, or somebody else has resized the group.
    """
    path = f"/spec/workerGroupSpecs/{group}"
    return [
        {"op": "test", "path": "/metadata/uid", "value": cluster_uid},
        {"op": "test", "path": f"{path}/groupName", "value": names.ROLE_INFERENCE},
        {"op": "test", "path": f"{path}/replicas", "value": found},
        *(
            {"op": "replace", "path": f"{path}/{key}", "value": wanted}
            for key in ("replicas", "minReplicas", "maxReplicas")
        ),
        {"op": "add", "path": f"{path}/scaleStrategy", "value": {"workersToDelete": list(leaving)}},
    ]


def _spec(job: RLTrainingJob, cluster_wide: Mapping[str, str] = NO_VARIABLES) -> Manifest:
    return {
        **upstream.ray(job, RAY_VERSION),
        "enableInTreeAutoscaling": False,
        **queueing.held_back(job),
        "headGroupSpec": _head(job, cluster_wide),
        "workerGroupSpecs": [
            group_spec(group, pod_template(job, group, cluster_wide=cluster_wide)) for group in worker_groups(job)
        ],
    }


def worker_pods_wanted(ray_cluster: Manifest) -> int:
    """How many worker pods a RayCluster asks for, by its own spec."""
    groups: list[dict[str, Any]] = (ray_cluster.get("spec") or {}).get("workerGroupSpecs") or []
    return sum(int(group.get("replicas") or 0) * int(group.get("numOfHosts") or 1) for group in groups)


def _head(job: RLTrainingJob, cluster_wide: Mapping[str, str]) -> Manifest:
    ports = [{"name": name, "containerPort": port} for name, port in HEAD_PORTS.items()]
    return {
        # No CPUs and no GPUs for tasks: the head runs the driver and Ray itself, nothing else.
        "rayStartParams": {"num-cpus": "0", "num-gpus": "0"},
        "template": pod_template(job, head_group(job), ports, cluster_wide),
    }
