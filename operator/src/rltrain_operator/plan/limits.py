"""What a valid job may ask for and this release's operator does not do yet: refused by name before anything is made.

The API describes more than the operator carries out. A line leaves this module when it does.
"""

from __future__ import annotations

from rltrain_api.errors import ErrorCode, FieldError
from rltrain_api.job import RLTrainingJob


def beyond_this_release(job: RLTrainingJob) -> list[FieldError]:
    """The fields of a valid job that the operator would have to ignore, each with what to do instead."""
    errors = []
    if job.spec.runtime.trainer == "skyrl":
        errors.append(
            FieldError(
                "spec.runtime.trainer",
                ErrorCode.NOT_YET_SUPPORTED,
                "is skyrl, and this release's operator starts the builtin trainer only; set it to builtin, or let "
                "`kubectl rltrain render --to rayjob` write the run as a plain RayJob",
            )
        )
    if job.spec.queue_name is not None:
        errors.append(
            FieldError(
                "spec.queueName",
                ErrorCode.NOT_YET_SUPPORTED,
                f"is {job.spec.queue_name}, and this release's operator does not queue jobs; remove it, and the job "
                "starts at once",
            )
        )
    return errors
