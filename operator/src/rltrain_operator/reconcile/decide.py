"""The decision: what a job needs next. Pure; the first row that fits is taken.

    #   the job is …                                   actions                        status afterwards
    1   being deleted                                  none                           unchanged
    2   Complete or Failed, cluster there, TTL over    DeleteRayCluster               unchanged
    3   Complete or Failed                             none                           unchanged, look again at the TTL
    4   invalid, no cluster                            none                           ConfigValid=False, Stalled
    5   kept from creating something                   none, again in 30 s            Stalled, if it will not pass
    6   new, or edited before its cluster              CreateRecords, then as 7-9     resolvedConfig
    7   valid, initializer i has no batch Job          CreateInitializer(i)           Initializing i of n
    8   valid, initializer i runs / has failed         none                           Initializing i of n / Failed
    9   valid, initializers complete, no cluster       CreateRayCluster               Provisioning
    --  with a cluster: see `attempt`                  …                              ClusterReady follows the cluster
    10  no attempt yet, cluster not ready              none                           Provisioning (deadline: Failed)
    11  no attempt yet, cluster ready                  none, again at once            attempt 1 and its id
    12  attempt n, never submitted, unknown to Ray     Submit(n)                      DriverStarting
    13  attempt n, submitted, unknown to Ray           none                           attempt failed: DriverLost
    14  attempt n pending or running, driver answers   WriteHistory when fetched      mirrors the driver
    15  attempt n running, driver finished             WriteHistory, then StopDriver  Finished
    16  attempt n, driver reports its failure          StopRayJob                     attempt failed: its reason
    17  attempt n, driver silent for 60 s              StopRayJob                     attempt failed: DriverUnresponsive
    18  attempt n succeeded                            none                           Complete
    19  attempt n failed or stopped                    none                           attempt failed: DriverFailed, …
    20  attempt n failed, retries left, delay not over none                           Restarting
    21  attempt n failed, its driver still runs        StopRayJob                     Restarting
    22  attempt n failed, delay over, cluster ready    none, again at once            attempt n+1 and its id
    23  attempt n failed, n > backoffLimit             as the failure's               Failed, Stalled

"Attempt failed" is row 23 when no retry is left. A number is in the status before the deed that bears it (11 before 12,
22 before 12), and an attempt is submitted under one id, so a crash between any two lines repeats a line at most.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from rltrain_api import names
from rltrain_api.job import RLTrainingJob
from rltrain_api.resolve import document_hash, resolved_document
from rltrain_api.status import ConditionType, Failure, Phase, RayClusterReference, ResolvedConfigReference
from rltrain_operator.plan import cluster_hash
from rltrain_operator.reconcile import reasons
from rltrain_operator.reconcile.attempt import decide_attempt
from rltrain_operator.reconcile.draft import Draft
from rltrain_operator.reconcile.state import (
    Blocked,
    CreateInitializer,
    CreateRayCluster,
    CreateRecords,
    Decision,
    DeleteRayCluster,
    InitializerState,
    Observed,
    Subject,
)

BLOCKED_RETRY_SECONDS = 30.0
PASSING_RETRY_SECONDS = 2.0


def decide(subject: Subject, observed: Observed, now: datetime) -> Decision:
    """See the table above."""
    if subject.metadata.deleting:
        return Decision(actions=(), status=subject.status)
    draft = Draft(subject, observed, now)
    if draft.conditions.is_true(ConditionType.COMPLETE) or draft.conditions.is_true(ConditionType.FAILED):
        _after_the_end(draft)
        return draft.finish()
    if subject.errors and observed.cluster is None:
        _refuse(draft)
        return draft.finish()
    _state_validity(draft)
    if observed.blocked is not None:
        _held_up(draft, observed.blocked)
    elif observed.cluster is None:
        _before_the_cluster(draft)
    else:
        _engage_cluster(draft)
        decide_attempt(draft)
    _state_unapplied_edit(draft)
    return draft.finish()


def _refuse(draft: Draft) -> None:
    errors = draft.subject.errors
    message = f"{len(errors)} error(s), nothing was created: " + "; ".join(str(error) for error in errors)
    draft.conditions.set(ConditionType.CONFIG_VALID, False, reasons.INVALID_SPEC, message)
    draft.underway(Phase.PENDING, reasons.INVALID_SPEC, message)
    draft.conditions.set(ConditionType.RECONCILING, False, reasons.INVALID_SPEC)
    draft.conditions.set(ConditionType.STALLED, True, reasons.INVALID_SPEC, message)


def _state_validity(draft: Draft) -> None:
    errors = draft.subject.errors
    if not errors:
        draft.conditions.set(ConditionType.CONFIG_VALID, True, reasons.VALID, "the spec is valid")
        return
    listed = "; ".join(str(error) for error in errors)
    message = f"the edited spec is invalid and not applied; the run goes on as it began: {listed}"
    draft.conditions.set(ConditionType.CONFIG_VALID, False, reasons.INVALID_EDIT, message)


def _held_up(draft: Draft, blocked: Blocked) -> None:
    draft.underway(draft.old.phase or Phase.PENDING, blocked.reason, blocked.message)
    if draft.observed.cluster is None:
        draft.conditions.set(ConditionType.CLUSTER_READY, False, blocked.reason, blocked.message)
    if blocked.passing:
        draft.look_again(PASSING_RETRY_SECONDS)
        return
    draft.conditions.set(ConditionType.STALLED, True, blocked.reason, blocked.message)
    draft.look_again(BLOCKED_RETRY_SECONDS)


def _before_the_cluster(draft: Draft) -> None:
    job = draft.subject.job
    assert job is not None, "a spec that cannot be read has errors and is refused"
    record = draft.old.resolved_config
    wanted = names.config_map_name(job.metadata.name, job.metadata.generation)
    had_cluster = draft.old.ray_cluster is not None
    if record is None or (record.config_map != wanted and not had_cluster):
        draft.act(CreateRecords())
        digest = document_hash(resolved_document(job))
        draft.set(resolved_config=ResolvedConfigReference(config_map=wanted, hash=digest))
    # A cluster that somebody deleted is made again; what the initializers prepared is still on the volumes.
    if had_cluster or _initializers_are_done(draft):
        draft.act(CreateRayCluster())
        draft.spent("initializing", draft.old.start_time or draft.now)
        cluster_name = names.ray_cluster_name(job.metadata.name)
        host = names.head_service_host(job.metadata.name, job.metadata.namespace)
        dashboard = f"http://{host}:{names.DASHBOARD_PORT}"
        draft.set(ray_cluster=RayClusterReference(name=cluster_name, dashboard=dashboard))
        message = f"RayCluster {cluster_name} is being created"
        draft.underway(Phase.PROVISIONING, reasons.PROVISIONING, message)
        draft.conditions.set(ConditionType.CLUSTER_READY, False, reasons.PROVISIONING, message)


def _initializers_are_done(draft: Draft) -> bool:
    """Whether the cluster may be made; otherwise the draft says which initializer is awaited, or that one failed."""
    job = draft.subject.job
    assert job is not None, "only called for a job that can be read"
    initializers = job.spec.storage.initializers
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
        message = f"{where} runs" + (f": {view.message}" if view is not None and view.message else "")
        draft.underway(Phase.INITIALIZING, reasons.INITIALIZING, message)
        draft.conditions.set(ConditionType.CLUSTER_READY, False, reasons.INITIALIZING, message)
        return False
    return True


def _engage_cluster(draft: Draft) -> None:
    """ClusterReady follows the RayCluster; what keeps it from being ready is said pod by pod."""
    cluster = draft.observed.cluster
    assert cluster is not None, "only called with a cluster"
    if cluster.ready:
        if not draft.conditions.is_true(ConditionType.CLUSTER_READY):
            draft.spent("provisioning", cluster.created)
        message = f"head and {cluster.wanted_workers} worker pods are ready"
        draft.conditions.set(ConditionType.CLUSTER_READY, True, reasons.CLUSTER_READY, message)
        return
    if cluster.deleting:
        draft.conditions.set(
            ConditionType.CLUSTER_READY, False, reasons.CLUSTER_DELETED, "the RayCluster is being deleted"
        )
        return
    head = "head ready" if cluster.head_ready else "head not ready"
    message = f"{head}, {cluster.ready_workers} of {cluster.wanted_workers} worker pods ready"
    troubles = cluster.troubles or (() if cluster.head_ready else (cluster.head_message or "no head pod yet",))
    if troubles:
        message += ": " + "; ".join(troubles)
    draft.conditions.set(ConditionType.CLUSTER_READY, False, reasons.CLUSTER_NOT_READY, message)


def _state_unapplied_edit(draft: Draft) -> None:
    """An edit after the cluster was made is not applied in this release, and says so."""
    job, record = draft.subject.job, draft.value("resolved_config")
    if job is None or record is None or draft.subject.errors or draft.old.ray_cluster is None:
        return
    if not _is_edited(draft, job, record):
        return
    generation = record.config_map.rsplit("-", 1)[1]
    message = (
        f"the spec was edited after the cluster was created; the run keeps generation {generation}. "
        "To apply the edit, delete the job and create it again: its checkpoints stay and it resumes from them."
    )
    draft.conditions.set(ConditionType.RECONCILING, True, reasons.EDIT_NOT_APPLIED, message)


def _is_edited(draft: Draft, job: RLTrainingJob, record: ResolvedConfigReference) -> bool:
    """Whether the spec asks for another run than the one there is; policies, which apply at once, do not count."""
    if record.config_map == names.config_map_name(job.metadata.name, job.metadata.generation):
        return False
    if document_hash(resolved_document(job)) != record.hash:
        return True
    cluster = draft.observed.cluster
    return cluster is not None and cluster_hash(job) != cluster.spec_hash


def _after_the_end(draft: Draft) -> None:
    if draft.conditions.is_true(ConditionType.RECONCILING):
        draft.conditions.set(ConditionType.RECONCILING, False, reasons.SETTLED)
    _state_unapplied_edit(draft)
    cluster, ended = draft.observed.cluster, draft.old.completion_time
    if cluster is None or cluster.deleting or ended is None:
        return
    due = ended + timedelta(seconds=draft.ttl_seconds)
    if draft.now >= due:
        draft.act(DeleteRayCluster(cluster.uid))
        draft.look_again(BLOCKED_RETRY_SECONDS)
    else:
        draft.look_again_at(due)
