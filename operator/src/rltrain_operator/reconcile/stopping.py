"""Ending an attempt by wish: the driver is asked for a checkpoint and to stop, and is given the time for it.

The wish is in the status (`stop`) before the driver hears of it, so that from then on whatever ends the attempt is the
stop and no failure, also for an operator that begins anew in the middle. A stop that has begun is carried to its end
even if the wish is gone; the next attempt then follows on the same cluster.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from rltrain_api.status import Phase, Stop
from rltrain_api.wire import DriverPhase, DriverStatus
from rltrain_operator.rayjobs import RayJob
from rltrain_operator.reconcile import reasons
from rltrain_operator.reconcile.attempt import POLL_SECONDS, answer_of, come_to_its_end, count_engines, mirror_driver
from rltrain_operator.reconcile.draft import Draft
from rltrain_operator.reconcile.requests import note_restart
from rltrain_operator.reconcile.state import StopDriver, StopRayJob

# A driver ends in mid-step at its deadline by itself; so long after it, it is ended by force.
FORCE_AFTER = timedelta(seconds=15)

_PHASES = {
    reasons.SUSPENDING: Phase.SUSPENDING,
    reasons.UPDATING: Phase.UPDATING,
    reasons.RESTART_REQUESTED: Phase.RESTARTING,
    reasons.DRIVER_TOLD_TO_STOP: Phase.RESTARTING,
}


@dataclass(frozen=True)
class Wish:
    """Why an attempt shall end without having failed; `words` complete "attempt n stops: …"."""

    reason: str
    words: str


def stop_attempt(draft: Draft, wish: Wish | None) -> None:
    """One step towards the end of the present attempt; `wish` is None when it is gone, and the stop goes on."""
    stop = draft.open_stop
    if stop is None:
        assert wish is not None, "a stop begins with a wish"
        draft.set(stop=Stop(attempt=draft.attempt, reason=wish.reason, requested=draft.now))
        if wish.reason == reasons.RESTART_REQUESTED:
            note_restart(draft)
        _say(draft, wish.reason, f"attempt {draft.attempt} is about to stop: {wish.words}")
        draft.look_again(0)
        return
    if come_to_its_end(draft):
        return
    driver = answer_of(draft)
    count_engines(draft, driver)
    if driver is not None:
        mirror_driver(draft, driver)
    end = stop.requested + timedelta(seconds=draft.stop_grace_seconds)
    if _has_ended(draft):
        _ended(draft, stop, "has stopped")
    elif draft.now >= end + FORCE_AFTER:
        draft.stop_driver_that_may_run()
        _ended(draft, stop, f"did not stop within spec.stopGracePeriodSeconds ({draft.stop_grace_seconds} s)")
    else:
        _ask(draft, driver, max(0.0, (end - draft.now).total_seconds()))
        # Upstream's trainer saves nothing when it is stopped: said, because it costs steps.
        how = "saves a checkpoint and stops" if draft.driver_listens else "stops; it cannot be asked for a checkpoint"
        _say(draft, stop.reason, f"attempt {draft.attempt} {how}")
        draft.look_again(POLL_SECONDS)


def stopped_by_others(draft: Draft) -> bool:
    """Whether the driver has stopped as it was asked, and not by us: by its pods, which are leaving, or by a person."""
    driver = answer_of(draft)
    return draft.open_stop is None and driver is not None and driver.phase is DriverPhase.STOPPED


def note_stop_by_others(draft: Draft) -> None:
    """The attempt is over, and a drained node costs no retry."""
    driver = answer_of(draft)
    assert driver is not None, "only called for a driver that has answered"
    count_engines(draft, driver)
    mirror_driver(draft, driver)
    stop = Stop(attempt=draft.attempt, reason=reasons.DRIVER_TOLD_TO_STOP, requested=draft.now)
    _ended(draft, stop, "was told to stop by its own pods, which are leaving, or by a person")


def _has_ended(draft: Draft) -> bool:
    """Whether nothing of the attempt trains any more. The driver lives in the head pod and dies with it.

    One that has stopped only waits to be read, and its last checkpoint goes into the status before it is sent away: by
    Ray when the next attempt is due, or with its cluster.
    """
    cluster, ray, driver = draft.observed.cluster, draft.observed.ray, answer_of(draft)
    assert cluster is not None, "attempts need a cluster"
    if driver is not None and driver.phase is DriverPhase.STOPPED:
        return True
    return cluster.head_host is None or ray is None or (isinstance(ray, RayJob) and ray.state.ended)


def _ask(draft: Draft, driver: DriverStatus | None, seconds: float) -> None:
    """Said again on every pass: the driver hears it once and keeps to its first deadline."""
    submission_id = draft.old.submission_id
    if not draft.driver_listens and submission_id is not None:
        draft.act(StopRayJob(submission_id))
    elif driver is not None:
        draft.act(StopDriver(checkpoint=True, deadline_seconds=seconds))


def _ended(draft: Draft, stop: Stop, how: str) -> None:
    checkpoint = draft.value("checkpoint")
    saved = f"the checkpoint of step {checkpoint.latest_step}" if checkpoint is not None else "the beginning"
    message = f"attempt {draft.attempt} {how}; the next one goes on from {saved}"
    draft.set(stop=stop.model_copy(update={"ended": draft.now}))
    draft.leave_training(stop.reason, message)
    _say(draft, stop.reason, message)
    draft.look_again(0)


def _say(draft: Draft, reason: str, message: str) -> None:
    draft.underway(_PHASES.get(reason, draft.old.phase or Phase.RUNNING), reason, message)
