"""A job as this tool shows it: who it is, its status, and how it ended if it did.

Must not know how the job is shown, nor anything of its spec.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import ValidationError

from rltrain_api.status import ConditionType, Progress, Status
from rltrain_operator.cli.errors import CommandError


class Outcome(StrEnum):
    """How a job ended."""

    COMPLETE = "Complete"
    FAILED = "Failed"
    STALLED = "Stalled"  # nothing more happens until somebody changes the job


@dataclass(frozen=True)
class JobView:
    """Everything that is shown of one job."""

    name: str
    status: Status
    generation: int | None = None
    created: datetime | None = None

    @property
    def progress(self) -> Progress:
        """The newest report of the driver, empty while there is none."""
        return self.status.progress or Progress()

    @property
    def outcome(self) -> Outcome | None:
        """How the job ended, None while it goes on.

        Stalled counts only for the generation it was written for: after an edit the operator gets to look again.
        """
        if self.is_true(ConditionType.COMPLETE):
            return Outcome.COMPLETE
        if self.is_true(ConditionType.FAILED):
            return Outcome.FAILED
        stalled = self.status.condition(ConditionType.STALLED)
        if stalled is None or stalled.status != "True" or stalled.observed_generation not in (None, self.generation):
            return None
        return Outcome.STALLED

    def is_true(self, condition_type: str) -> bool:
        """Whether the operator has said that this holds."""
        condition = self.status.condition(condition_type)
        return condition is not None and condition.status == "True"


def read_job(document: Mapping[str, Any]) -> JobView:
    """The view of an RLTrainingJob as the API server gives it (a JSON object); it may have no status yet.

    Raises:
        CommandError: the status is of a kind that this version does not know.
    """
    metadata = document["metadata"]
    try:
        status = Status.model_validate(document.get("status") or {})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = ".".join(str(part) for part in first["loc"])
        raise CommandError(
            f"cannot read status.{path} of {metadata['name']}: {first['msg']}",
            "Is this kubectl-rltrain older than the operator? Install the one of the operator's version.",
        ) from error
    created = metadata.get("creationTimestamp")
    return JobView(
        name=metadata["name"],
        status=status,
        generation=metadata.get("generation"),
        created=datetime.fromisoformat(created) if created else None,
    )
