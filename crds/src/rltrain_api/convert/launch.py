"""Finds the training program in a command line: `python -m …`, `uv run …`, `ray job submit … --`, `srun …`.

Whatever starts the program (uv, Ray, Slurm, nohup) stands before it and is said to be left out; what stands behind it
are SkyRL's arguments. Must not know how a script came to that command line.
"""

from __future__ import annotations

import json
import posixpath
import re
from dataclasses import dataclass, field

from rltrain_api.convert.entrypoints import is_entrypoint
from rltrain_api.convert.report import Report

_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_OVERRIDE = re.compile(r"(\+\+?|~)?((data|trainer|generator|environment)\.[\w.\-\[\]]+|experiment)\s*=")
_PYTHON = re.compile(r"(python|pypy)[0-9.]*|torchrun|accelerate|deepspeed|uv|uvx")
# Options of `uv run` that take a value and say what must be installed.
_UV_PACKAGES = {"--extra": "the extra", "--with": "the package", "--group": "the dependency group"}
# What a launcher is and what takes its place, in words.
_LAUNCHERS = {
    "ray": "the operator submits the job to Ray",
    "srun": "the operator starts the pods",
    "sbatch": "the operator starts the pods",
    "mpirun": "the operator starts the pods",
    "torchrun": "the operator starts the ranks",
    "accelerate": "the operator starts the ranks",
    "deepspeed": "the operator starts the ranks",
    "nohup": "the job runs in the cluster",
    "screen": "the job runs in the cluster",
    "tmux": "the job runs in the cluster",
    "timeout": "the job has no deadline",
}


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a command: its text, or why that cannot be known (then `text` is what could be read of it)."""

    line: int
    text: str
    problem: str | None = None

    @property
    def known(self) -> bool:
        """Whether the text is all of the argument."""
        return self.problem is None


@dataclass(frozen=True, slots=True)
class Setting:
    """An environment variable that the program gets; `value` is None where `problem` says why it is not known."""

    name: str
    value: str | None
    line: int
    problem: str | None = None


@dataclass(slots=True)
class Launch:
    """The training program as it is started: its module or file, its arguments, its environment."""

    line: int
    program: str
    arguments: list[Argument]
    environment: list[Setting] = field(default_factory=list)


def looks_like_override(text: str) -> bool:
    """Whether an argument sets a field of SkyRL's configuration, in whatever age of its syntax."""
    return _OVERRIDE.match(text) is not None


def find_launch(arguments: list[Argument], report: Report | None = None) -> Launch | None:
    """The training program in a command, or None where the command starts something else.

    What the launcher in front of it asks for is told to `report`, if there is one.
    """
    position = _program_at(arguments)
    if position is None:
        return None
    launch = Launch(arguments[0].line, arguments[position].text, arguments[position + 1 :])
    if report is not None:
        launch.environment = _read_launcher(arguments[:position], report)
    return launch


def _program_at(arguments: list[Argument]) -> int | None:
    for index, argument in enumerate(arguments):
        if not argument.known:
            continue
        rest = arguments[index + 1 :]
        takes_overrides = any(looks_like_override(other.text) for other in rest)
        if index and arguments[index - 1].text == "-m" and _MODULE.fullmatch(argument.text):
            if is_entrypoint(argument.text) or (takes_overrides and _has_python(arguments[:index])):
                return index
        elif argument.text.endswith(".py") and takes_overrides and _has_python(arguments[:index]):
            return index
    return None


def _has_python(before: list[Argument]) -> bool:
    return any(_PYTHON.fullmatch(posixpath.basename(argument.text)) for argument in before)


def _read_launcher(words: list[Argument], report: Report) -> list[Setting]:
    environment: list[Setting] = []
    for index, word in enumerate(words):
        value = words[index + 1] if index + 1 < len(words) else None
        name = posixpath.basename(word.text)
        assignment = re.fullmatch(r"([A-Za-z_]\w*)=(.*)", word.text, re.S)
        if assignment is not None:  # of `env NAME=value python …`
            environment.append(Setting(assignment[1], assignment[2] if word.known else None, word.line, word.problem))
        elif name in _LAUNCHERS:
            report.note(word.line, f"`{name}` is left out: {_LAUNCHERS[name]}")
        elif word.text in _UV_PACKAGES and value is not None:
            what = f"{value.text!r}" if value.known else f"that {word.text} names ({value.problem})"
            report.check(value.line, f"the image must hold {_UV_PACKAGES[word.text]} {what}")
        elif word.text == "--env-file" and value is not None:
            report.missing(value.line, f"the variables in {value.text} are not known here; add them to runtime.env")
        elif word.text.startswith("--runtime-env"):
            environment += _runtime_env(word, value, report)
    return environment


def _runtime_env(option: Argument, value: Argument | None, report: Report) -> list[Setting]:
    """The variables of Ray's `--runtime-env-json`, and what else it asks for."""
    name, equals, text = option.text.partition("=")
    source = option if equals else value
    if source is None:
        return []
    text = text if equals else source.text
    try:
        wanted = json.loads(text) if name == "--runtime-env-json" and source.known else None
    except ValueError:
        wanted = None
    if not isinstance(wanted, dict):
        report.missing(
            source.line, f"{name} {source.problem or 'cannot be read here'}; add its env_vars to runtime.env"
        )
        return []
    for key in wanted:
        if key != "env_vars":
            report.check(source.line, f"{name} has {key!r}, which pods do not read: the image must hold what it brings")
    variables = wanted.get("env_vars")
    if not isinstance(variables, dict):
        return []
    return [Setting(str(key), str(setting), source.line) for key, setting in variables.items()]
