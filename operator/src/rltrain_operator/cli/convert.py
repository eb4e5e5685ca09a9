"""The verb `convert`: a SkyRL launch script, overrides or a configuration becomes a job on standard output.

What could not come along is said on standard error, line by line. Works offline, and runs nothing of the input. Exit
codes: 0 converted completely, 1 something is missing or the job is not valid, 2 nothing can be made of the input.
"""

from __future__ import annotations

import argparse
import re
import sys

from rltrain_api.convert import Conversion, ConversionError, Kind, Level, Options, convert
from rltrain_api.job import RLTrainingJob
from rltrain_api.parse import parse_job
from rltrain_api.reading import UnusableInput, read_text
from rltrain_api.yaml_text import yaml_text
from rltrain_operator.cli.errors import EXIT_FAILED, EXIT_OK, CommandError
from rltrain_operator.cli.screen import Screen
from rltrain_operator.plan.limits import beyond_this_release

ARGUMENTS = "<arguments>"  # what the overrides on the command line are called
_OVERRIDE = re.compile(r"[+~]{0,2}[A-Za-z_][\w.\-]*=")


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of `convert`."""
    parser.add_argument(
        "input",
        nargs="+",
        metavar="FILE",
        help="launch script, list of overrides, or configuration; - is standard input. Or overrides themselves: "
        "trainer.epochs=1 …",
    )
    parser.add_argument(
        "--from",
        dest="kind",
        choices=[str(kind) for kind in Kind],
        default=str(Kind.AUTO),
        help="what the input is (default: auto)",
    )
    parser.add_argument("--name", default="", help="the job's name (default: trainer.run_name, made a valid one)")
    parser.add_argument("--image", default="", help="the image of every pod of the job")
    parser.add_argument(
        "--trainer",
        choices=["auto", "builtin", "skyrl"],
        default="auto",
        help="whose trainer runs (default: builtin where it does all that is asked for, else skyrl)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        type=_assignment,
        metavar="NAME=VALUE",
        help="value of a variable of the script; may be repeated",
    )


def run(arguments: argparse.Namespace, screen: Screen) -> int:
    """Write the job; its notes follow on standard error."""
    source, text = _input(arguments.input)
    kind = Kind(arguments.kind)
    if source == ARGUMENTS and kind is Kind.AUTO:
        kind = Kind.OVERRIDES
    options = Options(
        source=source,
        name=arguments.name,
        image=arguments.image,
        trainer=arguments.trainer,
        variables=dict(arguments.set),
    )
    try:
        conversion = convert(text, kind, options)
    except ConversionError as error:
        raise CommandError(f"{_place(source, error.line)}: {error.problem}") from error
    screen.close()
    # As it is: the screen would put other characters in the place of some, and this is a file for a program.
    sys.stdout.write(yaml_text(conversion.document))
    sys.stdout.flush()
    for line in note_lines(conversion, source):
        print(line, file=sys.stderr)
    return EXIT_OK if conversion.is_complete else EXIT_FAILED


def note_lines(conversion: Conversion, source: str) -> list[str]:
    """Every note as `file:line: level: text`, then what is wrong with the job, then the verdict."""
    lines = [f"{_place(source, note.line)}: {note.level}: {_printable(note.text)}" for note in conversion.notes]
    job = parse_job(conversion.document)
    beyond = beyond_this_release(job) if isinstance(job, RLTrainingJob) and not conversion.errors else []
    lines += [f"{source}: {Level.CHECK}: {note}" for note in beyond]
    lines += [
        f"{_place(source, conversion.line_of(error))}: invalid: {_printable(str(error))}" for error in conversion.errors
    ]
    return [*lines, _verdict(conversion, len(beyond))]


def _place(source: str, line: int | None) -> str:
    return source if line is None else f"{source}:{line}"


def _verdict(conversion: Conversion, beyond: int) -> str:
    name = conversion.document["metadata"]["name"]
    missing = sum(note.level is Level.MISSING for note in conversion.notes)
    check = sum(note.level is Level.CHECK for note in conversion.notes) + beyond
    parts = [
        f"{missing} missing" if missing else "everything was carried over",
        f"{check} to check" if check else "",
        f"{len(conversion.errors)} invalid" if conversion.errors else "the job is valid",
    ]
    return f"{name}: {', '.join(part for part in parts if part)}"


def _input(words: list[str]) -> tuple[str, str]:
    """The name of the input and its text: a file, standard input, or the overrides on the command line."""
    if all(_OVERRIDE.match(word) for word in words):
        return ARGUMENTS, "\n".join(words)
    if len(words) > 1:
        raise CommandError(
            f"{len(words)} inputs are given", "Convert one file at a time, or name overrides only (key.path=value)."
        )
    try:
        source, text = read_text(words[0])
    except UnusableInput as error:
        raise CommandError(str(error)) from error
    if "\0" in text:
        raise CommandError(f"{source}: is not a text file: it holds a zero byte")
    return source, text


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z_]\w*", name):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)
