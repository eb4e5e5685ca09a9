"""From what went wrong to what a person on call should read: reason, message, remedy, role.

The reasons are those of the failure table (docs/failures.md). It must not know how the loop works.
"""

from __future__ import annotations

import asyncio

import ray.exceptions

from rltrain_api.wire import DriverError


class DriverFailureError(Exception):
    """A failure that is already understood. `reason` is one of the failure table's."""

    def __init__(self, reason: str, message: str, *, remedy: str, role: str = "head") -> None:
        super().__init__(message)
        self.error = DriverError(reason=reason, message=message, remedy=remedy, role=role)


MAX_MESSAGE_LENGTH = 1000


def describe(error: BaseException) -> DriverError:
    """The failure table, by type of exception; the first line that fits wins."""
    if isinstance(error, DriverFailureError):
        return error.error
    message = f"{type(error).__name__}: {error}"[-MAX_MESSAGE_LENGTH:]
    table: list[tuple[type[BaseException] | tuple[type[BaseException], ...], str, str, str]] = [
        (
            (ray.exceptions.ActorDiedError, ray.exceptions.ActorUnavailableError, ray.exceptions.WorkerCrashedError),
            "RankCrashed",
            "a trainer rank died; look for OOMKilled or a non-zero exit code on the trainer pods",
            "trainer",
        ),
        (
            ray.exceptions.RayTaskError,
            "TrainerError",
            "a trainer rank raised; the driver's log has its traceback",
            "trainer",
        ),
        ((TimeoutError, asyncio.TimeoutError), "Timeout", "the message says what was waited for", "head"),
        (OSError, "IOError", "check that the volumes of the job are mounted, writable and not full", "head"),
        (ValueError, "BadInput", "correct the field or file that the message names", "head"),
    ]
    for kinds, reason, remedy, role in table:
        if isinstance(error, kinds):
            return DriverError(reason=reason, message=message, remedy=remedy, role=role)
    return DriverError(reason="DriverError", message=message, remedy="the driver's log has the traceback")
