"""A failed attempt: what the failure policy makes of it, and what the status tells of it.

The policy is the one of the spec as it is now. Rules are read from the first; a failure that none matches leads to the
next attempt on the same cluster. Failures count until training goes well again (`forgive`): so a job of many weeks
outlives as many accidents as it has healthy stretches between them, and one that fails over and over ends soon.
"""

from __future__ import annotations

from datetime import timedelta

from rltrain_api import names
from rltrain_api.spec.policies import FailureAction, FailurePolicy, FailureRule
from rltrain_api.status import MESSAGE_MAX_LENGTH, ConditionType, Failure, Phase
from rltrain_operator.rayjobs import RayJob
from rltrain_operator.reconcile import reasons
from rltrain_operator.reconcile.conditions import cut
from rltrain_operator.reconcile.draft import Draft
from rltrain_operator.reconcile.state import PodEnd

FAILURE_MESSAGE_LENGTH = 1500


def fail_attempt(draft: Draft, failure: Failure) -> None:
    """The present attempt is over; another follows, unless the policy says otherwise or has no retry left."""
    policy = draft.failure_policy
    failure = _with_circumstances(draft, failure)
    rule = matching_rule(policy, failure)
    action = policy.rules[rule].action if rule is not None else default_action(failure)
    failures = (draft.old.failures or 0) + (action is not FailureAction.IGNORE)
    failure = failure.model_copy(update={"action": action.value})
    draft.set(last_failure=failure, failures=failures)
    draft.stop_driver_that_may_run()
    told = f"{failure.reason}: {failure.message}"
    if action is FailureAction.FAIL_JOB:
        why = "another would fail alike" if rule is None else f"spec.failurePolicy.rules[{rule}] says {action.value}"
        text = f"attempt {draft.attempt} failed and {why}: {told}"
        draft.fail_job(failure.reason if rule is None else reasons.FAILED_BY_RULE, text, remedy=failure.remedy)
        return
    if failures > policy.backoff_limit and action is not FailureAction.IGNORE:
        text = f"attempt {draft.attempt} failed and spec.failurePolicy.backoffLimit is {policy.backoff_limit}: {told}"
        draft.fail_job(reasons.BACKOFF_LIMIT_EXCEEDED, text, remedy=failure.remedy)
        return
    text = f"attempt {draft.attempt} failed: {told}"
    draft.leave_training(failure.reason, text)
    draft.underway(Phase.RESTARTING, reasons.RESTARTING, text)
    draft.look_again(restart_delay(policy, failures))


def default_action(failure: Failure) -> FailureAction:
    """What a failure leads to that no rule matches."""
    return FailureAction.FAIL_JOB if failure.reason in reasons.FINAL else FailureAction.RESTART_DRIVER


def matching_rule(policy: FailurePolicy, failure: Failure) -> int | None:
    """The number of the first rule that matches, None where none does."""
    return next((number for number, rule in enumerate(policy.rules) if _matches(rule, failure)), None)


def _matches(rule: FailureRule, failure: Failure) -> bool:
    return (
        (not rule.reasons or failure.reason in rule.reasons)
        and (not rule.roles or failure.role in rule.roles)
        and (not rule.exit_codes or failure.exit_code in rule.exit_codes)
    )


def restart_delay(policy: FailurePolicy, failures: int) -> float:
    """Seconds before the next attempt: the first delay, doubled by each further failure that counts."""
    first = policy.restart_delay_seconds
    return float(min(first * 2 ** max(0, failures - 1), max(first, policy.max_restart_delay_seconds)))


def forgive(draft: Draft) -> None:
    """Restore the whole budget once training has gone well for long enough and has something to show for it.

    The newer checkpoint bounds it all: a run that trains for an hour and always fails before it has saved anything
    gets no further retries, and there are at most as many restorations as checkpoints.
    """
    training, failure = draft.conditions.get(ConditionType.TRAINING), draft.old.last_failure
    if not draft.old.failures or failure is None or training is None or training.status != "True":
        return
    checkpoint = draft.value("checkpoint")
    newer = checkpoint is not None and checkpoint.latest_step > (failure.checkpoint_step or 0)
    due = training.last_transition_time + timedelta(seconds=draft.failure_policy.healthy_after_seconds)
    if newer and draft.now >= due:
        draft.set(failures=0)


def _with_circumstances(draft: Draft, failure: Failure) -> Failure:
    """What is known besides what failed: pod, exit code, the log's end, and where the next attempt goes on from."""
    cluster, checkpoint, ray = draft.observed.cluster, draft.old.checkpoint, draft.observed.ray
    assert cluster is not None, "attempts need a cluster"
    known: dict[str, object] = {
        "attempt": draft.attempt,
        "time": draft.now,
        "cluster_uid": cluster.uid,
        "checkpoint_step": checkpoint.latest_step if checkpoint is not None else None,
    }
    message, ended = failure.message, _newest_end(draft, failure)
    if ended is not None:
        known["pod"] = ended.pod
        # The driver's own exit code is known from Ray; that of the pod it ran in is another thing.
        known["exit_code"] = failure.exit_code if failure.exit_code is not None else ended.exit_code
        message += f"; pod {ended.pod} ended: {ended.reason}, exit code {ended.exit_code}"
    elif failure.role == names.ROLE_HEAD:
        known["pod"] = cluster.head_pod
    if isinstance(ray, RayJob) and ray.log_tail:
        known["log"] = ray.log_tail[-MESSAGE_MAX_LENGTH:]
    known["message"] = cut(message, FAILURE_MESSAGE_LENGTH)
    return failure.model_copy(update=known)


def _newest_end(draft: Draft, failure: Failure) -> PodEnd | None:
    """The last container of the failure's role that ended badly in this attempt."""
    cluster, began = draft.observed.cluster, draft.old.attempt_start_time
    assert cluster is not None, "attempts need a cluster"
    own = [end for end in cluster.ends if end.role == failure.role and (began is None or end.time >= began)]
    return max(own, key=lambda end: end.time, default=None)
