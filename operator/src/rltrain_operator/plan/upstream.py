"""What a job with upstream's trainer has of its own: its Ray, and what it may not ask for.

How many pods there are, and which GPUs SkyRL's placement groups then get, is in `rltrain_api.sizing.pools`. Its Ray is
older than Ray's tokens: see docs/upstream.md for what that means.
"""

from __future__ import annotations

from collections.abc import Iterator

from rltrain_api import names
from rltrain_api.errors import ErrorCode, FieldError
from rltrain_api.job import RLTrainingJob
from rltrain_api.render import overrides_for_skyrl, refusals_for_skyrl
from rltrain_api.render.upstream import ENTRYPOINT, RAY_VERSION, VERSION
from rltrain_api.rules.fully_async import asks_for_fully_async
from rltrain_api.validate import validate
from rltrain_operator.plan.metadata import Manifest
from rltrain_operator.plan.submission import ENTRYPOINT_LIMIT, upstream_entrypoint


def runs(job: RLTrainingJob) -> bool:
    """Whether upstream's trainer runs the job."""
    return job.spec.runtime.trainer == "skyrl"


def ray(job: RLTrainingJob, version: str) -> Manifest:
    """Ray's version and who may use it, as a part of a RayCluster's spec; `version` is that of our own images."""
    if runs(job):
        return {"rayVersion": RAY_VERSION}
    tokens = {"mode": "token", "secretName": names.secret_name(job.metadata.name)}
    return {"rayVersion": version, "authOptions": tokens}


def refusals(job: RLTrainingJob) -> Iterator[FieldError]:
    """What a valid job asks for and cannot have with upstream's trainer."""
    if not runs(job):
        return
    if asks_for_fully_async(job.spec.config):
        yield FieldError(
            "spec.config.trainer.fully_async",
            ErrorCode.NOT_YET_SUPPORTED,
            f"asks for fully asynchronous training, and {ENTRYPOINT}, which is what runs, does not read it: the entry "
            f"point that does is an example in SkyRL's repository and not in the package skyrl {VERSION}; remove it",
        )
    known = set(validate(job))
    refused = [error for error in refusals_for_skyrl(job) if error not in known]
    yield from refused
    if not refused:
        yield from _too_long(job)


def _too_long(job: RLTrainingJob) -> Iterator[FieldError]:
    length = len(upstream_entrypoint(overrides_for_skyrl(job)).encode())
    if length >= ENTRYPOINT_LIMIT:
        yield FieldError(
            "spec.config",
            ErrorCode.OUT_OF_RANGE,
            f"makes a command line of {length} bytes, and Linux takes fewer than {ENTRYPOINT_LIMIT}; shorten its lists "
            "and texts",
        )
