"""The life of one attempt that nobody wishes to end: submitted, followed, and complete or failed.

The section "an attempt is alive" of the table in `decide`.
"""

from __future__ import annotations

from datetime import timedelta

from rltrain_api import names
from rltrain_api.status import ConditionType, Failure, Phase
from rltrain_api.wire import DriverPhase, DriverStatus
from rltrain_operator.rayjobs import RayJob, RayJobState
from rltrain_operator.reconcile import mirror, reasons
from rltrain_operator.reconcile.draft import Draft
from rltrain_operator.reconcile.failing import fail_attempt, forgive
from rltrain_operator.reconcile.requests import ask_for_checkpoint, note_saved
from rltrain_operator.reconcile.scaling import desired_engines, level_engines, state_engines
from rltrain_operator.reconcile.stall import Pace, judge_pace
from rltrain_operator.reconcile.state import StopDriver, Submit, Unreachable, WriteHistory

POLL_SECONDS = 3.0
SILENCE_LIMIT = timedelta(seconds=60)
LOG_CHARACTERS = 1000


def answer_of(draft: Draft) -> DriverStatus | None:
    """The answer of the present attempt's driver; that of an attempt that is over may not quite have gone yet."""
    driver = draft.observed.driver
    return driver if driver is not None and driver.attempt == draft.attempt else None


def failed_by_itself(draft: Draft) -> bool:
    """Whether the attempt has failed without having been told to stop."""
    ray, driver = draft.observed.ray, answer_of(draft)
    ended = isinstance(ray, RayJob) and ray.state.ended and ray.state is not RayJobState.SUCCEEDED
    return draft.open_stop is None and (ended or (driver is not None and driver.phase is DriverPhase.FAILED))


def come_to_its_end(draft: Draft) -> bool:
    """Follow an attempt that has done all its steps, whatever was wished of it; False where it has not."""
    ray, driver = draft.observed.ray, answer_of(draft)
    succeeded = isinstance(ray, RayJob) and ray.state is RayJobState.SUCCEEDED
    if not succeeded and (driver is None or driver.phase is not DriverPhase.FINISHED):
        return False
    within_attempt(draft)
    return True


def within_attempt(draft: Draft) -> None:
    """See the module's docstring; the draft has a cluster and an attempt that is alive."""
    ray, driver, cluster = draft.observed.ray, answer_of(draft), draft.observed.cluster
    assert cluster is not None, "attempts need a cluster"
    draft.look_again(POLL_SECONDS)
    count_engines(draft, driver)
    submitted = draft.conditions.reason(ConditionType.TRAINING) in reasons.SUBMITTED
    if driver is not None and driver.phase is DriverPhase.FAILED:
        fail_attempt(draft, _reported_failure(driver))
    elif ray is None and not submitted and cluster.head_leaving:
        _unanswered(draft, Unreachable("the head pod is being deleted"))
    elif ray is None and not submitted:
        _submit(draft)
    elif ray is None:
        message = "Ray no longer knows the driver: the head pod was restarted or replaced"
        remedy = "See why the head pod ended (memory, node); the run resumes from its newest checkpoint."
        fail_attempt(draft, Failure(reason=reasons.DRIVER_LOST, role=names.ROLE_HEAD, message=message, remedy=remedy))
    elif isinstance(ray, RayJob) and ray.state is RayJobState.SUCCEEDED:
        if driver is not None:  # upstream's last numbers are in its log, which outlives it
            mirror_driver(draft, driver)
        _complete(draft)
    elif isinstance(ray, RayJob) and ray.state.ended:
        fail_attempt(draft, _exit_failure(ray))
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
        fail_attempt(
            draft,
            Failure(reason=reasons.DRIVER_UNRESPONSIVE, role=names.ROLE_HEAD, message=message, remedy=remedy),
        )
        return
    draft.look_again_at(since + SILENCE_LIMIT)


def _follow(draft: Draft, driver: DriverStatus) -> None:
    """The driver answers: its words become the job's progress, checkpoint, engines and durations."""
    mirror_driver(draft, driver)
    pace = judge_pace(driver, draft.failure_policy.stalled_after_steps)
    if pace.stalled:
        fail_attempt(draft, _stalled(pace))
        return
    was_finished = draft.conditions.reason(ConditionType.TRAINING) == reasons.FINISHED
    # The curve comes first: without it the job is not called finished, and the driver waits for us.
    history = draft.observed.history
    finished = was_finished or (driver.phase is DriverPhase.FINISHED and history is not None)
    if driver.phase is DriverPhase.STARTING:
        message = f"attempt {draft.attempt} loads models and joins its engines"
        draft.underway(Phase.STARTING, reasons.DRIVER_PREPARING, message)
        draft.conditions.set(ConditionType.TRAINING, False, reasons.DRIVER_PREPARING, message)
    else:
        _running(draft, finished, pace.words)
        forgive(draft)
        ask_for_checkpoint(draft, driver)
    if not finished:
        level_engines(draft, driver)
    if was_finished:
        draft.act(StopDriver())
    elif history is not None:
        draft.act(WriteHistory(history))


def mirror_driver(draft: Draft, driver: DriverStatus) -> None:
    """The driver's numbers become the job's."""
    checkpoint = mirror.mirror_checkpoint(driver, draft.old.checkpoint)
    draft.set(
        progress=mirror.mirror_progress(driver, checkpoint),
        checkpoint=checkpoint,
        durations=mirror.mirror_durations(driver, draft.old),
    )
    note_saved(draft, driver)
    if checkpoint is not None:
        message = "a whole checkpoint is there; status.checkpoint has the newest"
        draft.conditions.set(ConditionType.CHECKPOINTED, True, reasons.CHECKPOINT_COMMITTED, message)


def _running(draft: Draft, finished: bool, slow: str) -> None:
    reason = reasons.FINISHED if finished else reasons.TRAINING
    message = f"attempt {draft.attempt} " + ("has done all its steps" if finished else "trains")
    message += f", slowly: {slow}" if slow else ""
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


def count_engines(draft: Draft, driver: DriverStatus | None) -> None:
    """How many engines serve, as a number and as a condition."""
    cluster = draft.observed.cluster
    assert cluster is not None, "attempts need a cluster"
    if not draft.driver_listens:
        message = "SkyRL's trainer does not say how many of its engines serve"
        draft.conditions.set(ConditionType.ENGINES_READY, None, reasons.ENGINES_NOT_TOLD, message)
        return
    wanted = desired_engines(draft)
    desired = cluster.wanted_engines if wanted is None else wanted
    engines = mirror.mirror_engines(draft.subject.metadata.name, desired, driver)
    draft.set(engines=engines)
    state_engines(draft, engines.ready or 0, desired, driver_answers=driver is not None)


def _complete(draft: Draft) -> None:
    message = f"attempt {draft.attempt} finished training"
    draft.leave_training(reasons.COMPLETED, message)
    # Engines that end with their run are no trouble, and must not read like one.
    draft.conditions.set(ConditionType.ENGINES_READY, False, reasons.COMPLETED, message)
    draft.set(phase=Phase.SUCCEEDED, completion_time=draft.now)
    draft.conditions.set(ConditionType.COMPLETE, True, reasons.COMPLETED, message)
    draft.conditions.set(ConditionType.FAILED, False, reasons.COMPLETED)
    draft.conditions.set(ConditionType.READY, True, reasons.COMPLETED, message)
    draft.conditions.set(ConditionType.RECONCILING, False, reasons.COMPLETED)
    draft.conditions.set(ConditionType.STALLED, False, reasons.COMPLETED)
    draft.look_again(draft.ttl_seconds)


def _stalled(pace: Pace) -> Failure:
    return Failure(
        reason=reasons.TRAINING_STALLED,
        role=names.ROLE_HEAD,
        message=f"training hangs: {pace.words}",
        remedy="See what the driver's log ends with, and whether a rank or an engine waits for another; raise "
        "spec.failurePolicy.stalledAfterSteps if such a step is no accident.",
    )


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
