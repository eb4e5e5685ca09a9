"""The verb `render`: a job in the form of another place on standard output, what it loses by that on standard error.

Works offline. Exit codes: 0 it is written, 1 the job is not valid or cannot run there, 2 the file cannot be used.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from rltrain_api.job import RLTrainingJob
from rltrain_api.reading import UnusableInput
from rltrain_api.render import (
    Rendered,
    TooLargeForModal,
    refusals_for_skyrl,
    render_command,
    render_modal,
    render_slurm,
)
from rltrain_operator.cli.errors import EXIT_FAILED, EXIT_OK, CommandError
from rltrain_operator.cli.job_files import JudgedJob, read_job_file
from rltrain_operator.cli.screen import Screen
from rltrain_operator.plan.rayjob import render_ray_job

PLACES: dict[str, Callable[[RLTrainingJob], Rendered]] = {
    "skyrl": render_command,
    "slurm": render_slurm,
    "modal": render_modal,
    "rayjob": render_ray_job,
}


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of `render`."""
    parser.add_argument("file", metavar="FILE", help="YAML or JSON with one RLTrainingJob; - is standard input")
    parser.add_argument(
        "--to",
        required=True,
        choices=PLACES,
        help="upstream SkyRL's command line (skyrl), an sbatch script (slurm), a Modal app (modal), or a RayJob of "
        "KubeRay (rayjob)",
    )


def run(arguments: argparse.Namespace, screen: Screen) -> int:
    """Write the job in the other form; its notes follow on standard error."""
    judged = _the_job(arguments.file)
    errors = judged.error_lines()
    if judged.job is None or errors:
        return _refuse(errors, f"{judged.name} is not valid; nothing is rendered")
    refusals = refusals_for_skyrl(judged.job)
    if refusals:
        lines = [f"{judged.document.place(error.path)}: {error}" for error in refusals]
        return _refuse(lines, f"{judged.name} cannot run with upstream SkyRL's trainer; nothing is rendered")
    try:
        rendered = PLACES[arguments.to](judged.job)
    except TooLargeForModal as error:
        raise CommandError(f"{judged.name} cannot run on Modal: {error}", code=EXIT_FAILED) from error
    screen.close()
    # As it is: the screen would put other characters in the place of some, and this is a file for a program.
    sys.stdout.write(rendered.text)
    sys.stdout.flush()
    for note in rendered.notes:
        print(f"note: {note}", file=sys.stderr)
    return EXIT_OK


def _the_job(path: str) -> JudgedJob:
    try:
        jobs = read_job_file(path).jobs
    except UnusableInput as error:
        raise CommandError(str(error)) from error
    if len(jobs) > 1:
        names = ", ".join(job.name for job in jobs)
        raise CommandError(f"{path}: holds {len(jobs)} jobs ({names})", "Render one at a time, from a file of its own.")
    return jobs[0]


def _refuse(lines: list[str], summary: str) -> int:
    for line in [*lines, summary]:
        print(line, file=sys.stderr)
    return EXIT_FAILED
