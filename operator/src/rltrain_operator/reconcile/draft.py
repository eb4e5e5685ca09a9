"""A decision in the making: the status as it will be and the actions so far.

It lives for the length of one `decide` call; the stages of a job's life write into it.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from rltrain_api.job import Spec
from rltrain_api.spec.policies import FailurePolicy
from rltrain_api.status import ConditionType, Failure, Phase, Status, Stop
from rltrain_operator.rayjobs import RayJob
from rltrain_operator.reconcile import reasons
from rltrain_operator.reconcile.accounting import with_accounts
from rltrain_operator.reconcile.conditions import Conditions, cut
from rltrain_operator.reconcile.state import Action, Decision, Observed, StopRayJob, Subject, Unreachable


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
        """Whether the newest attempt has failed, or was stopped: its failure or its stop carries its number."""
        failure, stop = self.old.last_failure, self.old.stop
        failed = failure is not None and failure.attempt == self.attempt
        return failed or (stop is not None and stop.attempt == self.attempt and stop.ended is not None)

    @property
    def attempt_is_alive(self) -> bool:
        """Whether there is an attempt that is neither over nor still to be planned."""
        return self.attempt > 0 and not self.attempt_is_over

    @property
    def open_stop(self) -> Stop | None:
        """The stop of the present attempt that has begun and not come to its end."""
        stop = self.old.stop
        return stop if stop is not None and stop.attempt == self.attempt and stop.ended is None else None

    @property
    def stop_grace_seconds(self) -> int:
        """For how long a driver that is asked to stop may take; the default while the spec cannot be read."""
        return self.spec.stop_grace_period_seconds if self.spec else 120

    @property
    def driver_listens(self) -> bool:
        """Whether the driver is one of ours, which can be asked for checkpoints and stops; upstream's cannot."""
        return self.spec is None or self.spec.runtime.trainer == "builtin"

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

    def underway(self, phase: Phase, reason: str, message: str) -> None:
        """The job is on its way and not there: Reconciling, not Ready, not Stalled."""
        self.set(phase=phase)
        self.conditions.set(ConditionType.READY, False, reason, message)
        self.conditions.set(ConditionType.RECONCILING, True, reason, message)
        self.conditions.set(ConditionType.STALLED, False, reason)

    def leave_training(self, reason: str, message: str) -> None:
        """Training is not (or no longer) going on."""
        self.conditions.set(ConditionType.TRAINING, False, reason, message)

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

        The clock starts when the cluster is created (all initializers are done then) and again when an attempt ends.
        """
        cluster = self.observed.cluster
        assert cluster is not None, "the deadline bounds the life after the cluster's creation"
        failure, stop = self.value("last_failure"), self.value("stop")
        ends = (failure.time if failure is not None else None, stop.ended if stop is not None else None)
        start = max([cluster.created, *(end for end in ends if end is not None)])
        quota = self.conditions.get(ConditionType.QUOTA_RESERVED)
        if quota is not None and quota.status == "True":  # time in a queue does not count
            start = max(start, quota.last_transition_time)
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
            (ConditionType.ENGINES_READY, reasons.PENDING),
            (ConditionType.TRAINING, reasons.NOT_STARTED),
            (ConditionType.CHECKPOINTED, reasons.NO_CHECKPOINT),
            (ConditionType.SUSPENDED, reasons.NOT_SUSPENDED),
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
        status: Status = with_accounts(self.old, self.old.model_copy(update=fields), self.observed, self.now)
        return Decision(actions=tuple(self.actions), status=status, requeue_after=self.requeue_after)
