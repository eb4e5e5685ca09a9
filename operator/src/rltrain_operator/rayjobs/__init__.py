"""Ray's Jobs REST API: start the driver once per attempt, ask how it is, stop it, read the end of its log."""

from rltrain_operator.rayjobs.client import RayJob, RayJobsApi, RayJobsClient, RayJobState, RayUnavailableError

__all__ = ["RayJob", "RayJobState", "RayJobsApi", "RayJobsClient", "RayUnavailableError"]
