"""What the operator last saw of the cluster: jobs whole, their children cut down to what decisions need.

Filled by watches, by resyncs and by the answers to our own writes; read by `reconcile.observe`. An older version of an
object never replaces a newer one, so the three may arrive in any order. It makes no requests and decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from rltrain_api import names
from rltrain_operator.kube import Body, Resource
from rltrain_operator.kube.resources import BATCH_JOBS, CLAIMS, PODS, RAY_CLUSTERS, RL_TRAINING_JOBS, WORKLOADS

Key = tuple[str, str]
"""(namespace, name) of an RLTrainingJob."""

WATCHED_CHILDREN = (RAY_CLUSTERS, BATCH_JOBS, PODS, CLAIMS)
# Kinds that a cluster may do without. Their objects are made by others, so they do not bear our label.
OPTIONAL_CHILDREN = (WORKLOADS,)
WORKLOAD_SELECTOR = "kueue.x-k8s.io/job-uid"


def selector_of(resource: Resource) -> str:
    """The labels by which a watched kind's objects are told from those that are nobody's."""
    if resource is RL_TRAINING_JOBS:
        return ""
    return WORKLOAD_SELECTOR if resource is WORKLOADS else names.JOB_LABEL


def _metadata(body: Body) -> Body:
    metadata = body["metadata"]
    kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp", "deletionTimestamp", "labels")
    slim = {key: metadata[key] for key in kept if key in metadata}
    slim["ownerReferences"] = [
        {key: owner.get(key) for key in ("kind", "name", "uid")} for owner in metadata.get("ownerReferences") or []
    ]
    return slim


def _slim_pod(body: Body) -> Body:
    """Of a pod's 6 kB the operator reads a few hundred bytes; over thousands of pods that is what memory goes to."""
    status = body.get("status") or {}
    containers = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
    metadata = _metadata(body)
    gpus = (body["metadata"].get("annotations") or {}).get(names.GPUS_ANNOTATION)
    if gpus is not None:
        metadata["annotations"] = {names.GPUS_ANNOTATION: gpus}
    return {
        "metadata": metadata,
        "status": {
            "phase": status.get("phase"),
            "podIP": status.get("podIP"),
            "conditions": status.get("conditions") or [],
            "containers": [
                {
                    "name": container.get("name"),
                    "state": container.get("state") or {},
                    "last": container.get("lastState") or {},
                }
                for container in containers
            ],
        },
    }


def _slim_ray_cluster(body: Body) -> Body:
    groups = (body.get("spec") or {}).get("workerGroupSpecs") or []
    kept = ("groupName", "replicas", "numOfHosts")
    suspended = bool((body.get("spec") or {}).get("suspend"))
    metadata = _metadata(body)
    spec_hash = (body["metadata"].get("annotations") or {}).get(names.SPEC_HASH_ANNOTATION)
    metadata["annotations"] = {names.SPEC_HASH_ANNOTATION: spec_hash or ""}
    return {
        "metadata": metadata,
        "spec": {
            "suspend": suspended,
            "workerGroupSpecs": [{key: group[key] for key in kept if key in group} for group in groups],
        },
        "status": {
            key: value
            for key, value in (body.get("status") or {}).items()
            if key in ("conditions", "readyWorkerReplicas", "head")
        },
    }


def _slim_status_only(body: Body) -> Body:
    status = {k: v for k, v in (body.get("status") or {}).items() if k in ("conditions", "phase", "active", "failed")}
    return {"metadata": _metadata(body), "status": status}


_SLIM: dict[str, Callable[[Body], Body]] = {
    RAY_CLUSTERS.plural: _slim_ray_cluster,
    PODS.plural: _slim_pod,
    BATCH_JOBS.plural: _slim_status_only,
    CLAIMS.plural: _slim_status_only,
    WORKLOADS.plural: _slim_status_only,
}


def _version(body: Body) -> int:
    """Resource versions of one kind are comparable as integers (Kubernetes 1.35 guarantees what etcd always did)."""
    version = str(body["metadata"].get("resourceVersion") or "0")
    return int(version) if version.isdigit() else 0


def job_key(resource: Resource, body: Body) -> Key | None:
    """The job an object belongs to, by its label; None for an object that is nobody's."""
    metadata = body["metadata"]
    if resource is RL_TRAINING_JOBS:
        return metadata["namespace"], metadata["name"]
    if resource is WORKLOADS:  # a RayCluster of ours bears the job's name
        owners = metadata.get("ownerReferences") or []
        owner = next((one["name"] for one in owners if one.get("kind") == RAY_CLUSTERS.kind), None)
        return (metadata["namespace"], owner) if owner else None
    job = (metadata.get("labels") or {}).get(names.JOB_LABEL)
    return (metadata["namespace"], job) if job else None


@dataclass
class JobEntry:
    """Everything cached under one job's key."""

    job: Body | None = None
    children: dict[tuple[str, str], Body] = field(default_factory=dict)


class Cache:
    """See the module's docstring. Every change returns the key of the job to look at, or None when nothing changed."""

    def __init__(self) -> None:
        self._entries: dict[Key, JobEntry] = {}

    def upsert(self, resource: Resource, body: Body) -> Key | None:
        """Note a newer version of an object."""
        key = job_key(resource, body)
        if key is None:
            return None
        entry = self._entries.setdefault(key, JobEntry())
        known = (
            entry.job
            if resource is RL_TRAINING_JOBS
            else entry.children.get((resource.plural, body["metadata"]["name"]))
        )
        if known is not None and _version(body) <= _version(known):
            return None
        if resource is RL_TRAINING_JOBS:
            body["metadata"].pop("managedFields", None)
            entry.job = body
        else:
            entry.children[(resource.plural, body["metadata"]["name"])] = _SLIM[resource.plural](body)
        return key

    def remove(self, resource: Resource, body: Body) -> Key | None:
        """Forget an object, unless another of the same name has already taken its place."""
        key = job_key(resource, body)
        entry = self._entries.get(key) if key else None
        if key is None or entry is None:
            return None
        uid = body["metadata"].get("uid")
        if resource is RL_TRAINING_JOBS:
            if entry.job is None or entry.job["metadata"].get("uid") != uid:
                return None
            entry.job = None
        else:
            known = entry.children.get((resource.plural, body["metadata"]["name"]))
            if known is None or known["metadata"].get("uid") != uid:
                return None
            del entry.children[(resource.plural, body["metadata"]["name"])]
        if entry.job is None and not entry.children:
            del self._entries[key]
        return key

    def job(self, key: Key) -> Body | None:
        """The RLTrainingJob itself, or None when there is none."""
        entry = self._entries.get(key)
        return entry.job if entry else None

    def jobs(self) -> Iterable[Body]:
        """All RLTrainingJobs."""
        return [entry.job for entry in self._entries.values() if entry.job is not None]

    def child(self, key: Key, resource: Resource, name: str) -> Body | None:
        """One child by kind and name."""
        entry = self._entries.get(key)
        return entry.children.get((resource.plural, name)) if entry else None

    def children(self, key: Key, resource: Resource) -> list[Body]:
        """All children of one kind, in the order of their names."""
        entry = self._entries.get(key)
        if entry is None:
            return []
        return [entry.children[k] for k in sorted(entry.children) if k[0] == resource.plural]

    def known(self, resource: Resource) -> dict[tuple[str, str], Body]:
        """Everything of one kind by (namespace, name): what a resync compares a fresh list with."""
        found: dict[tuple[str, str], Body] = {}
        for entry in self._entries.values():
            bodies = (
                [entry.job]
                if resource is RL_TRAINING_JOBS
                else [body for (plural, _), body in entry.children.items() if plural == resource.plural]
            )
            found |= {(b["metadata"]["namespace"], b["metadata"]["name"]): b for b in bodies if b is not None}
        return found
