"""The policies of a job's life: what happens when an attempt fails."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from rltrain_api.spec.base import Seconds, SpecModel


class FailurePolicy(SpecModel):
    """What happens when an attempt fails."""

    backoff_limit: Annotated[int, Field(ge=0, le=1000)] = Field(
        default=3, description="Failed attempts that are tried again, from the newest checkpoint; from 0 to 1000."
    )
    restart_delay_seconds: Seconds = Field(default=5, description="Seconds between a failure and the next attempt.")
