"""Between two attempts, and before the first: what the next one waits for, its number and its id.

The section "no attempt is alive" of the table in `decide`.
"""

from __future__ import annotations

from datetime import timedelta

from rltrain_api import names
from rltrain_api.spec.policies import FailureAction
from rltrain_api.status import ConditionType, Phase
from rltrain_operator.reconcile import reasons
from rltrain_operator.reconcile.attempt import POLL_SECONDS, count_engines
from rltrain_operator.reconcile.creation import record_spec
from rltrain_operator.reconcile.draft import Draft
from rltrain_operator.reconcile.edits import Edit, edit
from rltrain_operator.reconcile.failing import restart_delay
from rltrain_operator.reconcile.scaling import resize_between_attempts
from rltrain_operator.reconcile.state import DeleteRayCluster, StopRayJob, Unreachable


def between_attempts(draft: Draft) -> None:
    """See the module's docstring; the draft has a cluster."""
    cluster = draft.observed.cluster
    assert cluster is not None, "attempts need a cluster"
    count_engines(draft, None)
    awaited = _awaited_before_next(draft)
    if awaited is None:
        _plan_attempt(draft)
        return
    if draft.attempt == 0:
        draft.underway(Phase.PROVISIONING, reasons.PROVISIONING, awaited)
    else:
        phase = draft.old.phase if draft.old.phase is Phase.UPDATING else Phase.RESTARTING
        draft.underway(phase, reasons.RESTARTING, f"before attempt {draft.attempt + 1}: {awaited}")
    draft.wait_until_deadline(awaited)


def _awaited_before_next(draft: Draft) -> str | None:
    """What the next attempt still has to wait for, or None when it can begin."""
    cluster, failure = draft.observed.cluster, draft.old.last_failure
    assert cluster is not None, "attempts need a cluster"
    if failure is not None and failure.attempt == draft.attempt and failure.time is not None:
        if failure.action == FailureAction.RESTART_CLUSTER and failure.cluster_uid == cluster.uid:
            if not cluster.deleting:
                draft.act(DeleteRayCluster(cluster.uid))
            return f"a new cluster, because of {failure.reason}"
        seconds = restart_delay(draft.failure_policy, draft.old.failures or 0)
        due = failure.time + timedelta(seconds=seconds)
        if draft.attempt > 0 and draft.now < due:
            draft.look_again_at(due)
            return f"{seconds:g} s after {failure.reason} (spec.failurePolicy.restartDelaySeconds)"
    resizing = resize_between_attempts(draft)
    if resizing is not None:
        draft.look_again(POLL_SECONDS)
        return resizing
    if not cluster.ready:
        condition = draft.conditions.get(ConditionType.CLUSTER_READY)
        draft.look_again(POLL_SECONDS if draft.attempt else POLL_SECONDS * 10)
        return condition.message if condition else "the cluster"
    if draft.attempt > 0 and draft.old.submission_id is not None:
        draft.look_again(POLL_SECONDS)
        ray = draft.observed.ray
        if isinstance(ray, Unreachable):
            return f"Ray's Jobs API ({ray.message})"
        if ray is not None and not ray.state.ended:
            draft.act(StopRayJob(draft.old.submission_id))
            return f"the driver of attempt {draft.attempt} to end"
    return None


def _plan_attempt(draft: Draft) -> None:
    """The number and the id go into the status first; the next pass submits under them."""
    metadata = draft.subject.metadata
    attempt = draft.attempt + 1
    if edit(draft) is Edit.ENGINES:
        record_spec(draft)
    draft.set(
        attempt=attempt,
        submission_id=names.submission_id(metadata.name, metadata.uid, attempt),
        attempt_start_time=draft.now,
    )
    message = f"attempt {attempt} is about to be submitted"
    draft.underway(Phase.STARTING, reasons.ATTEMPT_PLANNED, message)
    draft.conditions.set(ConditionType.TRAINING, False, reasons.ATTEMPT_PLANNED, message)
    draft.look_again(0)
