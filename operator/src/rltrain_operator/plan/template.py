"""The template of the pods of one group: what all pods of the job have, then what their pool says, then its patch.

Must not know how many pods there are.
"""

from __future__ import annotations

from collections.abc import Mapping

from rltrain_api import names
from rltrain_api.job import RLTrainingJob
from rltrain_api.spec.pools import Network, Pool
from rltrain_operator.plan import one_node, pods, queueing
from rltrain_operator.plan.groups import Group
from rltrain_operator.plan.metadata import Manifest, pod_labels
from rltrain_operator.plan.patch import merged

RAY_CONTAINER = "ray"
# What Ray and its workers have to end, once the driver has saved.
TERMINATION_GRACE_SECONDS = 30
BEFORE_STOP = ("python", "-m", "rltrain_trainer.server.before_stop")


def pod_template(
    job: RLTrainingJob,
    group: Group,
    ports: list[Manifest] | None = None,
    cluster_wide: Mapping[str, str] = pods.NO_VARIABLES,
) -> Manifest:
    """The whole template of a group's pods; `cluster_wide` are the installation's variables for all jobs."""
    memory_volume, memory_mount = pods.shared_memory(group.pool)
    spec: Manifest = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": _grace_seconds(job),
        "securityContext": pods.pod_security(),
        "containers": [_container(job, group, ports or [], memory_mount, cluster_wide)],
        "volumes": [*pods.volumes(job), memory_volume],
        **pods.pull_secrets(job),
        **pods.priority(job),
        **queueing.pod_scheduler(job),
    }
    metadata = {"labels": pod_labels(job.metadata, group.role), "annotations": _annotations(job, group)}
    affinity = one_node.pod_affinity(job, group.role, group.pool.affinity)
    return with_pool({"metadata": metadata, "spec": spec}, group.pool, affinity)


def with_pool(template: Manifest, pool: Pool, affinity: Manifest | None = None) -> Manifest:
    """The template with what the pool says of its pods, the pool's patch last.

    `affinity` takes the place of the pool's own. Ray's container is the first.
    """
    metadata, spec = template["metadata"], template["spec"]
    container, *others = spec["containers"]
    labels = {**pool.labels, **metadata.get("labels", {})}
    annotations = {**metadata["annotations"], **pool.annotations}
    where: Manifest = {
        "nodeSelector": dict(pool.node_selector),
        "tolerations": [dict(toleration) for toleration in pool.tolerations],
        "affinity": dict(pool.affinity or {}) if affinity is None else affinity,
        "topologySpreadConstraints": [dict(constraint) for constraint in pool.topology_spread_constraints],
        "runtimeClassName": pool.runtime_class_name,
        **_network(pool.network),
    }
    result: Manifest = {
        "metadata": {**({"labels": labels} if labels else {}), "annotations": annotations},
        "spec": {
            **spec,
            "securityContext": spec["securityContext"] | dict(pool.security_context or {}),
            "containers": [_container_with_pool(container, pool), *others],
            "volumes": [*spec["volumes"], *map(dict, pool.volumes)],
            **{key: value for key, value in where.items() if value},
        },
    }
    return result if pool.pod_patch is None else merged(result, pool.pod_patch)


def _annotations(job: RLTrainingJob, group: Group) -> dict[str, str]:
    gpus = {names.GPUS_ANNOTATION: str(group.size.gpus_each)} if group.size.gpus_each else {}
    return {**pods.POD_ANNOTATIONS, **gpus, **queueing.pod_annotations(job, group.role)}


def _container(
    job: RLTrainingJob,
    group: Group,
    ports: list[Manifest],
    memory_mount: Manifest,
    cluster_wide: Mapping[str, str],
) -> Manifest:
    return {
        "name": RAY_CONTAINER,
        "image": pods.image(job, group.role),
        "imagePullPolicy": job.spec.runtime.image_pull_policy,
        "env": [*pods.environment(job, cluster_wide=cluster_wide), pods.token_variable(job)],
        "envFrom": pods.environment_sources(job),
        "ports": ports,
        "volumeMounts": [*pods.volume_mounts(job), memory_mount],
        "resources": pods.resources(group.pool.resources, group.size.gpus_each, group.gpu_resource),
        "securityContext": pods.container_security(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        **_before_stop(job, group),
    }


def _container_with_pool(container: Manifest, pool: Pool) -> Manifest:
    resources = {part: dict(sizes) for part, sizes in container["resources"].items()}
    security = dict(container["securityContext"])
    if pool.network.rdma_resource is not None:
        for sizes in resources.values():
            sizes[pool.network.rdma_resource] = str(pool.network.rdma_count)
        # RDMA pins the memory that the devices read and write.
        security["capabilities"] = {**security["capabilities"], "add": ["IPC_LOCK"]}
    return {
        **container,
        "volumeMounts": [*container["volumeMounts"], *map(dict, pool.volume_mounts)],
        "resources": resources,
        "securityContext": security | dict(pool.container_security_context or {}),
    }


def _saves_first(job: RLTrainingJob) -> bool:
    """Whether the pods stay until the driver has saved. Upstream's driver cannot be asked to."""
    return job.spec.runtime.trainer == "builtin"


def _before_stop(job: RLTrainingJob, group: Group) -> Manifest:
    if not _saves_first(job):
        return {}
    host = names.head_service_host(job.metadata.name, job.metadata.namespace)
    # The head's Service names it as long as it runs (KubeRay publishes addresses that are not ready, too).
    where = "127.0.0.1" if group.role == names.ROLE_HEAD else host
    command = [*BEFORE_STOP, "--host", where, "--seconds", str(job.spec.stop_grace_period_seconds)]
    if group.role == names.ROLE_INFERENCE:
        # An engine that goes alone stops nothing.
        command.append("--follow")
    return {"lifecycle": {"preStop": {"exec": {"command": command}}}}


def _grace_seconds(job: RLTrainingJob) -> int:
    saving = job.spec.stop_grace_period_seconds if _saves_first(job) else 0
    return saving + TERMINATION_GRACE_SECONDS


def _network(network: Network) -> Manifest:
    # On the node's network, "ClusterFirst" would mean the node's own name servers, which know no Services.
    return {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"} if network.host_network else {}
