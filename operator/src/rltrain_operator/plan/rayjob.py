"""A plain RayJob: the run without this operator, by KubeRay 1.6 and upstream SkyRL alone.

For `kubectl rltrain render --to rayjob`. The pods are those of a job in everything but what belongs to the operator:
no tokens, no driver of ours, no owner. All worker pods are alike, because SkyRL's placement groups know no kinds of
pods, and engines would take a pod that a model needs as a whole.

The entrypoint goes to Ray's Jobs API as it is (HTTPMode): in KubeRay's default mode two shells and a quoting made for
Windows come first, and what `['a']` means is lost on the way.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator

from rltrain_api import names
from rltrain_api.env import is_secret
from rltrain_api.job import RLTrainingJob
from rltrain_api.render import Rendered, notes_for_skyrl, overrides_for_skyrl
from rltrain_api.render.kubernetes import deadline_notes, left_out
from rltrain_api.render.machines import Machines, machines_for_skyrl
from rltrain_api.render.upstream import ENTRYPOINT, RAY_VERSION, VERSION
from rltrain_api.render.variables import Variables, secret_notes, variables_for_skyrl
from rltrain_api.spec.pools import Pool, Resources
from rltrain_api.yaml_text import yaml_text
from rltrain_operator.plan import pods, queueing
from rltrain_operator.plan.claims import plan_checkpoint_claim, plan_data_claims
from rltrain_operator.plan.initializers import program, script_mounts, script_volumes
from rltrain_operator.plan.metadata import Manifest
from rltrain_operator.plan.template import RAY_CONTAINER, TERMINATION_GRACE_SECONDS, with_pool

WORKER_GROUP = "workers"
HEAD_PORTS = {"gcs-server": 6379, "dashboard": names.DASHBOARD_PORT, "client": 10001}
_MEBIBYTE = 1024 * 1024
# Fields of the spec that Kubernetes and KubeRay do without the operator, besides those that every rendering carries.
CARRIED = (
    "runtime.images.head",
    "runtime.images.trainer",
    "runtime.imagePullPolicy",
    "runtime.imagePullSecrets",
    "pools.head",
    "pools.trainer",
    "failurePolicy.backoffLimit",
    "queueName",
    "priorityClassName",
    "suspend",
    "startupDeadlineSeconds",
    "activeDeadlineSeconds",
    "ttlSecondsAfterFinished",
)


def render_ray_job(job: RLTrainingJob) -> Rendered:
    """The claims that the job makes and the RayJob, as YAML documents, for a job that upstream SkyRL can run."""
    documents = [*plan_plain_claims(job), plan_ray_job(job)]
    return Rendered("---\n".join(yaml_text(document) for document in documents), tuple(_notes(job)))


def plan_ray_job(job: RLTrainingJob) -> Manifest:
    """The RayJob alone."""
    metadata: Manifest = {"name": job.metadata.name, "namespace": job.metadata.namespace}
    labels = queueing.queue_labels(job)
    if labels:
        metadata["labels"] = labels
    # Kueue lets go what waits in a queue. It and `suspend` want the cluster to be gone when the run has ended.
    waiting = {"suspend": True} if queueing.waits_for_kueue(job) or job.spec.suspend else {}
    deadline = job.spec.active_deadline_seconds
    bounds = {} if deadline is None else {"activeDeadlineSeconds": deadline}
    spec = {
        "entrypoint": _entrypoint(job),
        "submissionMode": "HTTPMode",
        **waiting,
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": job.spec.ttl_seconds_after_finished,
        "backoffLimit": job.spec.failure_policy.backoff_limit,
        "preRunningDeadlineSeconds": job.spec.startup_deadline_seconds,
        **bounds,
        "rayClusterSpec": {
            "rayVersion": RAY_VERSION,
            "enableInTreeAutoscaling": False,
            "headGroupSpec": _head(job),
            "workerGroupSpecs": [_workers(job, machines_for_skyrl(job))],
        },
    }
    return {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": metadata, "spec": spec}


def plan_plain_claims(job: RLTrainingJob) -> list[Manifest]:
    """The claims of the job's templates, without an owner: nobody deletes them with the RayJob."""
    claims = [plan_checkpoint_claim(job), *plan_data_claims(job)]
    return [
        {**claim, "metadata": {key: claim["metadata"][key] for key in ("name", "namespace")}}
        for claim in claims
        if claim is not None
    ]


def _entrypoint(job: RLTrainingJob) -> str:
    # Ray would load the hook that this variable names in every process; it is made for runs out of a uv project.
    return shlex.join(["env", "-u", "RAY_RUNTIME_ENV_HOOK", "python", "-m", ENTRYPOINT, *overrides_for_skyrl(job)])


def _head(job: RLTrainingJob) -> Manifest:
    pool = job.spec.pools.head
    volume, mount = pods.shared_memory(pool)
    container = _container(job, names.ROLE_HEAD, pods.resources(pool.resources), mount)
    container["ports"] = [{"name": name, "containerPort": port} for name, port in HEAD_PORTS.items()]
    template = _template(job, container, volume, pool)
    if job.spec.storage.initializers:
        template["spec"]["initContainers"] = list(_initializers(job))
        template["spec"]["volumes"] += [
            volume for initializer in job.spec.storage.initializers for volume in script_volumes(initializer)
        ]
    # No CPUs for tasks: SkyRL's driver is one, and runs on a worker.
    return {"rayStartParams": {"num-cpus": "0", "num-gpus": "0"}, "template": template}


def _workers(job: RLTrainingJob, machines: Machines) -> Manifest:
    pool = job.spec.pools.trainer
    wanted = Resources(cpu=str(machines.cpus), memory=f"{math.ceil(machines.memory / _MEBIBYTE)}Mi")
    volume, mount = pods.shared_memory(pool.model_copy(update={"resources": wanted}))
    resources = pods.resources(wanted, machines.gpus, pool.gpu_resource)
    container = _container(job, names.ROLE_TRAINER, resources, mount)
    return {
        "groupName": WORKER_GROUP,
        "replicas": machines.nodes,
        "minReplicas": machines.nodes,
        "maxReplicas": machines.nodes,
        "numOfHosts": 1,
        "rayStartParams": {"num-cpus": str(machines.cpus), "num-gpus": str(machines.gpus)},
        "template": _template(job, container, volume, pool),
    }


def _container(job: RLTrainingJob, role: str, resources: Manifest, shared_memory: Manifest) -> Manifest:
    return {
        "name": RAY_CONTAINER,
        "image": pods.image(job, role),
        "imagePullPolicy": job.spec.runtime.image_pull_policy,
        "env": _environment(job, variables_for_skyrl(job)),
        "envFrom": pods.environment_sources(job),
        "volumeMounts": [*pods.volume_mounts(job), shared_memory],
        "resources": resources,
        "securityContext": pods.container_security(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def _template(job: RLTrainingJob, container: Manifest, shared_memory: Manifest, pool: Pool) -> Manifest:
    spec: Manifest = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": TERMINATION_GRACE_SECONDS,
        "securityContext": pods.pod_security(),
        "containers": [container],
        "volumes": [*pods.volumes(job), shared_memory],
        **pods.pull_secrets(job),
        **pods.priority(job),
    }
    return with_pool({"metadata": {"annotations": dict(pods.POD_ANNOTATIONS)}, "spec": spec}, pool)


def _initializers(job: RLTrainingJob) -> Iterator[Manifest]:
    """The initializers in the head's pod, one after the other, before Ray starts."""
    variables = variables_for_skyrl(job)
    for initializer in job.spec.storage.initializers:
        own = {variable.name: variable.value for variable in initializer.env}
        shared = [entry for entry in _environment(job, variables) if entry["name"] not in own]
        yield {
            "name": f"init-{initializer.name}",
            "image": initializer.image or pods.image(job, names.ROLE_INITIALIZER),
            "imagePullPolicy": job.spec.runtime.image_pull_policy,
            **program(initializer),
            "env": [*shared, *(_variable(job, name, value) for name, value in own.items())],
            "envFrom": pods.environment_sources(job),
            "volumeMounts": [*pods.volume_mounts(job), *script_mounts(initializer)],
            "resources": pods.resources(initializer.resources),
            "securityContext": pods.container_security(),
        }


def _environment(job: RLTrainingJob, variables: Variables) -> list[Manifest]:
    written = [_variable(job, name, value) for name, value in variables.values.items()]
    return written + [_from_secret(job, name) for name in variables.asked_for]


def _variable(job: RLTrainingJob, name: str, value: str) -> Manifest:
    return _from_secret(job, name) if is_secret(name, value) else {"name": name, "value": value}


def _from_secret(job: RLTrainingJob, name: str) -> Manifest:
    return {
        "name": name,
        "valueFrom": {"secretKeyRef": {"name": names.environment_secret_name(job.metadata.name), "key": name}},
    }


def _secrets_of_initializers(job: RLTrainingJob) -> list[str]:
    variables = [variable for initializer in job.spec.storage.initializers for variable in initializer.env]
    return [variable.name for variable in variables if is_secret(variable.name, variable.value)]


def _notes(job: RLTrainingJob) -> Iterator[str]:
    variables = variables_for_skyrl(job)
    yield from notes_for_skyrl(job)
    yield from secret_notes(variables)
    yield (
        f"spec.runtime.image: {job.spec.runtime.image} must have SkyRL {VERSION} with Ray {RAY_VERSION} and vLLM; "
        "where its Ray is another one, change rayVersion"
    )
    asked_for = [*variables.asked_for, *_secrets_of_initializers(job)]
    if asked_for:
        pairs = " ".join(f"--from-literal={name}=…" for name in dict.fromkeys(asked_for))
        secret = names.environment_secret_name(job.metadata.name)
        yield f"secrets: make the Secret first: kubectl create secret generic {secret} {pairs}"
    yield (
        f"Ray {RAY_VERSION} has no tokens: whoever reaches the head's port {names.DASHBOARD_PORT} can run programs in "
        "the pods; keep others away with a NetworkPolicy"
    )
    if job.spec.storage.initializers:
        yield (
            "spec.storage.initializers: run in the head's pod before Ray starts, and again with each new cluster; "
            "their backoffLimit and deadlineSeconds are left out"
        )
    if job.spec.storage.checkpoints.resume_from is not None:
        yield "spec.storage.checkpoints.resumeFrom: its volume is mounted, and the run does not begin from it"
    if job.spec.pools.inference.model_fields_set - {"resources"}:
        yield "spec.pools.inference: all worker pods are alike, so but for CPU and memory they follow pools.trainer"
    if job.spec.failure_policy.backoff_limit > 0:
        yield "spec.failurePolicy.backoffLimit: KubeRay makes a new cluster for each attempt"
    yield from left_out(job, CARRIED, "only RLTrain's operator can do it")
    yield from deadline_notes(job)
