"""Pure functions of a job that several passes ask for: worked out once for each job that was read.

Jobs are frozen models, so one and the same object has one and the same answer, which lives as long as the object does.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import wraps
from typing import TypeVar

from rltrain_api.job import RLTrainingJob

Answer = TypeVar("Answer")


def once_per_job(function: Callable[[RLTrainingJob], Answer]) -> Callable[[RLTrainingJob], Answer]:
    """The function, that remembers its answers; they are shared, so they must not be changed."""
    answers: dict[int, tuple[weakref.ref[RLTrainingJob], Answer]] = {}

    @wraps(function)
    def answered(job: RLTrainingJob) -> Answer:
        identity = id(job)
        if identity not in answers:
            # An identity is used again only after this has been called.
            gone = weakref.ref(job, lambda _: answers.pop(identity, None))
            answers[identity] = (gone, function(job))
        return answers[identity][1]

    return answered
