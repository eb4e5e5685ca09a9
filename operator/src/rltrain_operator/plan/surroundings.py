"""What an installation of the operator adds to every job: variables of its pods, and who may reach its driver.

Both come from the chart's values and not from the job, so neither counts in the hash of a job's cluster: a change
reaches a job with its next cluster and disturbs none that runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Peer:
    """Pods that may reach a job's driver and its dashboard: those of a namespace that bear all of the labels."""

    namespace: str
    labels: Mapping[str, str]


@dataclass(frozen=True)
class Surroundings:
    """See the module's docstring.

    Args:
        environment: Names and values for all jobs' pods; values are taken as they are, `$(NAME)` included.
        peer: Who is let in by a NetworkPolicy for each job; None makes no policies.
    """

    environment: Mapping[str, str] = field(default_factory=dict)
    peer: Peer | None = None


def literal(value: str) -> str:
    """A value that Kubernetes hands on as it is: it expands $(NAME) in the values of variables."""
    return value.replace("$(", "$$(")
