"""From nothing to a cluster: records, initializers, the RayCluster; and how the cluster that is there does.

The section "without a cluster" of the table in `decide`.
"""

from __future__ import annotations

from rltrain_api import names
from rltrain_api.fetching import fetches
from rltrain_api.resolve import document_hash, resolved_document
from rltrain_api.status import ConditionType, Failure, Phase, RayClusterReference, ResolvedConfigReference
from rltrain_operator import plan
from rltrain_operator.reconcile import reasons
from rltrain_operator.reconcile.draft import Draft
from rltrain_operator.reconcile.initializing import mirror_initializers
from rltrain_operator.reconcile.state import CreateInitializer, CreateRayCluster, CreateRecords, InitializerState

LEFTOVERS_POLL_SECONDS = 5.0
# No event tells how far a fetch is; its program says it this often.
FETCH_POLL_SECONDS = 15.0


def await_leftovers(draft: Draft, phase: Phase, reason: str) -> bool:
    """Wait for the pods of the cluster before; whether there are any.

    KubeRay tells a cluster's pods by its name alone, so those of the one before would be taken for the next one's.
    """
    left = draft.observed.leftovers
    if not left:
        return False
    some = ", ".join(left[:5]) + (", …" if len(left) > 5 else "")
    message = f"{len(left)} pod(s) of the cluster before are still there: {some}"
    draft.underway(phase, reason, message)
    draft.conditions.set(ConditionType.CLUSTER_READY, False, reason, message)
    draft.look_again(LEFTOVERS_POLL_SECONDS)
    return True


def before_the_cluster(draft: Draft) -> None:
    """The next thing that the cluster needs, and at last the cluster."""
    job = draft.subject.job
    assert job is not None, "a spec that cannot be read has errors and is refused"
    record = draft.old.resolved_config
    if record is None or record.config_map != _record_name(draft):
        # Nothing of the job runs, so an edit needs no leave; the reference goes, and the edited initializers are seen.
        record_spec(draft)
        draft.set(ray_cluster=None)
    # A cluster that somebody deleted is made again; what the initializers prepared is still on the volumes.
    if draft.value("ray_cluster") is not None or _initializers_are_done(draft):
        draft.act(CreateRayCluster())
        draft.set(ray_cluster=_reference(draft))
        message = f"RayCluster {names.ray_cluster_name(job.metadata.name)} is being created"
        draft.underway(Phase.PROVISIONING, reasons.PROVISIONING, message)
        draft.conditions.set(ConditionType.CLUSTER_READY, False, reasons.PROVISIONING, message)


def _reference(draft: Draft) -> RayClusterReference:
    metadata = draft.subject.metadata
    dashboard = f"http://{names.head_service_host(metadata.name, metadata.namespace)}:{names.DASHBOARD_PORT}"
    return RayClusterReference(name=names.ray_cluster_name(metadata.name), dashboard=dashboard)


def record_spec(draft: Draft) -> None:
    """From now on attempts run what the spec says now."""
    job = draft.subject.job
    assert job is not None, "only called for a job that can be read"
    draft.act(CreateRecords())
    digest = document_hash(resolved_document(job))
    record = ResolvedConfigReference(
        config_map=_record_name(draft), hash=digest, spec_hash=plan.spec_hash(job), engines=plan.engines_of(job)
    )
    draft.set(resolved_config=record)


def _record_name(draft: Draft) -> str:
    return names.config_map_name(draft.subject.metadata.name, draft.subject.metadata.generation)


def _initializers_are_done(draft: Draft) -> bool:
    """Whether the cluster may be made; otherwise the draft says which initializer is awaited, or that one failed."""
    job = draft.subject.job
    assert job is not None, "only called for a job that can be read"
    initializers = job.spec.storage.initializers
    if initializers:
        seen = draft.observed.initializers
        draft.set(initializers=mirror_initializers(initializers, seen, draft.old.initializers))
    for number, initializer in enumerate(initializers, start=1):
        view = draft.observed.initializers.get(initializer.name)
        if view is not None and view.state is InitializerState.COMPLETE:
            continue
        where = f"initializer {initializer.name} ({number} of {len(initializers)})"
        if view is not None and view.state is InitializerState.FAILED:
            failure = Failure(
                reason=reasons.INITIALIZER_FAILED,
                role=names.ROLE_INITIALIZER,
                pod=view.pod,
                exit_code=view.exit_code,
                message=f"{where} failed: {view.message or 'no message'}",
                remedy="Put right what it says, delete the job and create it again.",
                time=draft.now,
                attempt=0,
            )
            draft.set(last_failure=failure)
            draft.fail_job(reasons.INITIALIZER_FAILED, failure.message, remedy=failure.remedy)
            return False
        if view is None:
            draft.act(CreateInitializer(initializer.name))
        elif fetches(initializer):
            draft.look_again(FETCH_POLL_SECONDS)
        message = f"{where} runs" + (f": {view.message}" if view is not None and view.message else "")
        draft.underway(Phase.INITIALIZING, reasons.INITIALIZING, message)
        draft.conditions.set(ConditionType.CLUSTER_READY, False, reasons.INITIALIZING, message)
        return False
    return True


def engage_cluster(draft: Draft) -> None:
    """ClusterReady follows the RayCluster; what keeps it from being ready is said pod by pod."""
    cluster = draft.observed.cluster
    assert cluster is not None, "only called with a cluster"
    if draft.value("ray_cluster") is None:  # a crash came between its creation and the status, or a person removed it
        draft.set(ray_cluster=_reference(draft))
    if cluster.ready:
        message = f"head and {cluster.wanted_workers} worker pods are ready"
        draft.conditions.set(ConditionType.CLUSTER_READY, True, reasons.CLUSTER_READY, message)
        return
    if cluster.deleting:
        draft.conditions.set(
            ConditionType.CLUSTER_READY, False, reasons.CLUSTER_DELETED, "the RayCluster is being deleted"
        )
        return
    head = "head ready" if cluster.head_ready else "head not ready"
    head = "head is being deleted" if cluster.head_leaving else head
    message = f"{head}, {cluster.ready_workers} of {cluster.wanted_workers} worker pods ready"
    troubles = cluster.troubles or (() if cluster.head_ready else (cluster.head_message or "no head pod yet",))
    if troubles:
        message += ": " + "; ".join(troubles)
    reason = reasons.CLUSTER_NOT_READY
    if draft.observed.shortfalls:
        reason = reasons.PLACEMENT_DOES_NOT_FIT
        message = f"unless nodes are added, {'; '.join(draft.observed.shortfalls)}. {message}"
    draft.conditions.set(ConditionType.CLUSTER_READY, False, reason, message)
