"""A decision in the making: the status as it will be and the actions so far.

It lives for the length of one `decide` call; the stages of a job's life write into it.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from rltrain_api.job import Spec
from rltrain_api.spec.policies import FailurePolicy
from rltrain_api.status import ConditionType, Failure, Phase, Status
from rltrain_operator.rayjobs import RayJob
from rltrain_operator.reconcile import reasons
from rltrain_operator.reconcile.conditions import Conditions, cut
from rltrain_operator.reconcile.state import Action, Decision, Observed, StopRayJob, Subject, Unreachable

FAILURE_MESSAGE_LENGTH = 1500


class Draft:
    """See the module's docstring. `now` is the only clock."""

    def __init__(self, subject: Subject, observed: Observed, now: datetime) -> None:
        self.subject = subject
        self.observed = observed
        self.now = now
        self.old = subject.status
        self.conditions = Conditions(self.old.conditions, now=now, generation=subject.metadata.generation)
        self.actions: list[Action] = []
        self.requeue_after: float | None = None
        self._fields: dict[str, Any] = {}

    @property
    def spec(self) -> Spec | None:
        """The spec as it is now, edits included; None when it cannot be read."""
        return self.subject.job.spec if self.subject.job else None

    @property
    def failure_policy(self) -> FailurePolicy:
        """The policy as it is now; the defaults while the spec cannot be read."""
        return self.spec.failure_policy if self.spec else FailurePolicy()

    @property
    def attempt(self) -> int:
        """Attempts so far, the present one included."""
        return self.old.attempt or 0

    @property
    def attempt_is_over(self) -> bool:
        """Whether the newest attempt has failed: its failure carries its number."""
        failure = self.old.last_failure
        return failure is not None and failure.attempt == self.attempt

    def set(self, **fields: Any) -> None:
        """Change fields of the status."""
        self._fields |= fields

    def value(self, name: str) -> Any:
        """A field of the status as it stands in this draft."""
        return self._fields[name] if name in self._fields else getattr(self.old, name)

    def act(self, action: Action) -> None:
        """Add an action; they are carried out in this order."""
        self.actions.append(action)

    def look_again(self, seconds: float) -> None:
        """Decide again after at most this long, even if nothing is seen to change."""
        seconds = max(0.0, seconds)
        self.requeue_after = seconds if self.requeue_after is None else min(self.requeue_after, seconds)

    def look_again_at(self, moment: datetime) -> None:
        """Decide again at that moment."""
        self.look_again((moment - self.now).total_seconds())

    def spent(self, phase: str, since: datetime | None, *, add: bool = False) -> None:
        """Note the seconds that a phase of life took until now; once, unless they add up over attempts."""
        durations: dict[str, float] = dict(self.value("durations") or {})
        if since is None or (phase in durations and not add):
            return
        seconds = max(0.0, (self.now - since).total_seconds())
        durations[phase] = round(durations.get(phase, 0.0) + seconds, 1)
        self.set(durations=durations)

    def underway(self, phase: Phase, reason: str, message: str) -> None:
        """The job is on its way and not there: Reconciling, not Ready, not Stalled."""
        self.set(phase=phase)
        self.conditions.set(ConditionType.READY, False, reason, message)
        self.conditions.set(ConditionType.RECONCILING, True, reason, message)
        self.conditions.set(ConditionType.STALLED, False, reason)

    def leave_training(self, reason: str, message: str) -> None:
        """Training is not (or no longer) going on; the time it went on is added up."""
        training = self.conditions.get(ConditionType.TRAINING)
        if training is not None and training.status == "True":
            self.spent("running", training.last_transition_time, add=True)
        self.conditions.set(ConditionType.TRAINING, False, reason, message)

    def fail_attempt(self, failure: Failure) -> None:
        """The present attempt is over; another follows as long as the policy has any left."""
        attempt = self.attempt
        message = cut(failure.message, FAILURE_MESSAGE_LENGTH)
        failure = failure.model_copy(update={"message": message, "attempt": attempt, "time": self.now})
        self.set(last_failure=failure)
        self.stop_driver_that_may_run()
        limit = self.failure_policy.backoff_limit
        if attempt > limit:
            text = (
                f"attempt {attempt} failed and spec.failurePolicy.backoffLimit is {limit}: {failure.reason}: {message}"
            )
            self.fail_job(reasons.BACKOFF_LIMIT_EXCEEDED, text, remedy=failure.remedy)
            return
        text = f"attempt {attempt} failed: {failure.reason}: {message}"
        self.leave_training(failure.reason, text)
        self.underway(Phase.RESTARTING, reasons.RESTARTING, text)
        self.look_again(self.failure_policy.restart_delay_seconds)

    def stop_driver_that_may_run(self) -> None:
        """End the attempt's driver, unless Ray has said that it is not running."""
        ray, submission_id = self.observed.ray, self.old.submission_id
        runs = isinstance(ray, RayJob) and not ray.state.ended
        if submission_id is not None and (runs or isinstance(ray, Unreachable)):
            self.act(StopRayJob(submission_id))

    def fail_job(self, reason: str, message: str, *, remedy: str = "") -> None:
        """The job has failed for good."""
        text = f"{message} {remedy}".strip()
        self.leave_training(reason, text)
        self.set(phase=Phase.FAILED, completion_time=self.now)
        self.conditions.set(ConditionType.FAILED, True, reason, text)
        self.conditions.set(ConditionType.COMPLETE, False, reason, "the job failed")
        self.conditions.set(ConditionType.READY, False, reason, text)
        self.conditions.set(ConditionType.RECONCILING, False, reason)
        self.conditions.set(ConditionType.STALLED, True, reason, text)
        self.look_again(self.ttl_seconds)

    @property
    def ttl_seconds(self) -> float:
        """For how long the cluster stays after the end."""
        return float(self.spec.ttl_seconds_after_finished if self.spec else 60)

    def wait_until_deadline(self, what: str) -> None:
        """Bound the start of this attempt: fail the job when the driver has not answered in time.

        The clock starts when the cluster is created (all initializers are done then) and again at each failure.
        """
        cluster = self.observed.cluster
        assert cluster is not None, "the deadline bounds the life after the cluster's creation"
        failure = self.value("last_failure")
        start = max(cluster.created, failure.time) if failure and failure.time else cluster.created
        seconds = self.spec.startup_deadline_seconds if self.spec else 1800
        end = start + timedelta(seconds=seconds)
        if self.now < end:
            self.look_again_at(end)
            return
        message = f"no driver answered within spec.startupDeadlineSeconds ({seconds} s); it was waiting for: {what}"
        self.set(
            last_failure=Failure(
                reason=reasons.STARTUP_DEADLINE_EXCEEDED, message=cut(message), time=self.now, attempt=self.attempt
            )
        )
        self.stop_driver_that_may_run()
        self.fail_job(reasons.STARTUP_DEADLINE_EXCEEDED, message)

    def finish(self) -> Decision:
        """The decision; conditions nobody has stated yet get their honest start values."""
        for kind, reason in (
            (ConditionType.CLUSTER_READY, reasons.PENDING),
            (ConditionType.TRAINING, reasons.NOT_STARTED),
            (ConditionType.CHECKPOINTED, reasons.NO_CHECKPOINT),
            (ConditionType.COMPLETE, reasons.NOT_FINISHED),
            (ConditionType.FAILED, reasons.NOT_FAILED),
        ):
            if self.conditions.get(kind) is None:
                self.conditions.set(kind, False, reason)
        fields = {
            "observed_generation": self.subject.metadata.generation,
            "attempt": self.attempt,
            "start_time": self.old.start_time or self.now,
            **self._fields,
            "conditions": self.conditions.all(),
        }
        status: Status = self.old.model_copy(update=fields)
        return Decision(actions=tuple(self.actions), status=status, requeue_after=self.requeue_after)
