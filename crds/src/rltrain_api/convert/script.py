"""Reads a launch script as a shell would up to the training program, without running anything.

Assignments, defaults, exports and arrays are followed. What depends on the moment (conditions, loops, other programs,
files) is not evaluated but told, line by line. Must not know SkyRL's fields.
"""

from __future__ import annotations

import contextlib
import posixpath
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field

from rltrain_api.convert.assignments import (
    Assignment,
    appended,
    assignment_in,
    assignments_before,
    is_array,
    plain_text,
    readable,
)
from rltrain_api.convert.blocks import Block, Placed, arrange
from rltrain_api.convert.commands import explain_command
from rltrain_api.convert.expand import UnresolvedError, Variables, expand_value, expand_word
from rltrain_api.convert.launch import Argument, Launch, Setting, find_launch, looks_like_override
from rltrain_api.convert.report import Level, Report
from rltrain_api.convert.syntax import ScriptError, Statement, Variable, Word
from rltrain_api.convert.words import split_script
from rltrain_api.env import is_secret

_DECLARATIONS = ("export", "declare", "typeset", "local", "readonly")
_READS = ("read", "mapfile", "readarray")
_SHELLS = ("bash", "sh", "zsh", "dash")
_MAX_SHELL_DEPTH = 4


class NoLaunchError(ValueError):
    """The script starts no training program that could be found; the message says what to do."""


@dataclass(frozen=True, slots=True)
class ScriptReading:
    """What a script comes to: the training program, and what Slurm was asked for."""

    launch: Launch
    directives: Mapping[str, tuple[str, int]]  # of #SBATCH lines: name without dashes -> (value, line)


def read_script(text: str, given: Mapping[str, str], report: Report) -> ScriptReading:
    """Find the training program of a script, with its arguments and its environment.

    Args:
        text: The script.
        given: Values of variables, as from the caller's environment.
        report: Gets a note for everything that is not carried over.

    Raises:
        NoLaunchError: there is no training program in it.
        ScriptError: it cannot be split into words.
    """
    reader = _Reader(Variables(given), report)
    reader.read(split_script(text))
    launch = reader.finish()
    if launch is None:
        raise NoLaunchError(
            "no training program was found, such as `python -m skyrl.train.entrypoints.main_base trainer.epochs=1 …`; "
            "convert the script that starts it"
        )
    return ScriptReading(launch, _directives(text))


def read_words(text: str, given: Mapping[str, str]) -> list[Argument]:
    """All words of a text as a shell would read them, such as a list of overrides with quotes and continuations.

    Where quotes are not closed, there are none: the text was not written for a shell.
    """
    try:
        statements = split_script(text)
    except ScriptError:
        return []
    variables = Variables(given)
    return [argument for statement in statements for argument in expand_arguments(statement, 0, variables)]


def expand_arguments(statement: Statement, first: int, variables: Variables) -> list[Argument]:
    """The arguments that the words of a statement become, from the index `first` on."""
    found: list[Argument] = []
    for word, line in zip(statement.words[first:], statement.lines[first:], strict=True):
        try:
            found += [Argument(line, text) for text in expand_word(word, variables)]
        except UnresolvedError as error:
            found.append(Argument(line, readable(word), str(error)))
    return found


def _directives(text: str) -> dict[str, tuple[str, int]]:
    found: dict[str, tuple[str, int]] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.startswith("#SBATCH"):
            continue
        try:
            words = shlex.split(line.removeprefix("#SBATCH"), comments=True)
        except ValueError:  # an odd quote
            words = line.removeprefix("#SBATCH").split()
        while words:
            name, equals, value = words.pop(0).lstrip("-").partition("=")
            if not equals and words and not words[0].startswith("-"):
                value = words.pop(0)
            found[name] = (value, number)
    return found


@dataclass(slots=True)
class _BlockSummary:
    """What a block would have done."""

    sets: list[str] = field(default_factory=list)
    does: list[str] = field(default_factory=list)  # what matters to the run


class _Reader:
    """Walks the statements in order."""

    def __init__(self, variables: Variables, report: Report) -> None:
        self._variables = variables
        self._report = report
        self._exported: dict[str, int] = {}  # name -> line of the export
        self._exports_everything = False  # after `set -a`
        self._overruled: dict[str, int] = {}  # variable of --set -> line where the script assigns to it
        self._blocks: dict[Block, _BlockSummary] = {}
        self._left_out: dict[str, int] = {}  # command without effect -> its first line
        self._before: Statement | None = None  # the statement before this one
        self._launches: list[tuple[Launch, Block | None]] = []

    def read(self, statements: list[Statement], shell_depth: int = 0) -> None:
        """Follow the statements; `shell_depth` counts shells started by shells."""
        placed, unclosed = arrange(statements)
        for entry in placed:
            if entry.block is not None:
                self._in_block(entry, entry.block)
            elif entry.first < len(entry.statement.words):
                self._command(entry.statement, entry.first, shell_depth)
            self._before = entry.statement
        for opened in unclosed:
            self._report.missing(opened.line, f"the `{opened.kind}` that begins here has no end")

    def finish(self) -> Launch | None:
        """Tell what was left out all along; the training program, preferably one that runs for certain."""
        for skipped, summary in self._blocks.items():
            self._tell_block(skipped, summary)
        if self._left_out:
            names = ", ".join(f"`{name}`" for name in self._left_out)
            self._report.note(min(self._left_out.values()), f"left out, having no effect on the run: {names}")
        chosen = next((entry for entry in self._launches if entry[1] is None), None)
        chosen = chosen or next(iter(self._launches), None)
        for launch, block in self._launches:
            if chosen is not None and launch is not chosen[0]:
                self._report.missing(launch.line, "a second training program is not converted; convert it on its own")
            elif block is not None:
                self._report.check(launch.line, f"the training program runs within the `{block.kind}` of {block.where}")
        self._tell_variables(chosen[0].line if chosen else None)
        return chosen[0] if chosen else None

    def _tell_variables(self, line: int | None) -> None:
        variables = self._variables
        if variables.arguments_used:
            self._report.note(line, 'the script\'s own arguments ("$@") are empty here; put any into spec.overrides')
        for name in sorted(variables.given):
            if name in self._overruled:
                self._report.note(self._overruled[name], f"{name} has the value of --set, not the one assigned here")
            elif name not in variables.used:
                self._report.check(None, f"--set {name} has no effect: the script does not use {name}")

    def _tell_block(self, block: Block, summary: _BlockSummary) -> None:
        where = f"the `{block.kind}` of {block.where} is not evaluated"
        names = ", ".join(dict.fromkeys(summary.sets))
        sets = [f"sets {names}"] if names else []
        if summary.does:
            does = ", ".join(dict.fromkeys([*summary.does, *sets]))
            self._report.missing(block.line, f"{where}, and nothing of what it does is carried over: {does}")
        else:
            self._report.note(block.line, f"{where}{f': what it {sets[0]} to is not known' if sets else ''}")

    # Statements that run for certain.

    def _command(self, statement: Statement, first: int, shell_depth: int) -> None:
        assignments, at = assignments_before(statement.words, first)
        line = statement.lines[first]
        if at == len(statement.words):
            for assignment in assignments:
                self._assign(assignment, line)
                if self._exports_everything:
                    self._exported[assignment.name] = line
            return
        name = statement.plain(at) or ""
        if name in _DECLARATIONS:
            self._declare(statement, at, name == "export")
        elif name == "unset":
            self._unset(statement, at)
        elif name in ("set", "shopt") and _turns_on_allexport(statement, at):
            self._exports_everything = True
        elif name == ":":
            self._evaluate(statement.words[at + 1 :], line)
        elif name in _READS:
            for word in statement.words[at + 1 :]:
                self._variables.forget(plain_text(word), f"is read while the script runs (line {line})")
        else:
            self._run(statement, at, assignments, shell_depth)

    def _run(self, statement: Statement, at: int, assignments: list[Assignment], shell_depth: int) -> None:
        arguments = expand_arguments(statement, at, self._variables)
        if self._is_launch(statement, arguments, assignments, None):
            return
        script = _inner_script(arguments)
        if script is not None and shell_depth < _MAX_SHELL_DEPTH:
            try:
                self.read(split_script(script.text, script.line), shell_depth + 1)
            except ScriptError as error:
                self._report.missing(script.line, f"the script in quotes cannot be read: {error}")
            return
        self._explain(arguments)

    def _is_launch(
        self, statement: Statement, arguments: list[Argument], assignments: list[Assignment], block: Block | None
    ) -> bool:
        """Keep the training program with its environment, if the command starts it."""
        launch = find_launch(arguments, self._report)
        if launch is None:
            return False
        prefix = [self._setting(assignment, statement.line) for assignment in assignments]
        launch.environment = self._environment() + prefix + launch.environment
        self._launches.append((launch, block))
        self._tell_redirections(statement)
        return True

    def _explain(self, arguments: list[Argument]) -> None:
        if not arguments:
            return
        first = arguments[0]
        if not first.known:
            starts_ray = any(argument.text == "ray" for argument in arguments[1:])
            arguments = [Argument(first.line, "ray")] if starts_ray else arguments
        if not arguments[0].known:
            self._report.missing(first.line, f"a command is not evaluated: {first.problem}")
            return
        if looks_like_override(first.text):
            self._report.missing(first.line, self._cut_off())
            return
        explanation = explain_command([argument.text for argument in arguments])
        if explanation is None:
            self._left_out.setdefault(posixpath.basename(first.text), first.line)
        else:
            self._report.tell(explanation[0], first.line, explanation[1])

    def _cut_off(self) -> str:
        """Why an override stands where a shell expects a command."""
        line = self._before.broken_off if self._before is not None else None
        cause = (
            f"a comment, or blanks behind a backslash, end it in line {line}; take them away"
            if line is not None
            else "no backslash stands at the end of the line before; add one"
        )
        return f"what stands from here on is no part of the command, so SkyRL never got it: {cause} to carry it over"

    def _assign(self, assignment: Assignment, line: int) -> None:
        name, word = assignment.name, assignment.word
        variables = self._variables
        if name in variables.given:
            self._overruled.setdefault(name, line)
            return
        try:
            value: str | list[str] = expand_word(word, variables) if is_array(word) else expand_value(word, variables)
            if assignment.appends:
                value = appended(variables.lookup(name), value)
        except UnresolvedError as error:
            variables.forget(name, f"cannot be known (line {line}), because {error.problem}", error.remedy)
            return
        variables.assign(name, value)

    def _declare(self, statement: Statement, at: int, exports: bool) -> None:
        for word, line in zip(statement.words[at + 1 :], statement.lines[at + 1 :], strict=True):
            text = plain_text(word)
            if text.startswith("-"):
                exports = exports or "x" in text
                continue
            assignment = assignment_in(word)
            if assignment is not None:
                self._assign(assignment, line)
            name = assignment.name if assignment is not None else text
            if exports:
                self._exported[name] = line

    def _unset(self, statement: Statement, at: int) -> None:
        for word, line in zip(statement.words[at + 1 :], statement.lines[at + 1 :], strict=True):
            name = plain_text(word)
            if name.startswith("-"):
                continue
            self._variables.unset(name)
            self._exported.pop(name, None)
            self._report.note(line, f"unset {name}: pods get only the variables that the job gives them")

    def _evaluate(self, words: list[Word], line: int) -> None:
        """`: "${NAME:=default}"`: nothing but the assignment in it; who uses the variable says why it is not known."""
        for word in words:
            for name in (part.name for part in word if isinstance(part, Variable)):
                if is_secret(name, ""):  # the caller must have exported it, so the program gets it
                    self._exported.setdefault(name, line)
            with contextlib.suppress(UnresolvedError):
                expand_word(word, self._variables)

    def _environment(self) -> list[Setting]:
        return [self._exported_setting(name, line) for name, line in self._exported.items()]

    def _exported_setting(self, name: str, line: int) -> Setting:
        try:
            value = self._variables.lookup(name)
        except UnresolvedError as error:
            return Setting(name, None, line, str(error))
        if value is None:
            return Setting(name, None, line, f"{name} is not set in the script; give its value with --set {name}=VALUE")
        return Setting(name, value if isinstance(value, str) else " ".join(value), line)

    def _setting(self, assignment: Assignment, line: int) -> Setting:
        try:
            return Setting(assignment.name, expand_value(assignment.word, self._variables), line)
        except UnresolvedError as error:
            return Setting(assignment.name, None, line, str(error))

    def _tell_redirections(self, statement: Statement) -> None:
        for redirection in statement.redirections:
            target = readable(redirection.target)
            if redirection.operator not in (">&", "<&") and target != "/dev/null":
                self._report.note(
                    statement.line, f"the output is not written to {target}: `kubectl logs` has that of the pods"
                )

    # Statements that run under a condition, several times or later.

    def _in_block(self, entry: Placed, block: Block) -> None:
        statement, at = entry.statement, entry.first
        summary = self._blocks.setdefault(block, _BlockSummary())
        reason = f"is set in the `{block.kind}` of line {block.line}"
        if block.variable is not None:
            self._forget(block.variable, reason, summary)
        if at >= len(statement.words):
            return
        assignments, command_at = assignments_before(statement.words, at)
        name = statement.plain(command_at)
        if command_at == len(statement.words):
            for assignment in assignments:
                if assignment.appends:  # what the variable holds without it is known, and most of it
                    summary.does.append(f"adds to {assignment.name}")
                else:
                    self._forget(assignment.name, reason, summary)
            return
        if name in _DECLARATIONS or name in ("unset", "read"):
            for word in statement.words[command_at + 1 :]:
                declared = assignment_in(word)
                self._forget(declared.name if declared else plain_text(word), reason, summary)
                if name == "export":
                    summary.does.append(f"exports {declared.name if declared else plain_text(word)}")
            return
        arguments = expand_arguments(statement, command_at, self._variables)
        if self._is_launch(statement, arguments, assignments, block):
            return
        if arguments and arguments[0].known:
            explanation = explain_command([argument.text for argument in arguments])
            if explanation is not None and explanation[0] is Level.MISSING:
                summary.does.append(f"runs `{posixpath.basename(arguments[0].text)}`")

    def _forget(self, name: str, reason: str, summary: _BlockSummary) -> None:
        if name.isidentifier():
            self._variables.forget(name, reason)
            if name not in summary.sets:
                summary.sets.append(name)


def _turns_on_allexport(statement: Statement, at: int) -> bool:
    words = [plain_text(word) for word in statement.words[at + 1 :]]
    return words[:1] == ["-a"] or words[:2] == ["-o", "allexport"]


def _inner_script(arguments: list[Argument]) -> Argument | None:
    """The script behind `bash -c`, wherever in the command that stands."""
    for index, argument in enumerate(arguments[:-2]):
        option = arguments[index + 1].text
        if posixpath.basename(argument.text) in _SHELLS and re.fullmatch(r"-[a-z]*c", option):
            script = arguments[index + 2]
            return script if script.known else None
    return None
