"""The verb `validate`: everything that is wrong with the jobs in files, before anything reaches a cluster.

Works offline. Exit codes: 0 every job is valid, 1 at least one is not, 2 a file cannot be used.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field

from rltrain_api.errors import FieldError
from rltrain_api.reading import SourceDocument, UnusableInput
from rltrain_api.rules.wording import counted
from rltrain_operator.cli.errors import EXIT_FAILED, EXIT_OK, EXIT_USAGE
from rltrain_operator.cli.job_files import JudgedJob, kind_and_name, read_job_file
from rltrain_operator.cli.screen import Screen


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of `validate`."""
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="YAML or JSON with one or more documents; - is standard input"
    )
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text", help="for people (default) or JSON")


@dataclass
class Report:
    """What was found in all files, in their order."""

    jobs: list[JudgedJob] = field(default_factory=list)
    others: list[SourceDocument] = field(default_factory=list)
    unusable: list[UnusableInput] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """An unusable file outweighs an invalid job: nobody knows what is in it."""
        if self.unusable:
            return EXIT_USAGE
        return EXIT_FAILED if any(job.errors for job in self.jobs) else EXIT_OK


def run(arguments: argparse.Namespace, screen: Screen) -> int:
    """Judge all files; the exit code says how it went."""
    report = examine(arguments.files)
    if arguments.output == "json":
        lines = json.dumps(as_data(report), ensure_ascii=False, indent=2).splitlines()
    else:
        lines = report_lines(report)
    for line in lines:
        screen.line(line)
    return report.exit_code


def examine(paths: list[str]) -> Report:
    """Everything about the files at these paths; one that cannot be used does not hide the others."""
    report = Report()
    for path in paths:
        try:
            file = read_job_file(path)
        except UnusableInput as error:
            report.unusable.append(error)
            continue
        report.jobs += file.jobs
        report.others += file.others
    return report


def report_lines(report: Report) -> list[str]:
    """The report for people: what cannot be used, what is skipped, the errors job by job, notes, and the counts."""
    parts = [
        [str(error) for error in report.unusable],
        [f"{document.place()}: skipped {kind_and_name(document)}" for document in report.others],
    ]
    for job in report.jobs:
        headline = [f"{job.name}: {counted(len(job.errors), 'error')}"] if job.errors and len(report.jobs) > 1 else []
        parts.append([*headline, *job.error_lines()])
    parts.append([line for job in report.jobs for line in job.note_lines()])
    lines: list[str] = []
    for part in [*parts, _closing_lines(report)]:
        if part:
            lines += [*([""] if lines else []), *part]
    return lines


def as_data(report: Report) -> dict[str, object]:
    """The report for programs."""
    return {
        "jobs": [
            {
                "source": job.document.source,
                "line": job.document.line_of(),
                "name": job.name,
                "errors": [_finding(job, error) for error in job.errors],
                "notes": [_finding(job, note) for note in job.notes],
            }
            for job in report.jobs
        ],
        "skipped": [
            {"source": document.source, "line": document.line_of(), "what": kind_and_name(document)}
            for document in report.others
        ],
        "unusable": [{"source": error.source, "line": error.line, "message": error.cause} for error in report.unusable],
    }


def _finding(job: JudgedJob, error: FieldError) -> dict[str, object]:
    line = job.document.line_of(error.path)
    return {"line": line, "path": error.path, "code": error.code, "message": error.message}


def _closing_lines(report: Report) -> list[str]:
    """The counts, and what has not been looked at."""
    invalid = [job for job in report.jobs if job.errors]
    parts = []
    if invalid:
        where = f" in {len(invalid)} of {len(report.jobs)} jobs" if len(report.jobs) > 1 else f" in {invalid[0].name}"
        parts.append(counted(sum(len(job.errors) for job in invalid), "error") + where)
    elif len(report.jobs) == 1:
        parts.append(f"{report.jobs[0].name} is valid")
    elif report.jobs:
        parts.append(f"all {len(report.jobs)} jobs are valid")
    if report.unusable:
        parts.append(f"{counted(len(report.unusable), 'file')} could not be used")
    lines = ["; ".join(parts)]
    if not all(job.complete for job in invalid):
        lines.append(
            "What depends on fields of the wrong form could not be told yet: validate again when they are right."
        )
    return lines
