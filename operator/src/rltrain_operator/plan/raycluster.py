"""The RayCluster: a head without work, a trainer group and an inference group, for KubeRay 1.6 and Ray 2.60.

It is created once and never applied again: KubeRay's autoscaler and Kueue write into the same atomic lists. Each worker
pod offers Ray a custom resource named after its group, one per GPU, so that the driver places ranks and engines by
group and never by accident on the other's GPUs.
"""

from __future__ import annotations

from typing import Any

from rltrain_api import names
from rltrain_api.job import RLTrainingJob
from rltrain_api.spec.pools import GPUPool, Pool
from rltrain_operator.plan import pods
from rltrain_operator.plan.metadata import Manifest, child_metadata, fingerprint, pod_labels

RAY_VERSION = "2.60.0"
RAY_CONTAINER = "ray"
TERMINATION_GRACE_SECONDS = 30

HEAD_PORTS = {"gcs-server": 6379, "dashboard": names.DASHBOARD_PORT, "client": 10001, "driver": names.DRIVER_PORT}


def plan_ray_cluster(job: RLTrainingJob) -> Manifest:
    """The whole manifest, with a hash of its spec as an annotation."""
    spec = _spec(job)
    metadata = child_metadata(job.metadata, names.ray_cluster_name(job.metadata.name), "cluster")
    metadata["annotations"] = {names.SPEC_HASH_ANNOTATION: fingerprint(spec)}
    return {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": metadata, "spec": spec}


def cluster_hash(job: RLTrainingJob) -> str:
    """The hash that the job's RayCluster would bear if it were created now."""
    return fingerprint(_spec(job))


def _spec(job: RLTrainingJob) -> Manifest:
    return {
        "rayVersion": RAY_VERSION,
        "enableInTreeAutoscaling": False,
        "authOptions": {"mode": "token", "secretName": names.secret_name(job.metadata.name)},
        "headGroupSpec": _head(job),
        "workerGroupSpecs": [_trainer(job), _inference(job)],
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
        "template": _template(job, names.ROLE_HEAD, job.spec.pools.head, ports=ports),
    }


def _trainer(job: RLTrainingJob) -> Manifest:
    placement = job.spec.config.trainer.placement
    return _group(
        job,
        names.ROLE_TRAINER,
        job.spec.pools.trainer,
        replicas=placement.policy_num_nodes,
        gpus=placement.policy_num_gpus_per_node,
    )


def _inference(job: RLTrainingJob) -> Manifest:
    engine = job.spec.config.generator.inference_engine
    gpus = engine.tensor_parallel_size * engine.pipeline_parallel_size * engine.data_parallel_size
    return _group(job, names.ROLE_INFERENCE, job.spec.pools.inference, replicas=engine.num_engines, gpus=gpus)


def _group(job: RLTrainingJob, role: str, pool: GPUPool, *, replicas: int, gpus: int) -> Manifest:
    return {
        "groupName": role,
        "replicas": replicas,
        "minReplicas": replicas,
        "maxReplicas": replicas,
        "numOfHosts": 1,
        "rayStartParams": {},
        "resources": {role: str(gpus)},
        "template": _template(job, role, pool, gpus=gpus, gpu_resource=pool.gpu_resource),
    }


def _template(
    job: RLTrainingJob,
    role: str,
    pool: Pool,
    *,
    gpus: int = 0,
    gpu_resource: str = "",
    ports: list[Manifest] | None = None,
) -> Manifest:
    memory_volume, memory_mount = pods.shared_memory(pool)
    container: Manifest = {
        "name": RAY_CONTAINER,
        "image": pods.image(job, role),
        "imagePullPolicy": job.spec.runtime.image_pull_policy,
        "env": [*pods.environment(job), pods.token_variable(job)],
        "envFrom": pods.environment_sources(job),
        "ports": ports or [],
        "volumeMounts": [*pods.volume_mounts(job), memory_mount],
        "resources": pods.resources(pool.resources, gpus, gpu_resource),
        "securityContext": pods.container_security(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    spec: Manifest = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": TERMINATION_GRACE_SECONDS,
        "securityContext": pods.pod_security(),
        "containers": [container],
        "volumes": [*pods.volumes(job), memory_volume],
        **pods.priority(job),
    }
    if pool.node_selector:
        spec["nodeSelector"] = dict(pool.node_selector)
    if pool.tolerations:
        spec["tolerations"] = [dict(toleration) for toleration in pool.tolerations]
    metadata = {"labels": pod_labels(job.metadata, role), "annotations": dict(pods.POD_ANNOTATIONS)}
    return {"metadata": metadata, "spec": spec}
