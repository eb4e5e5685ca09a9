"""From what went wrong to what a person on call should read: reason, message, remedy, role.

The reasons are those of the failure table (docs/failures.md). It must not know how the loop works.
"""

from __future__ import annotations

import ray.exceptions

from rltrain_api.wire import DriverError
from rltrain_trainer.checkpoint.room import FULL
from rltrain_trainer.driver.checkpoints import SaveFailedError
from rltrain_trainer.engines.fleet import NoEngineServesError
from rltrain_trainer.engines.sync import WeightSyncError


class DriverFailureError(Exception):
    """A failure that is already understood. `reason` is one of the failure table's."""

    def __init__(self, reason: str, message: str, *, remedy: str, role: str = "head") -> None:
        super().__init__(message)
        self.error = DriverError(reason=reason, message=message, remedy=remedy, role=role)


MAX_MESSAGE_LENGTH = 1000

_ROOM = (
    "enlarge the claim (kubectl patch pvc), remove what nobody needs, or keep fewer checkpoints (max_ckpts_to_keep); "
    "then delete the job and create it again, and it resumes from its newest checkpoint"
)

# The first line that fits wins: exception types, reason, remedy, role.
_TABLE: tuple[tuple[tuple[type[BaseException], ...], str, str, str], ...] = (
    (
        (ray.exceptions.ActorDiedError, ray.exceptions.ActorUnavailableError, ray.exceptions.WorkerCrashedError),
        "RankCrashed",
        "a process of the job died; look for OOMKilled or a non-zero exit code on the trainer and inference pods",
        "trainer",
    ),
    ((WeightSyncError, NoEngineServesError), "EnginesLost", "look at the inference pods and their logs", "inference"),
    (
        (SaveFailedError,),
        "CheckpointFailed",
        "the message says what could not be written; see whether the volume or object store of the checkpoints is "
        "there and may be written to",
        "head",
    ),
    ((TimeoutError,), "Timeout", "the message says what was waited for", "head"),
    ((OSError,), "IOError", "check that the volumes of the job are mounted and writable", "head"),
    ((ValueError,), "BadInput", "correct the field or file that the message names", "head"),
)


def describe(error: BaseException) -> DriverError:
    """The failure as the operator shows it. What a rank raised is judged by what it was there."""
    if isinstance(error, DriverFailureError):
        return error.error
    in_rank = isinstance(error, ray.exceptions.RayTaskError) and error.cause is not None
    original: BaseException = error.cause if in_rank else error  # type: ignore[attr-defined]  # narrowed by in_rank
    message = f"{type(original).__name__}: {original}"[-MAX_MESSAGE_LENGTH:]
    if isinstance(original, OSError) and original.errno in FULL:
        return DriverError(reason="VolumeFull", message=message, remedy=_ROOM, role="trainer" if in_rank else "head")
    for kinds, reason, remedy, role in _TABLE:
        if isinstance(original, kinds):
            return DriverError(reason=reason, message=message, remedy=remedy, role="trainer" if in_rank else role)
    reason, role = ("TrainerError", "trainer") if in_rank else ("DriverError", "head")
    return DriverError(reason=reason, message=message, remedy="the driver's log has the traceback", role=role)
