"""What one attempt starts on Ray: the entrypoint, and the variables of its runtime environment.

It follows from the record that the job's ConfigMap keeps, and from nothing that can change while the job runs. Ray
hands the entrypoint to a shell, so every word from a job is quoted; nothing of ours needs a shell. All other variables
are those of the pods: one that Ray's runtime_env set, too, would clash with what SkyRL's driver sets by itself.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from rltrain_api import names
from rltrain_api.job import RLTrainingJob
from rltrain_api.render import overrides_for_skyrl
from rltrain_api.render.upstream import ENTRYPOINT
from rltrain_api.wire import JobReference, RunDocument
from rltrain_operator.plan.records import CONFIG_KEY, MODULES_KEY, OVERRIDES_KEY, RETENTION_KEY

DRIVER = "rltrain-driver"
# Linux takes no single argument of a program that is longer, and the shell gets the whole entrypoint as one.
ENTRYPOINT_LIMIT = 128 * 1024


@dataclass(frozen=True)
class Submission:
    """One attempt as Ray's Jobs API takes it.

    Args:
        entrypoint: A line that a POSIX shell reads.
        env_vars: Variables of the runtime environment.
    """

    entrypoint: str
    env_vars: dict[str, str]


def plan_submission(record: Mapping[str, str], job: JobReference, attempt: int) -> Submission:
    """The submission of an attempt.

    Args:
        record: The data of the ConfigMap that the job's status names, as `plan_config_map` made it.
        job: The job that the driver works for.
        attempt: The attempt's number, from 1.
    """
    overrides = record.get(OVERRIDES_KEY)
    if overrides is not None:
        return Submission(upstream_entrypoint(json.loads(overrides)), {})
    document = RunDocument(
        job=job,
        attempt=attempt,
        config=json.loads(record[CONFIG_KEY]),
        modules=json.loads(record.get(MODULES_KEY, "[]")),
        retention=json.loads(record.get(RETENTION_KEY, "null")),
    )
    return Submission(DRIVER, {names.RUN_ENV: document.model_dump_json(by_alias=True)})


def upstream_overrides(job: RLTrainingJob) -> list[str] | None:
    """What upstream's command line is told of a job; None for a job with another trainer."""
    return overrides_for_skyrl(job) if job.spec.runtime.trainer == "skyrl" else None


def upstream_entrypoint(overrides: list[str]) -> str:
    """Upstream's command for a shell."""
    # Ray would load the hook that this variable names in every process; it is made for runs out of a uv project.
    return shlex.join(["env", "-u", "RAY_RUNTIME_ENV_HOOK", "python", "-m", ENTRYPOINT, *overrides])
