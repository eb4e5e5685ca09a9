"""Ray's Jobs REST API: start the driver once per attempt, ask how it is, stop it, read the end of its log."""

from rltrain_operator.rayjobs.client import (
    LOG_TAIL_BYTES,
    LOG_TAIL_LINES,
    RayJob,
    RayJobsApi,
    RayJobsClient,
    RayJobState,
    RayUnavailableError,
)

__all__ = [
    "LOG_TAIL_BYTES",
    "LOG_TAIL_LINES",
    "RayJob",
    "RayJobState",
    "RayJobsApi",
    "RayJobsClient",
    "RayUnavailableError",
]
