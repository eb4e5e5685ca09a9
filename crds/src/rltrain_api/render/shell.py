"""The parts of a bash script that the command line and the Slurm script share.

Every word from a job is quoted by `shlex`; what stands in comments and messages comes from patterns that hold no
character that bash would read. This module must not know Slurm.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from rltrain_api.job import RLTrainingJob
from rltrain_api.render.upstream import ENTRYPOINT, overrides_for_skyrl
from rltrain_api.render.variables import Variables, notes_without_pods, secret_notes

_CONTINUED = " \\\n  "


def exports(variables: Variables) -> Iterator[str]:
    """Lines that set the variables and stop, with a message, where one that must come from outside is missing."""
    for name, value in variables.exported.items():
        yield f"export {name}={shlex.quote(value)}"
    for name in variables.secret_sources:
        yield f"# Export what the Secret {name} holds before you start this."
    for name in variables.secrets:
        yield _demand(name, "the job has a value for it, which is not written here because it looks like a secret")
    if variables.tracker_key:
        yield _demand(variables.tracker_key, "the tracker in trainer.logger needs it")
    # Ray would load the hook that this names in every process, and it is made for runs out of a uv project.
    yield "unset RAY_RUNTIME_ENV_HOOK"


def driver_command(job: RLTrainingJob, *before: str) -> str:
    """SkyRL's driver with the job's overrides, one on each line; `before` are words of bash in front of it."""
    overrides = [shlex.quote(override) for override in overrides_for_skyrl(job)]
    return _CONTINUED.join([" ".join([*before, "python", "-m", ENTRYPOINT]), *overrides])


def environment_notes(variables: Variables) -> list[str]:
    """What of the job's environment a script cannot set."""
    return [*notes_without_pods(variables), *secret_notes(variables)]


def _demand(name: str, why: str) -> str:
    return f': "${{{name}:?export it before you start this: {why}}}"'
