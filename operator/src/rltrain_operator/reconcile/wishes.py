"""What people wish of a job that has a cluster: suspend it, run it as edited, start its driver anew, end it in time.

A wish is read from the spec on every pass and remembered nowhere: it holds until what is there is what is wished. The
foremost wish is carried out first; an attempt that is alive is stopped before (`stopping`).
"""

from __future__ import annotations

from datetime import timedelta

from rltrain_api import names
from rltrain_api.spec.policies import UpdatePolicy
from rltrain_api.status import ConditionType, Failure, Phase, Stop
from rltrain_operator.plan import engines_of, fixed_engines
from rltrain_operator.reconcile import reasons
from rltrain_operator.reconcile.creation import await_leftovers, record_spec
from rltrain_operator.reconcile.draft import Draft
from rltrain_operator.reconcile.edits import Edit, edit
from rltrain_operator.reconcile.requests import note_restart, restart_is_wanted
from rltrain_operator.reconcile.state import DeleteRayCluster
from rltrain_operator.reconcile.stopping import Wish


def foremost_wish(draft: Draft) -> Wish | None:
    """The wish to carry out now; the draft has a cluster."""
    if suspension_is_wanted(draft):
        return Wish(reasons.SUSPENDING, "spec.suspend is true")
    if deadline_is_over(draft):
        return Wish(reasons.ACTIVE_DEADLINE_EXCEEDED, _deadline_words(draft))
    change = edit(draft)
    if change in (Edit.CONFIGURATION, Edit.PODS) and _edits_apply(draft):
        return Wish(reasons.UPDATING, f"the spec was edited ({change.value}){_why_engines_are_fixed(draft)}")
    if restart_is_wanted(draft):
        if draft.attempt_is_alive:
            return Wish(reasons.RESTART_REQUESTED, f"{names.RESTART_REQUEST_ANNOTATION} has a new value")
        note_restart(draft)
    return None


def _why_engines_are_fixed(draft: Draft) -> str:
    """Why an edit of their number stops the run, where it has one."""
    job, record = draft.subject.job, draft.value("resolved_config")
    assert job is not None, "a spec that cannot be read is no edit"
    fixed = fixed_engines(job)
    changed = record.engines is not None and record.engines != engines_of(job)
    return f"; the number of engines cannot change while it runs: {fixed}" if fixed and changed else ""


def carry_out(draft: Draft, wish: Wish) -> None:
    """The wish's own part, once no attempt is alive."""
    match wish.reason:
        case reasons.SUSPENDING:
            _give_cluster_back(draft, Phase.SUSPENDING, reasons.SUSPENDING, "the cluster is being given back")
        case reasons.ACTIVE_DEADLINE_EXCEEDED:
            exceed_deadline(draft)
        case reasons.UPDATING:
            _update(draft)


def _update(draft: Draft) -> None:
    if edit(draft) is Edit.PODS:
        message = "the edited spec asks for other pods: the cluster is replaced"
        _give_cluster_back(draft, Phase.UPDATING, reasons.UPDATING, message)
        return
    record_spec(draft)
    message = f"the run goes on as edited, generation {draft.subject.metadata.generation}"
    draft.underway(Phase.UPDATING, reasons.UPDATING, message)
    draft.look_again(0)


def _give_cluster_back(draft: Draft, phase: Phase, reason: str, message: str) -> None:
    """Delete the cluster; said again until it is gone."""
    cluster = draft.observed.cluster
    assert cluster is not None, "only called with a cluster"
    if not cluster.deleting:
        draft.act(DeleteRayCluster(cluster.uid))
    draft.set(engines=None)
    draft.underway(phase, reason, message)
    draft.conditions.set(ConditionType.CLUSTER_READY, False, reason, message)
    draft.conditions.set(ConditionType.ENGINES_READY, False, reason, message)


def suspension_is_wanted(draft: Draft) -> bool:
    """Whether the job shall be suspended; a spec that cannot be read changes nothing."""
    if draft.spec is None:
        return draft.conditions.is_true(ConditionType.SUSPENDED)
    return draft.spec.suspend


def suspend_without_cluster(draft: Draft) -> None:
    """The job has no cluster and shall have none. An attempt whose cluster somebody deleted is over with it."""
    if draft.attempt_is_alive:
        stop = Stop(attempt=draft.attempt, reason=reasons.SUSPENDING, requested=draft.now, ended=draft.now)
        draft.set(stop=draft.open_stop.model_copy(update={"ended": draft.now}) if draft.open_stop else stop)
        draft.leave_training(reasons.SUSPENDING, "the cluster is gone")
    # Without the reference, going on begins as a new job does: with the record and the initializers of its spec.
    draft.set(ray_cluster=None, engines=None)
    if await_leftovers(draft, Phase.SUSPENDING, reasons.SUSPENDING):
        return
    checkpoint = draft.old.checkpoint
    whence = f"from the checkpoint of step {checkpoint.latest_step}" if checkpoint else "from the beginning"
    message = f"nothing runs; spec.suspend: false lets the job go on {whence}"
    draft.underway(Phase.SUSPENDED, reasons.SUSPENDED, message)
    draft.conditions.set(ConditionType.RECONCILING, False, reasons.SUSPENDED, message)
    draft.conditions.set(ConditionType.SUSPENDED, True, reasons.SUSPENDED, message)
    draft.conditions.set(ConditionType.CLUSTER_READY, False, reasons.SUSPENDED, message)
    draft.conditions.set(ConditionType.ENGINES_READY, False, reasons.SUSPENDED, message)


def note_resumption(draft: Draft) -> None:
    """A job that is not to be suspended is not."""
    if draft.conditions.is_true(ConditionType.SUSPENDED):
        draft.conditions.set(ConditionType.SUSPENDED, False, reasons.RESUMED, "spec.suspend is false")


def deadline_is_over(draft: Draft) -> bool:
    """Whether the job has used up its time; while it has not, the moment is looked at again."""
    seconds = draft.spec.active_deadline_seconds if draft.spec else None
    if seconds is None or draft.old.start_time is None:
        return False
    due = draft.old.start_time + timedelta(seconds=seconds + _suspended_seconds(draft))
    if draft.now < due:
        draft.look_again_at(due)
        return False
    return True


def _suspended_seconds(draft: Draft) -> float:
    """Time that the job has been suspended; it does not count."""
    past = (draft.old.durations or {}).get(Phase.SUSPENDED.value.lower(), 0.0)
    since = draft.old.phase_since
    if draft.old.phase is Phase.SUSPENDED and since is not None:
        past += max(0.0, (draft.now - since).total_seconds())
    return past


def exceed_deadline(draft: Draft) -> None:
    """The job fails; what it has saved stays, and a job of the same name goes on from it."""
    failure = Failure(
        reason=reasons.ACTIVE_DEADLINE_EXCEEDED,
        message=_deadline_words(draft),
        remedy="Delete the job and create it again with more time: it resumes from its newest checkpoint.",
        time=draft.now,
        attempt=draft.attempt,
    )
    draft.set(last_failure=failure)
    draft.fail_job(reasons.ACTIVE_DEADLINE_EXCEEDED, failure.message, remedy=failure.remedy)


def _deadline_words(draft: Draft) -> str:
    seconds = draft.spec.active_deadline_seconds if draft.spec else None
    return f"spec.activeDeadlineSeconds ({seconds} s) are over"


def _edits_apply(draft: Draft) -> bool:
    return draft.spec is not None and draft.spec.update_policy is UpdatePolicy.RESTART_FROM_CHECKPOINT


def state_unapplied_edit(draft: Draft, *, over: bool) -> None:
    """Say of an edit that it changes nothing, and why."""
    if edit(draft) in (Edit.NOTHING, Edit.ENGINES) or (_edits_apply(draft) and not over):
        return
    generation = draft.value("resolved_config").config_map.rsplit("-", 1)[1]
    why = "the job is over" if over else "spec.updatePolicy is Reject"
    how = "" if over else "set spec.updatePolicy to RestartFromCheckpoint, or "
    message = (
        f"the spec was edited, and {why}: the run was that of generation {generation}. To apply the edit, {how}delete "
        "the job and create it again: its checkpoints stay and it resumes from them."
    )
    draft.conditions.set(ConditionType.RECONCILING, True, reasons.EDIT_NOT_APPLIED, message)
