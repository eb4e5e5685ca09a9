"""The part of the decision that begins when the cluster is there: attempts of the driver, one after the other.

Rows 10 to 23 of the table in `decide`.
"""

from __future__ import annotations

from datetime import timedelta

from rltrain_api import names
from rltrain_api.status import ConditionType, Failure, Phase
from rltrain_api.wire import DriverPhase, DriverStatus
from rltrain_operator.rayjobs import RayJob, RayJobState
from rltrain_operator.reconcile import mirror, reasons
from rltrain_operator.reconcile.draft import Draft
from rltrain_operator.reconcile.state import StopDriver, StopRayJob, Submit, Unreachable, WriteHistory

POLL_SECONDS = 3.0
SILENCE_LIMIT = timedelta(seconds=60)
LOG_CHARACTERS = 1000


def decide_attempt(draft: Draft) -> None:
    """See the module's docstring; the draft has a cluster."""
    if draft.attempt == 0 or draft.attempt_is_over:
        _between_attempts(draft)
    else:
        _within_attempt(draft)


def _between_attempts(draft: Draft) -> None:
    cluster = draft.observed.cluster
    assert cluster is not None, "attempts need a cluster"
    _count_engines(draft, None)
    awaited = _awaited_before_next(draft)
    if awaited is None:
        _plan_attempt(draft)
        return
    if draft.attempt == 0:
        draft.underway(Phase.PROVISIONING, reasons.PROVISIONING, awaited)
    else:
        draft.underway(Phase.RESTARTING, reasons.RESTARTING, f"before attempt {draft.attempt + 1}: {awaited}")
    draft.wait_until_deadline(awaited)


def _awaited_before_next(draft: Draft) -> str | None:
    """What the next attempt still has to wait for, or None when it can begin."""
    cluster, failure = draft.observed.cluster, draft.old.last_failure
    assert cluster is not None, "attempts need a cluster"
    if draft.attempt > 0 and failure is not None and failure.time is not None:
        due = failure.time + timedelta(seconds=draft.failure_policy.restart_delay_seconds)
        if draft.now < due:
            draft.look_again_at(due)
            return f"restartDelaySeconds after {failure.reason}"
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
    draft.set(
        attempt=attempt,
        submission_id=names.submission_id(metadata.name, metadata.uid, attempt),
        attempt_start_time=draft.now,
    )
    message = f"attempt {attempt} is about to be submitted"
    draft.underway(Phase.STARTING, reasons.ATTEMPT_PLANNED, message)
    draft.conditions.set(ConditionType.TRAINING, False, reasons.ATTEMPT_PLANNED, message)
    draft.look_again(0)


def _within_attempt(draft: Draft) -> None:
    ray, driver = draft.observed.ray, draft.observed.driver
    if driver is not None and driver.attempt != draft.attempt:
        driver = None  # the driver of an attempt that is over has not quite gone yet
    draft.look_again(POLL_SECONDS)
    _count_engines(draft, driver)
    submitted = draft.conditions.reason(ConditionType.TRAINING) in reasons.SUBMITTED
    if driver is not None and driver.phase is DriverPhase.FAILED:
        draft.fail_attempt(_reported_failure(driver))
    elif ray is None and not submitted:
        _submit(draft)
    elif ray is None:
        message = "Ray no longer knows the driver: the head pod was restarted or replaced"
        remedy = "See why the head pod ended (memory, node); the run resumes from its newest checkpoint."
        draft.fail_attempt(Failure(reason=reasons.DRIVER_LOST, role=names.ROLE_HEAD, message=message, remedy=remedy))
    elif isinstance(ray, RayJob) and ray.state is RayJobState.SUCCEEDED:
        _complete(draft)
    elif isinstance(ray, RayJob) and ray.state.ended:
        draft.fail_attempt(_exit_failure(ray))
    elif driver is not None:
        _follow(draft, driver)
    else:
        _unanswered(draft, ray)


def _submit(draft: Draft) -> None:
    record, submission_id = draft.old.resolved_config, draft.old.submission_id
    assert record is not None, "the configuration is recorded before the cluster is made"
    assert submission_id is not None, "an attempt has its id from the moment it is planned"
    draft.act(Submit(draft.attempt, submission_id, record.config_map))
    message = f"attempt {draft.attempt} was submitted as {submission_id}"
    draft.underway(Phase.STARTING, reasons.DRIVER_STARTING, message)
    draft.conditions.set(ConditionType.TRAINING, False, reasons.DRIVER_STARTING, message)


def _unanswered(draft: Draft, ray: RayJob | Unreachable) -> None:
    """The driver does not answer: a slow start before its first answer, a failure some time after."""
    how = ray.message if isinstance(ray, Unreachable) else f"Ray says {ray.state.value}"
    if draft.conditions.reason(ConditionType.TRAINING) not in reasons.ANSWERED:
        message = f"the driver of attempt {draft.attempt} has not answered yet ({how})"
        # A submission that Ray has is noted at once: from then on Ray not knowing it means that it was lost.
        submitted = isinstance(ray, RayJob)
        known = draft.conditions.reason(ConditionType.TRAINING)
        reason = reasons.DRIVER_STARTING if submitted else known or reasons.ATTEMPT_PLANNED
        draft.underway(Phase.STARTING, reason, message)
        draft.conditions.set(ConditionType.TRAINING, False, reason, message)
        draft.wait_until_deadline(message)
        return
    since = draft.observed.driver_silent_since or draft.now
    if draft.now - since >= SILENCE_LIMIT:
        seconds = int(SILENCE_LIMIT.total_seconds())
        message = f"the driver has not answered for {seconds} s ({how})"
        remedy = "Look at the head pod and at the driver's log; the run resumes from its newest checkpoint."
        draft.fail_attempt(
            Failure(reason=reasons.DRIVER_UNRESPONSIVE, role=names.ROLE_HEAD, message=message, remedy=remedy)
        )
        return
    draft.look_again_at(since + SILENCE_LIMIT)


def _follow(draft: Draft, driver: DriverStatus) -> None:
    """The driver answers: its words become the job's progress, checkpoint, engines and durations."""
    checkpoint = mirror.mirror_checkpoint(driver, draft.old.checkpoint)
    was_finished = draft.conditions.reason(ConditionType.TRAINING) == reasons.FINISHED
    # The curve comes first: without it the job is not called finished, and the driver waits for us.
    history = draft.observed.history
    finished = was_finished or (driver.phase is DriverPhase.FINISHED and history is not None)
    draft.set(
        progress=mirror.mirror_progress(driver, checkpoint),
        checkpoint=checkpoint,
        durations=mirror.mirror_durations(driver, draft.old),
    )
    if checkpoint is not None:
        message = "a whole checkpoint is there; status.checkpoint has the newest"
        draft.conditions.set(ConditionType.CHECKPOINTED, True, reasons.CHECKPOINT_COMMITTED, message)
    if driver.phase is DriverPhase.STARTING:
        message = f"attempt {draft.attempt} loads models and joins its engines"
        draft.underway(Phase.STARTING, reasons.DRIVER_PREPARING, message)
        draft.conditions.set(ConditionType.TRAINING, False, reasons.DRIVER_PREPARING, message)
    else:
        _running(draft, finished)
    if was_finished:
        draft.act(StopDriver())
    elif history is not None:
        draft.act(WriteHistory(history))


def _running(draft: Draft, finished: bool) -> None:
    if not draft.conditions.is_true(ConditionType.TRAINING):
        draft.spent("starting", draft.old.attempt_start_time)
    reason = reasons.FINISHED if finished else reasons.TRAINING
    message = f"attempt {draft.attempt} " + ("has done all its steps" if finished else "trains")
    draft.conditions.set(ConditionType.TRAINING, True, reason, message)
    draft.set(phase=Phase.RUNNING)
    draft.conditions.set(ConditionType.RECONCILING, False, reasons.SETTLED)
    draft.conditions.set(ConditionType.STALLED, False, reasons.SETTLED)
    cluster = draft.conditions.get(ConditionType.CLUSTER_READY)
    if cluster is not None and cluster.status == "True":
        draft.conditions.set(ConditionType.READY, True, reason, message)
    else:
        trouble = cluster.message if cluster else ""
        draft.conditions.set(ConditionType.READY, False, reasons.CLUSTER_NOT_READY, f"{message}, but: {trouble}")


def _count_engines(draft: Draft, driver: DriverStatus | None) -> None:
    cluster = draft.observed.cluster
    assert cluster is not None, "attempts need a cluster"
    draft.set(engines=mirror.mirror_engines(draft.subject.metadata.name, cluster.wanted_engines, driver))


def _complete(draft: Draft) -> None:
    message = f"attempt {draft.attempt} finished training"
    draft.leave_training(reasons.COMPLETED, message)
    draft.set(phase=Phase.SUCCEEDED, completion_time=draft.now)
    draft.conditions.set(ConditionType.COMPLETE, True, reasons.COMPLETED, message)
    draft.conditions.set(ConditionType.FAILED, False, reasons.COMPLETED)
    draft.conditions.set(ConditionType.READY, True, reasons.COMPLETED, message)
    draft.conditions.set(ConditionType.RECONCILING, False, reasons.COMPLETED)
    draft.conditions.set(ConditionType.STALLED, False, reasons.COMPLETED)
    draft.look_again(draft.ttl_seconds)


def _reported_failure(driver: DriverStatus) -> Failure:
    error = driver.error
    if error is None:
        return Failure(reason=reasons.DRIVER_FAILED, role=names.ROLE_HEAD, message=driver.message or "no message")
    return Failure(
        reason=error.reason or reasons.DRIVER_FAILED,
        role=error.role or names.ROLE_HEAD,
        message=error.message,
        remedy=error.remedy,
    )


def _exit_failure(ray: RayJob) -> Failure:
    stopped = ray.state is RayJobState.STOPPED
    # Ray's message holds the log too, the oldest lines first; what a person needs is its end.
    message = "somebody stopped the driver" if stopped else f"the driver ended with exit code {ray.exit_code}"
    message += f"; its log ends: {(ray.log_tail or ray.message)[-LOG_CHARACTERS:].strip() or 'nothing'}"
    return Failure(
        reason=reasons.DRIVER_STOPPED if stopped else reasons.DRIVER_FAILED,
        role=names.ROLE_HEAD,
        exit_code=ray.exit_code,
        message=message,
        remedy="See the driver's log; the run resumes from its newest checkpoint.",
    )
