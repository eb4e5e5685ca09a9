"""From a SkyRL user's input to an RLTrainingJob: which reader reads it, and how what they find becomes a job.

Pure: text in, document and notes out. Must not know files or a command line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rltrain_api.convert.arguments import read_arguments
from rltrain_api.convert.detect import Kind, detect_kind
from rltrain_api.convert.documents import NotAConfigError, read_document
from rltrain_api.convert.entrypoints import NoTrainingError, check_entrypoint, is_legacy
from rltrain_api.convert.environment import read_environment
from rltrain_api.convert.fields import Path, leaf_paths
from rltrain_api.convert.items import TooManyItemsError, within_bounds
from rltrain_api.convert.job import Parts, assemble
from rltrain_api.convert.launch import Argument, looks_like_override
from rltrain_api.convert.options import Options
from rltrain_api.convert.report import Level, Note, Report
from rltrain_api.convert.resolved import is_written_out, minimal
from rltrain_api.convert.script import NoLaunchError, read_script, read_words
from rltrain_api.convert.slurm import read_directives
from rltrain_api.convert.syntax import ScriptError
from rltrain_api.convert.translate import Translation, translate
from rltrain_api.errors import FieldError
from rltrain_api.reading import UnusableInput

MAX_CHARACTERS = 3 * 1024 * 1024
MAX_SCRIPT_CHARACTERS = 256 * 1024


class ConversionError(ValueError):
    """Nothing can be made of the input.

    Args:
        problem: What is wrong and what to do, to follow the input's name.
        line: Where in the input, from 1; None when it concerns all of it.
    """

    def __init__(self, problem: str, line: int | None = None) -> None:
        super().__init__(problem if line is None else f"line {line}: {problem}")
        self.problem = problem
        self.line = line


@dataclass(frozen=True, slots=True)
class Conversion:
    """A job's document, what is to be said about it by line of the input, and what is wrong with it."""

    document: dict[str, Any]
    notes: tuple[Note, ...]
    errors: tuple[FieldError, ...]
    lines: Mapping[Path, int] = field(default_factory=dict)  # of the input, where fields of the configuration were set

    def line_of(self, error: FieldError) -> int | None:
        """The line of the input that set what an error is about; None where no line did."""
        path = tuple(error.path.removeprefix("spec.config.").partition("[")[0].split("."))
        return next((self.lines[path[:depth]] for depth in range(len(path), 0, -1) if path[:depth] in self.lines), None)

    @property
    def is_complete(self) -> bool:
        """Whether everything was carried over and the job is valid."""
        return not self.errors and all(note.level is not Level.MISSING for note in self.notes)


def convert(text: str, kind: Kind = Kind.AUTO, options: Options | None = None) -> Conversion:
    """Make a job of a launch script, a list of overrides or a configuration.

    Args:
        text: The input.
        kind: What it is; AUTO looks at it.
        options: What the person who converts says besides.

    Raises:
        ConversionError: nothing can be made of it.
    """
    options = options or Options()
    _check_size(text, MAX_CHARACTERS)
    if not text.strip():
        raise ConversionError("is empty; give a SkyRL launch script, overrides or a configuration")
    found = detect_kind(text) if kind is Kind.AUTO else kind
    if found is None:
        raise ConversionError(
            "looks like neither a launch script, nor overrides (key.path=value), nor a SkyRL configuration; say what "
            "it is with --from"
        )
    report = Report()
    try:
        if found in (Kind.SCRIPT, Kind.OVERRIDES):
            _check_size(text, MAX_SCRIPT_CHARACTERS)
        if found is Kind.SCRIPT:
            parts = _of_script(text, options, report)
        elif found is Kind.OVERRIDES:
            parts = _of_overrides(text, options, report)
        else:
            parts = _of_document(text, options, report, is_resolved=found is Kind.RESOLVED)
    except (NoLaunchError, NoTrainingError, NotAConfigError, TooManyItemsError) as error:
        raise ConversionError(str(error)) from error
    except ScriptError as error:
        raise ConversionError(str(error), error.line) from error
    except UnusableInput as error:
        raise ConversionError(error.cause, error.line) from error
    document, errors = assemble(parts, options, report)
    return Conversion(document, report.in_order(), tuple(errors), parts.lines)


def _check_size(text: str, most: int) -> None:
    if len(text) > most:
        raise ConversionError(f"has {len(text)} characters, more than {most}; is it a script or a configuration?")


def _of_script(text: str, options: Options, report: Report) -> Parts:
    reading = read_script(text, options.variables, report)
    launch = reading.launch
    check_entrypoint(launch.program, launch.line, report)
    within_bounds(launch.arguments)
    arguments = read_arguments(launch.arguments, report)
    legacy = is_legacy(launch.program)
    if legacy:
        report.check(
            launch.line,
            f"{launch.program} is older than SkyRL 0.1, whose defaults are used here; where your checkout's YAML files "
            "have others, set them",
        )
    translation = translate(arguments.items, report, hydra=arguments.hydra or legacy)
    request = read_directives(reading.directives, translation.tree, report)
    environment = read_environment(launch.environment, report)
    return Parts(translation.tree, environment, translation.lines, request.job_name, request.resources)


def _of_overrides(text: str, options: Options, report: Report) -> Parts:
    words = _override_arguments(text, options)
    within_bounds(words)
    arguments = read_arguments(words, report)
    return _parts(translate(arguments.items, report, hydra=arguments.hydra))


def _override_arguments(text: str, options: Options) -> list[Argument]:
    """The overrides of a list: words as a shell reads them, or, where that makes no overrides, a line each."""
    words = read_words(text, options.variables)
    if words and all(looks_like_override(word.text) or not word.known for word in words):
        return words
    lines = enumerate(text.splitlines(), start=1)
    return [
        Argument(number, line.strip()) for number, line in lines if line.strip() and not line.strip().startswith("#")
    ]


def _of_document(text: str, options: Options, report: Report, is_resolved: bool) -> Parts:
    reading = read_document(text, options.source, options.variables, report)
    translation = translate(reading.items, report, hydra=reading.hydra)
    if is_resolved or is_written_out(translation.tree):
        before = _count(translation.tree)
        translation.tree = minimal(translation.tree)
        left_out = before - _count(translation.tree)
        if left_out:
            report.note(None, f"{left_out} fields are left out, having the values that SkyRL gives them anyway")
    return _parts(translation)


def _count(tree: dict[str, Any]) -> int:
    count = 0
    for path in leaf_paths():
        section: Any = tree
        for name in path[:-1]:
            section = section.get(name) if isinstance(section, dict) else None
        count += isinstance(section, dict) and path[-1] in section
    return count


def _parts(translation: Translation) -> Parts:
    return Parts(translation.tree, lines=translation.lines)
