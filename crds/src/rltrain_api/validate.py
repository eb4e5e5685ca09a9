"""Validation: everything that is wrong with a job, at once.

The one function that the command line, the admission webhook and the reconcile loop call, so that a cluster without the
webhook is still safe. It is pure: it changes nothing and reads neither the environment nor a file. What a single field
may hold is in the models; what the parts must be to each other is in `rltrain_api.rules`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from rltrain_api.errors import ErrorCode, FieldError
from rltrain_api.job import RLTrainingJob
from rltrain_api.parse import parse_job
from rltrain_api.rules.batch_sizes import check_batch_sizes
from rltrain_api.rules.kubernetes import check_kubernetes
from rltrain_api.rules.support import check_support
from rltrain_api.rules.training import check_training
from rltrain_api.rules.volumes import check_volumes

__all__ = ["ErrorCode", "FieldError", "parse_job", "validate"]

_CHECKS: tuple[Callable[[RLTrainingJob], Iterable[FieldError]], ...] = (
    check_kubernetes,
    check_volumes,
    check_support,
    check_training,
    check_batch_sizes,
)


def validate(job: RLTrainingJob) -> list[FieldError]:
    """Every error of a job that could be parsed, sorted by path; empty where the job can run. Never raises."""
    return sorted({error for check in _CHECKS for error in check(job)})
