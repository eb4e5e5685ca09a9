"""The decision: what a job needs next. Pure; the first row that fits is taken.

    #   the job is …                                   actions                        status afterwards
    1   being deleted, or managed by somebody else     none                           unchanged
    2   Complete or Failed, cluster there, TTL over    DeleteRayCluster               unchanged
    3   Complete or Failed                             none                           unchanged, look again at the TTL
    4   invalid, no cluster                            none                           ConfigValid=False, Stalled
    5   kept from creating something                   none, again in 30 s            Stalled, if it will not pass
    --  without a cluster: see `creation` and `wishes`
    6   wished to be suspended                         none                           Suspended
    7   its time is over                               none                           Failed: ActiveDeadlineExceeded
    8   left with pods of the cluster before           none, again in 5 s             Suspending, Updating, …: waits
    9   new, or edited since its record                CreateRecords, then as 10-12   resolvedConfig
    10  valid, initializer i has no batch Job          CreateInitializer(i)           Initializing i of n
    11  valid, initializer i runs / has failed         none (a fetch: again in 15 s)  Initializing i of n / Failed
    12  valid, initializers complete                   CreateRayCluster               Provisioning
    --  with a cluster; ClusterReady follows it, and a record that a crash has lost is made again
    --  held back by Kueue: none, Queued; an attempt that ran is over and has not failed: see `queueing`
    --  an attempt is alive and nothing is wished of it, or it has failed before it was asked to stop: see `attempt`
    13  never submitted, unknown to Ray                Submit(n)                      DriverStarting
    14  submitted, unknown to Ray                      none                           attempt failed: DriverLost
    15  driver answers                                 WriteHistory when fetched      mirrors the driver
    16  driver answers, a checkpoint is asked for      RequestCheckpoint              handled, once it is committed
    17  driver has finished                            WriteHistory, then StopDriver  Finished
    18  driver reports its failure                     StopRayJob                     attempt failed: its reason
    19  driver silent for 60 s                         StopRayJob                     attempt failed: DriverUnresponsive
    20  driver hangs in a step                         StopRayJob                     attempt failed: TrainingStalled
    21  driver not heard of in time                    StopRayJob                     Failed: StartupDeadlineExceeded
    22  succeeded                                      none                           Complete
    23  failed or stopped by somebody                  none                           attempt failed: DriverFailed, …
    --  an attempt is alive and wished to end: see `stopping`. Wishes, foremost first: suspend, activeDeadlineSeconds,
        an edit, a restart
    24  not told yet                                   none, again at once            stop: why and since when
    25  told, and has come to its end first            as 17, 22                      as 17, 22
    26  told, still runs                               StopDriver with a checkpoint   Suspending, Updating, Restarting
    27  told (by us, its pods, a person), has ended    none, again at once            the attempt is over, no failure
    28  told, still runs after the grace period        StopRayJob, again at once      the attempt is over, no failure
    --  no attempt is alive and something is wished: see `wishes`
    29  suspension                                     DeleteRayCluster               Suspending
    30  its time is over                               none                           Failed: ActiveDeadlineExceeded
    31  edited, asks for other pods                    DeleteRayCluster               Updating
    32  edited, the same pods will do                  CreateRecords, again at once   Updating: resolvedConfig
    33  restart                                        as 34-38                       handled
    --  no attempt is alive: see `between`
    34  failed, RestartCluster, still the old cluster  DeleteRayCluster               Restarting
    35  failed, delay not over                         none                           Restarting
    36  cluster not ready                              none                           Provisioning, … (deadline: Failed)
    37  over, its driver still runs                    StopRayJob                     Restarting
    38  cluster ready                                  none, again at once            attempt n+1 and its id
    --  the number of engines alone is another, and may change while the run goes on: besides 15 and 34-38, `scaling`
    39  trains, fewer pods than engines wanted         ResizeEngines                  Reconciling: ScalingEngines
    40  trains, pods are ready, or engines too many    WantEngines(n)                 Reconciling: ScalingEngines
    41  trains, drained, more pods than engines        ResizeEngines naming pods      Reconciling: ScalingEngines
    42  trains, pods did not come in time              none                           EnginesReady: EnginesNotAvailable
    43  no attempt is alive, another number of pods    ResizeEngines                  as 36
    44  as 38                                          CreateRecords                  as 38: resolvedConfig

"Attempt failed" is `failing`: Restarting, or Failed where a rule of the failure policy or its backoffLimit says so. A
number is in the status before the deed that bears it (38 before 13), a wish before the driver hears of it (24 before
26), and an attempt is submitted under one id, so a crash between any two lines repeats a line at most. An edit that is
not applied (updatePolicy: Reject, or the job is over) is told besides whatever row is taken.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from rltrain_api.status import ConditionType, Phase
from rltrain_operator.reconcile import reasons, wishes
from rltrain_operator.reconcile.attempt import failed_by_itself, within_attempt
from rltrain_operator.reconcile.between import between_attempts
from rltrain_operator.reconcile.creation import await_leftovers, before_the_cluster, engage_cluster, record_spec
from rltrain_operator.reconcile.draft import Draft
from rltrain_operator.reconcile.queueing import has_no_quota, waits_for_quota
from rltrain_operator.reconcile.state import Blocked, Decision, DeleteRayCluster, Observed, Subject
from rltrain_operator.reconcile.stopping import note_stop_by_others, stop_attempt, stopped_by_others

BLOCKED_RETRY_SECONDS = 30.0
PASSING_RETRY_SECONDS = 2.0


def decide(subject: Subject, observed: Observed, now: datetime) -> Decision:
    """See the table above."""
    if subject.metadata.deleting or subject.managed_elsewhere:
        return Decision(actions=(), status=subject.status)
    draft = Draft(subject, observed, now)
    if draft.conditions.is_true(ConditionType.COMPLETE) or draft.conditions.is_true(ConditionType.FAILED):
        _after_the_end(draft)
        return draft.finish()
    suspended = wishes.suspension_is_wanted(draft)
    if subject.errors and observed.cluster is None and not suspended:
        _refuse(draft)
        return draft.finish()
    _state_validity(draft)
    if not suspended:
        wishes.note_resumption(draft)
    if observed.blocked is not None:
        _held_up(draft, observed.blocked)
    elif observed.cluster is None:
        _without_cluster(draft, suspended)
    else:
        _with_cluster(draft)
    if observed.cluster is not None:
        wishes.state_unapplied_edit(draft, over=False)
    return draft.finish()


def _without_cluster(draft: Draft, suspended: bool) -> None:
    has_no_quota(draft, "there is no cluster that could have quota")
    if suspended:
        wishes.suspend_without_cluster(draft)
    elif wishes.deadline_is_over(draft):
        wishes.exceed_deadline(draft)
    elif not await_leftovers(draft, _phase_of_waiting(draft), reasons.PODS_LEAVING):
        before_the_cluster(draft)


def _phase_of_waiting(draft: Draft) -> Phase:
    if draft.old.phase is Phase.UPDATING:
        return Phase.UPDATING
    return Phase.RESTARTING if draft.attempt else Phase.PROVISIONING


def _with_cluster(draft: Draft) -> None:
    engage_cluster(draft)
    if draft.old.resolved_config is None and draft.subject.job is not None:
        record_spec(draft)
    wish = wishes.foremost_wish(draft)
    if waits_for_quota(draft) and (wish is None or draft.attempt_is_alive):
        return
    if draft.attempt_is_alive:
        if stopped_by_others(draft):
            note_stop_by_others(draft)
        elif draft.open_stop is None and (wish is None or failed_by_itself(draft)):
            within_attempt(draft)
        else:
            stop_attempt(draft, wish)
    elif wish is not None:
        wishes.carry_out(draft, wish)
    else:
        between_attempts(draft)


def _refuse(draft: Draft) -> None:
    errors = draft.subject.errors
    message = f"{len(errors)} error(s), nothing is created: " + "; ".join(str(error) for error in errors)
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


def _after_the_end(draft: Draft) -> None:
    if draft.conditions.is_true(ConditionType.RECONCILING):
        draft.conditions.set(ConditionType.RECONCILING, False, reasons.SETTLED)
    wishes.state_unapplied_edit(draft, over=True)
    cluster, ended = draft.observed.cluster, draft.old.completion_time
    if cluster is None or cluster.deleting or ended is None:
        return
    due = ended + timedelta(seconds=draft.ttl_seconds)
    if draft.now >= due:
        draft.act(DeleteRayCluster(cluster.uid))
        draft.look_again(BLOCKED_RETRY_SECONDS)
    else:
        draft.look_again_at(due)
