"""The verb `env`: the environment of a job's pods, with the layer that each value comes from; and what variables mean.

Works offline. The only place that reads the environment of its own process, and only when told to (`--forward`). Exit
codes: 0 the job is valid, 1 it is not, 2 the file or the arguments cannot be used. No value of a secret is shown.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence

from rltrain_api.env.catalogue import CATALOGUE, SECTIONS, near_miss
from rltrain_api.env.compose import Absent, Earlier, Environment, Layer, Setting
from rltrain_api.env.exclusion import fits
from rltrain_api.env.forward import Forwarded, forward
from rltrain_api.env.pods import job_environment, submitted_variables
from rltrain_api.env.presets import PRESETS
from rltrain_api.env.refused import refused_in_pods
from rltrain_api.env.secrecy import HIDDEN, shown
from rltrain_api.env.variable import Variable
from rltrain_api.job import RLTrainingJob
from rltrain_api.reading import UnusableInput
from rltrain_api.spec.runtime import EnvFrom
from rltrain_api.yaml_text import yaml_text
from rltrain_operator.cli.chart_values import chart_environment
from rltrain_operator.cli.errors import EXIT_FAILED, EXIT_OK, CommandError
from rltrain_operator.cli.job_files import JudgedJob, read_job_file
from rltrain_operator.cli.screen import Screen

EXCLUDE_VARIABLE = "RLLM_EXCLUDE"
# Longer values stand in their line all the same, but do not push the next column aside for all others.
WIDEST_COLUMN = 44


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of `env`."""
    parser.add_argument("file", nargs="?", metavar="FILE", help="YAML or JSON with a job; - is standard input")
    parser.add_argument("--preset", choices=list(PRESETS), help="as if spec.runtime.envPreset were this")
    parser.add_argument(
        "--chart-values",
        metavar="VALUES",
        help="add the jobEnvironment of the operator's chart: what `helm get values RELEASE -o yaml` says; - is "
        "standard input",
    )
    parser.add_argument(
        "--forward", action="store_true", help="add the variables of this shell that rLLM would forward"
    )
    parser.add_argument(
        "--exclude",
        metavar="LIST",
        help=f"what not to forward: VLLM* or single names, separated by commas (default: ${EXCLUDE_VARIABLE})",
    )
    parser.add_argument(
        "--runtime-env-json", metavar="JSON", help='add {"env_vars": {…}} of a submission, as for `ray job submit`'
    )
    parser.add_argument(
        "-o",
        "--output",
        choices=["table", "yaml", "shell"],
        default="table",
        help="for people (default), as pods have it, or to set up a shell likewise",
    )
    parser.add_argument(
        "--explain", nargs="?", const="*", metavar="NAME", help="say what a variable is for and who reads it; or all"
    )


def run(arguments: argparse.Namespace, screen: Screen) -> int:
    """Show the environment of every job in the file, or explain variables."""
    if arguments.explain is not None:
        for line in explain_lines(arguments.explain):
            screen.line(line)
        return EXIT_OK
    if arguments.file is None:
        raise CommandError("no FILE given", "Name a file with a job, or ask for --explain [NAME].")
    if arguments.exclude is not None and not arguments.forward:
        raise CommandError("--exclude is about --forward", "Add --forward, or use spec.runtime.excludeEnv in the job.")
    submission = _submission(arguments.runtime_env_json)
    cluster_wide = {} if arguments.chart_values is None else chart_environment(arguments.chart_values)
    forwarded = Forwarded({}, {}, ())
    if arguments.forward:
        excluded = arguments.exclude if arguments.exclude is not None else os.environ.get(EXCLUDE_VARIABLE, "")
        forwarded = forward(os.environ, excluded)
    try:
        jobs = read_job_file(arguments.file).jobs
    except UnusableInput as error:
        raise CommandError(str(error)) from error
    for judged in jobs:
        if judged.job is not None:
            job = _with_preset(judged.job, arguments.preset)
            environment = job_environment(
                job, cluster_wide=cluster_wide, forwarded=forwarded.values, submission=submission
            )
            _show(job, with_shell(environment, forwarded), arguments.output, screen, heading=len(jobs) > 1)
    return _verdict(jobs)


def _submission(text: str | None) -> dict[str, str]:
    if text is None:
        return {}
    try:
        return submitted_variables(text)
    except ValueError as error:
        raise CommandError(f"--runtime-env-json {error}") from error


def _with_preset(job: RLTrainingJob, preset: str | None) -> RLTrainingJob:
    if preset is None:
        return job
    runtime = job.spec.runtime.model_copy(update={"env_preset": preset})
    return job.model_copy(update={"spec": job.spec.model_copy(update={"runtime": runtime})})


def with_shell(environment: Environment, forwarded: Forwarded) -> Environment:
    """The environment, with what of the shell stays behind and what is doubtful about the rest."""
    known = environment.values.keys() | {entry.name for entry in environment.absent}
    left = [Absent(name, reason) for name, reason in forwarded.left_out.items() if name not in known]
    return Environment(environment.settings, (*environment.absent, *left), (*forwarded.warnings, *environment.warnings))


def _show(job: RLTrainingJob, environment: Environment, output: str, screen: Screen, *, heading: bool) -> None:
    """Write one job's environment; in the forms for programs, remarks go to standard error."""
    if output == "table":
        for line in table_lines(job, environment):
            screen.line(line)
        return
    if heading:
        screen.line("---" if output == "yaml" else f"# {job.metadata.name}")
    for line in yaml_lines(job, environment) if output == "yaml" else shell_lines(environment):
        screen.line(line)
    for line in remark_lines(environment):
        print(line, file=sys.stderr)


def _verdict(jobs: Iterable[JudgedJob]) -> int:
    """Say what is wrong with the jobs, and return the exit code."""
    lines = [line for judged in jobs for line in judged.error_lines()]
    if lines:
        print("", *lines, sep="\n", file=sys.stderr)
    return EXIT_FAILED if lines else EXIT_OK


def table_lines(job: RLTrainingJob, environment: Environment) -> list[str]:
    """One line for each variable, by name; then what comes by reference, what pods do not get, and what is doubtful."""
    sources = [source_name(source) for source in job.spec.runtime.env_from]
    lines = [f"{job.metadata.name}: {_counted(len(environment.settings))} those of RLTrain, KubeRay and Ray"]
    if environment.settings:
        lines += ["", *_columns([("VARIABLE", "VALUE", "FROM", "OVERRIDES"), *_rows(environment.settings)])]
    if sources:
        lines += ["", "From outside, each key that nothing above sets; the keys are known in the cluster only"]
        lines += [f"  all of {source}" for source in sources]
    return [*lines, *remark_lines(environment)]


def _counted(number: int) -> str:
    if number == 0:
        return "pods have no variables but"
    return f"{number} variable{'' if number == 1 else 's'} in every pod, besides"


def remark_lines(environment: Environment) -> list[str]:
    """What pods do not get, and what is doubtful; nothing where there is neither."""
    lines = []
    if environment.absent:
        lines += ["", "Not in pods"]
        lines += [f"  {entry.name} {entry.reason}{_would_be(entry)}" for entry in environment.absent]
    if environment.warnings:
        lines += ["", "Worth a look", *(f"  {warning}" for warning in environment.warnings)]
    return lines


def yaml_lines(job: RLTrainingJob, environment: Environment) -> list[str]:
    """The `env` and `envFrom` of the pods' containers, without the values of secrets."""
    runtime = job.spec.runtime
    visible = [setting for setting in environment.settings if _shown(setting) != HIDDEN]
    document: dict[str, object] = {"env": [{"name": setting.name, "value": _literal(setting)} for setting in visible]}
    if runtime.env_from:
        document["envFrom"] = [
            source.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)
            for source in runtime.env_from
        ]
    hidden = [
        f"# {setting.name} is set too, and is secret" for setting in environment.settings if setting not in visible
    ]
    return [*yaml_text(document).splitlines(), *hidden]


def shell_lines(environment: Environment) -> list[str]:
    """Commands that set up a shell as pods are, without the values of secrets."""
    lines = [f"unset {entry.name}" for entry in environment.absent if entry.name not in environment.values]
    for setting in environment.settings:
        if _shown(setting) == HIDDEN:
            lines.append(f"# export {setting.name}=…  (secret: set it yourself)")
        else:
            lines.append(f"export {setting.name}={shlex.quote(setting.value)}")
    return lines


def source_name(source: EnvFrom) -> str:
    """What to call a Secret or ConfigMap whose keys become variables."""
    if source.secret_ref is not None:
        return f"Secret {source.secret_ref.name}"
    return f"ConfigMap {source.config_map_ref.name}" if source.config_map_ref is not None else "nothing"


def explain_lines(pattern: str) -> list[str]:
    """The catalogue in a line for each variable (`*`), or all that is known of those that fit.

    Raises:
        CommandError: none fits.
    """
    if pattern == "*":
        return list(_overview())
    found = [variable for name, variable in CATALOGUE.items() if fits(pattern, name)]
    if not found:
        refusal = refused_in_pods(pattern)
        if refusal is not None:
            return [f"{pattern} {refusal}"]
        near = near_miss(pattern)
        remedy = f"Did you mean {near.name}?" if near else "`kubectl rltrain env --explain` lists those that are."
        raise CommandError(f"{pattern} is not in the catalogue", remedy)
    return [line for index, variable in enumerate(found) for line in _details(variable, first=index == 0)]


def _overview() -> Iterator[str]:
    width = max(map(len, CATALOGUE))
    for number, title in SECTIONS.items():
        variables = [variable for variable in CATALOGUE.values() if variable.section == number]
        if variables:
            yield from ([] if number == 1 else [""])
            yield title
        for variable in variables:
            dead = "" if variable.readers and not variable.overruled else f" [{_no_effect(variable)}]"
            yield f"  {variable.name:{width}}  {variable.meaning}{dead}"


def _details(variable: Variable, *, first: bool) -> Iterator[str]:
    yield from ([] if first else [""])
    yield f"{variable.name}: {variable.meaning}"
    presets = [
        f"{name} {preset.values[variable.name]}" for name, preset in PRESETS.items() if variable.name in preset.values
    ]
    facts = {
        "values": variable.values.words,
        "unset": variable.default,
        "read by": variable.read_by if not variable.overruled else f"{variable.read_by}; {_no_effect(variable)}",
        "to know": variable.truth,
        "instead": variable.instead,
        "presets": ", ".join(presets),
        "refused": refused_in_pods(variable.name) or "",
        "secret": "its value is never shown" if variable.secret else "",
    }
    for title, fact in facts.items():
        if fact:
            yield f"  {title:8} {fact}"


def _no_effect(variable: Variable) -> str:
    return "no effect" if variable.readers else "read by nobody"


def _rows(settings: Iterable[Setting]) -> Iterator[tuple[str, str, str, str]]:
    for setting in sorted(settings, key=lambda setting: setting.name):
        overrides = ", ".join(_earlier(setting.name, earlier) for earlier in setting.overrides)
        yield setting.name, _shown(setting), setting.origin, overrides


def _would_be(entry: Absent) -> str:
    values = ", ".join(_earlier(entry.name, earlier) for earlier in entry.would_be)
    return f" [{values}]" if values else ""


def _earlier(name: str, earlier: Earlier) -> str:
    return f"{_one_line(shown(name, earlier.value))} ({earlier.origin})"


def _shown(setting: Setting) -> str:
    return _one_line(shown(setting.name, setting.value))


def _one_line(value: str) -> str:
    """A value as it fits into a table: empty ones and those of several lines in quotes."""
    return value if value and value.isprintable() else repr(value)


def _literal(setting: Setting) -> str:
    """The value as Kubernetes has to read it: only a job's own $(NAME) is meant to be expanded."""
    return setting.value if setting.layer is Layer.JOB else setting.value.replace("$(", "$$(")


def _columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows as lines, each column as wide as its widest cell, within reason."""
    widths = [max(len(cell) for cell in column if len(cell) <= WIDEST_COLUMN) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
