"""Our own Event recorder: one Event per thing that happened, however often the operator decides that it did.

An Event's name is a hash of what it says, so saying it twice is a conflict and no second Event, even after a restart of
the operator. Only `create` on Events is needed. Events are for people; a failure to write one never stops a job.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from rltrain_api import names
from rltrain_api.job import ObjectMeta
from rltrain_api.status import ConditionType, Status
from rltrain_operator.kube import AlreadyExistsError, ApiError, KubeApi
from rltrain_operator.reconcile import reasons
from rltrain_operator.reconcile.conditions import cut

logger = logging.getLogger(__name__)

MAX_NOTE_LENGTH = 1024
COMPONENT = "rltrain-operator"

# Which statements are worth an Event, and whether it is a warning.
_NOTEWORTHY: dict[tuple[ConditionType, str], bool] = {
    (ConditionType.CONFIG_VALID, "False"): True,
    (ConditionType.QUOTA_RESERVED, "True"): False,
    (ConditionType.QUOTA_RESERVED, "False"): False,
    (ConditionType.CLUSTER_READY, "True"): False,
    (ConditionType.TRAINING, "True"): False,
    (ConditionType.STALLED, "True"): True,
    (ConditionType.CHECKPOINTED, "True"): False,
    (ConditionType.SUSPENDED, "True"): False,
    (ConditionType.COMPLETE, "True"): False,
    (ConditionType.FAILED, "True"): True,
}


# What a job is on its way to because somebody wished it; and whether it is a warning that nothing comes of it.
_WISHES = {
    reasons.SUSPENDING: False,
    reasons.UPDATING: False,
    reasons.RESTART_REQUESTED: False,
    reasons.ACTIVE_DEADLINE_EXCEEDED: True,
    reasons.EDIT_NOT_APPLIED: True,
    reasons.SCALING_ENGINES: False,
    reasons.ENGINES_NOT_AVAILABLE: True,
}


@dataclass(frozen=True)
class Note:
    """One Event to be: its reason is a condition's or a failure's."""

    reason: str
    message: str
    warning: bool


def notes(old: Status, new: Status) -> list[Note]:
    """What a status change says that the status before it did not; one note per reason and message."""
    found: dict[tuple[str, str], Note] = {}
    for note in (*_condition_notes(old, new), *_failure_notes(old, new)):
        found.setdefault((note.reason, note.message), note)
    return list(found.values())


def _condition_notes(old: Status, new: Status) -> Iterator[Note]:
    for condition in new.conditions:
        before = old.condition(condition.type)
        if before is not None and (before.status, before.reason) == (condition.status, condition.reason):
            continue
        for (kind, status), warning in _NOTEWORTHY.items():
            if condition.type == kind and condition.status == status:
                yield Note(condition.reason, condition.message, warning)
        if condition.type == ConditionType.RECONCILING and condition.status == "True" and condition.reason in _WISHES:
            yield Note(condition.reason, condition.message, _WISHES[condition.reason])


def _failure_notes(old: Status, new: Status) -> Iterator[Note]:
    failure = new.last_failure
    if failure is not None and failure != old.last_failure and (failure.attempt or 0) > 0:
        yield Note(failure.reason, f"attempt {failure.attempt} failed: {failure.message}", warning=True)


class EventRecorder:
    """Writes notes as Events on the job."""

    def __init__(self, kube: KubeApi) -> None:
        self._kube = kube

    async def record(self, job: ObjectMeta, note: Note, now: datetime) -> None:
        """One Event, unless it was written before."""
        told = f"{job.uid}/{note.reason}/{note.message}"
        digest = hashlib.sha256(told.encode()).hexdigest()[:16]
        time = now.isoformat(timespec="seconds").replace("+00:00", "Z")
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{job.name}.{digest}", "namespace": job.namespace},
            "involvedObject": {
                "apiVersion": names.API_VERSION,
                "kind": names.KIND,
                "name": job.name,
                "namespace": job.namespace,
                "uid": job.uid,
            },
            "type": "Warning" if note.warning else "Normal",
            "reason": note.reason,
            "message": cut(note.message, MAX_NOTE_LENGTH),
            "source": {"component": COMPONENT},
            "reportingComponent": COMPONENT,
            "firstTimestamp": time,
            "lastTimestamp": time,
            "count": 1,
        }
        try:
            await self._kube.create(event)
        except AlreadyExistsError:
            return
        except ApiError as error:
            logger.warning("event not written", extra={"reason": note.reason, "error": error.message})
