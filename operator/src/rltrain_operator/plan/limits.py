"""What a valid job may ask for and this release's operator does not do yet: refused by name before anything is made.

The API describes more than the operator carries out. A line leaves this module when it does.
"""

from __future__ import annotations

from rltrain_api.errors import FieldError
from rltrain_api.job import RLTrainingJob
from rltrain_operator.plan import upstream


def beyond_this_release(job: RLTrainingJob) -> list[FieldError]:
    """The fields of a valid job that the operator would have to ignore, each with what to do instead."""
    return list(upstream.refusals(job))
