"""What a queue or a gang scheduler reads from a RayCluster: labels, annotations of pods, the scheduler's name.

Kueue holds the whole cluster back: it is created suspended, and Kueue alone lets it go. It is so also where no Kueue
runs, for a job that asked for quota must not start without. The other schedulers take the pods one by one as KubeRay
makes them and start them together; KubeRay's operator must run with --batch-scheduler of that name.
"""

from __future__ import annotations

from rltrain_api import names
from rltrain_api.job import RLTrainingJob
from rltrain_operator.plan.metadata import Manifest

KUEUE_QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
KUEUE_PRIORITY_LABEL = "kueue.x-k8s.io/priority-class"
KUEUE_TOPOLOGY = {
    "Preferred": "kueue.x-k8s.io/podset-preferred-topology",
    "Required": "kueue.x-k8s.io/podset-required-topology",
}
VOLCANO_QUEUE_LABEL = "volcano.sh/queue-name"
VOLCANO_MODE_LABEL = "volcano.sh/network-topology-mode"
VOLCANO_TIER_LABEL = "volcano.sh/network-topology-highest-tier-allowed"
VOLCANO_MODES = {"Preferred": "soft", "Required": "hard"}
GANG_PRIORITY_LABEL = "ray.io/priority-class-name"
GANG_LABEL = "ray.io/gang-scheduling-enabled"
YUNIKORN_QUEUE_LABEL = "yunikorn.apache.org/queue"
YUNIKORN_APPLICATION_LABEL = "yunikorn.apache.org/app-id"
KAI_QUEUE_LABEL = "kai.scheduler/queue"
KAI_TOPOLOGY = "kai.scheduler/topology"
KAI_PLACEMENT = {
    "Preferred": "kai.scheduler/topology-preferred-placement",
    "Required": "kai.scheduler/topology-required-placement",
}
SCHEDULER_NAMES = {"volcano": "volcano", "yunikorn": "yunikorn", "kai": "kai-scheduler"}


def waits_for_kueue(job: RLTrainingJob) -> bool:
    """Whether the job's cluster starts when Kueue says so."""
    return job.spec.queue_name is not None and job.spec.scheduling.scheduler == "kueue"


def held_back(job: RLTrainingJob) -> Manifest:
    """The part of a RayCluster's or RayJob's spec that keeps it from starting, for a job that waits for Kueue."""
    return {"suspend": True} if waits_for_kueue(job) else {}


def queue_labels(job: RLTrainingJob) -> dict[str, str]:
    """Labels of the RayCluster."""
    queue, scheduling = job.spec.queue_name, job.spec.scheduling
    labels: dict[str, str | None] = {}
    if scheduling.scheduler == "kueue" and queue is not None:
        labels = {KUEUE_QUEUE_LABEL: queue, KUEUE_PRIORITY_LABEL: scheduling.workload_priority_class}
    elif scheduling.scheduler == "volcano":
        labels = {VOLCANO_QUEUE_LABEL: queue, GANG_PRIORITY_LABEL: job.spec.priority_class_name}
        if scheduling.topology is not None:
            labels[VOLCANO_MODE_LABEL] = VOLCANO_MODES[scheduling.topology.mode]
            labels[VOLCANO_TIER_LABEL] = scheduling.topology.level
    elif scheduling.scheduler == "yunikorn":
        # Unique over namespaces, and as long as a label may be.
        application = f"{job.metadata.namespace}-{job.metadata.name}"[-63:].lstrip("-")
        labels = {GANG_LABEL: "true", YUNIKORN_QUEUE_LABEL: queue, YUNIKORN_APPLICATION_LABEL: application}
    elif scheduling.scheduler == "kai":
        labels = {KAI_QUEUE_LABEL: queue}
    return {key: value for key, value in labels.items() if value is not None}


def pod_annotations(job: RLTrainingJob, role: str) -> dict[str, str]:
    """Annotations of the pods of a role: how near to each other they shall be. The head may be anywhere."""
    scheduling = job.spec.scheduling
    topology = scheduling.topology
    if topology is None or role == names.ROLE_HEAD:
        return {}
    if waits_for_kueue(job):
        return {KUEUE_TOPOLOGY[topology.mode]: topology.level}
    if scheduling.scheduler == "kai" and topology.name is not None:
        return {KAI_TOPOLOGY: topology.name, KAI_PLACEMENT[topology.mode]: topology.level}
    return {}


def pod_scheduler(job: RLTrainingJob) -> Manifest:
    """The part of a pod's spec that names its scheduler; Kueue leaves pods to Kubernetes' own."""
    name = SCHEDULER_NAMES.get(job.spec.scheduling.scheduler)
    return {} if name is None else {"schedulerName": name}
