"""The policies of a job's life: what happens when an attempt fails, and what an edit of a running job does."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from rltrain_api.spec.base import PositiveSeconds, Seconds, SpecModel


class FailureAction(StrEnum):
    """What a failed attempt leads to."""

    RESTART_DRIVER = "RestartDriver"  # the next attempt on the same cluster
    RESTART_CLUSTER = "RestartCluster"  # the next attempt on a new cluster
    FAIL_JOB = "FailJob"  # no next attempt
    IGNORE = "Ignore"  # the next attempt on the same cluster, and the failure costs no retry


class UpdatePolicy(StrEnum):
    """What an edit of the spec does to a job that has its cluster."""

    RESTART_FROM_CHECKPOINT = "RestartFromCheckpoint"
    REJECT = "Reject"


FailureWord = Annotated[str, Field(min_length=1, max_length=128)]
ExitCode = Annotated[int, Field(ge=-255, le=255)]


class FailureRule(SpecModel):
    """Which failures lead to which action; what is left empty matches every failure."""

    reasons: Annotated[list[FailureWord], Field(max_length=32)] = Field(
        default=[], description="Reasons as in status.lastFailure.reason, such as DriverLost; at most 32."
    )
    roles: Annotated[list[FailureWord], Field(max_length=8)] = Field(
        default=[], description="Roles as in status.lastFailure.role: head, trainer or inference; at most 8."
    )
    exit_codes: Annotated[list[ExitCode], Field(max_length=32)] = Field(
        default=[], description="Exit codes as in status.lastFailure.exitCode; minus a signal's number too; at most 32."
    )
    action: FailureAction = Field(
        description="RestartDriver: the next attempt on the same cluster. RestartCluster: on a new one. FailJob: no "
        "next attempt. Ignore: as RestartDriver, and the failure costs no retry.",
        # Strict models read enumerations from themselves only; documents have their words.
        strict=False,
    )


class FailurePolicy(SpecModel):
    """What happens when an attempt fails."""

    backoff_limit: Annotated[int, Field(ge=0, le=1000)] = Field(
        default=3, description="Failed attempts that are tried again, from the newest checkpoint; from 0 to 1000."
    )
    restart_delay_seconds: Seconds = Field(
        default=5,
        description="Seconds between the first failure and the next attempt; each further failure doubles it.",
    )
    max_restart_delay_seconds: Seconds = Field(
        default=300, description="Seconds that the delay grows to, where restartDelaySeconds is not longer already."
    )
    healthy_after_seconds: PositiveSeconds = Field(
        default=600,
        description="Seconds of training without a failure after which, with a newer checkpoint than at the last "
        "failure, backoffLimit and the delay start afresh.",
    )
    stalled_after_steps: Annotated[int, Field(ge=0, le=10000)] = Field(
        default=20,
        description="A step that takes this many times the median of the attempt's steps, and 10 minutes at least, is "
        "a failure (TrainingStalled); 0 means never. From 0 to 10000.",
    )
    rules: Annotated[list[FailureRule], Field(max_length=32)] = Field(
        default=[],
        description="Failures and their actions, at most 32; the first rule that matches counts, and a failure that "
        "none matches leads to RestartDriver, VolumeFull to FailJob.",
    )
