"""`render --to skyrl`: a bash script that runs upstream's driver, as people start SkyRL by hand.

This module must not know how the Ray cluster comes about that the driver joins.
"""

from __future__ import annotations

from rltrain_api.job import RLTrainingJob
from rltrain_api.render.kubernetes import mount_notes, notes_without_kubernetes
from rltrain_api.render.machines import machines_for_skyrl
from rltrain_api.render.rendered import Rendered
from rltrain_api.render.shell import driver_command, environment_notes, exports
from rltrain_api.render.upstream import RAY_VERSION, VERSION, notes_for_skyrl
from rltrain_api.render.variables import variables_for_skyrl


def render_command(job: RLTrainingJob) -> Rendered:
    """The script for a job that `refusals_for_skyrl` has nothing against."""
    machines, variables = machines_for_skyrl(job), variables_for_skyrl(job)
    lines = [
        "#!/usr/bin/env bash",
        f"# The job {job.metadata.name} as a run of upstream SkyRL {VERSION}. It takes {machines}: those of the Ray",
        f"# cluster at RAY_ADDRESS (Ray {RAY_VERSION}), or this machine's own where that is unset.",
        "set -euo pipefail",
        "",
        *exports(variables),
        "",
        driver_command(job, "exec"),
    ]
    notes = [
        *notes_for_skyrl(job),
        *environment_notes(variables),
        *mount_notes(job, "make it the same shared directory on every node"),
        *notes_without_kubernetes(job),
    ]
    return Rendered("\n".join(lines) + "\n", tuple(notes))
