"""What words of a script stand for: variables, defaults, arrays, plain arithmetic. Nothing is run.

What cannot be known without a shell, the caller's environment or a secret raises `UnresolvedError`, whose message says
why and what to do. Must not know which word is which argument.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from rltrain_api.convert.syntax import Arithmetic, Array, Opaque, Text, Variable, Word
from rltrain_api.env.secrecy import is_secret

MAX_VALUE_LENGTH = 65_536
MAX_ENTRIES = 4096
_HOME = "~"  # whose home it is does not matter: pods have none, and paths in it are moved onto volumes

_ARITHMETIC: Mapping[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: lambda left, right: abs(left) // abs(right) * (1 if (left < 0) == (right < 0) else -1),  # as C does it
    ast.Mod: lambda left, right: abs(left) % abs(right) * (1 if left >= 0 else -1),
}
_MAX_EXPRESSION_LENGTH = 256


class UnresolvedError(ValueError):
    """A word whose value cannot be known here.

    Args:
        problem: Why, without a full stop.
        remedy: What to do; may be empty.
    """

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(f"{problem}; {remedy}" if remedy else problem)
        self.problem = problem
        self.remedy = remedy


@dataclass(slots=True)
class Variables:
    """The variables of a script while it is read.

    `given` come from the person who converts; whatever the script assigns to them, they keep their value.
    """

    given: Mapping[str, str] = field(default_factory=dict)
    values: dict[str, str | list[str]] = field(default_factory=dict)
    unknown: dict[str, UnresolvedError] = field(default_factory=dict)  # name -> what its use comes to
    used: set[str] = field(default_factory=set)
    arguments_used: bool = False  # "$@" was expanded, to nothing

    def __post_init__(self) -> None:
        self.values = {"HOME": _HOME, **self.given}

    def assign(self, name: str, value: str | list[str]) -> None:
        """The variable has this value from here on, unless the person who converts has given another."""
        if name not in self.given:
            self.values[name] = value
            self.unknown.pop(name, None)

    def forget(self, name: str, reason: str, remedy: str = "") -> None:
        """The variable's value cannot be known from here on, unless the person who converts has given it.

        Args:
            name: The variable.
            reason: Why, to follow its name.
            remedy: What to do; empty means giving its value.
        """
        if name in self.given:
            return
        self.values.pop(name, None)
        self.unknown[name] = UnresolvedError(f"{name} {reason}", remedy or _give(name))

    def unset(self, name: str) -> None:
        """The variable is gone, unless the person who converts has given it."""
        if name in self.given:
            return
        self.values.pop(name, None)
        self.unknown.pop(name, None)

    def lookup(self, name: str) -> str | list[str] | None:
        """The value, or None where the script has set none.

        Raises:
            UnresolvedError: the variable holds a secret, or something that cannot be known.
        """
        self.used.add(name)
        if _is_secret_name(name):
            raise UnresolvedError(f"{name} looks like a secret by its name, and secrets are not carried over")
        if name in self.unknown:
            raise self.unknown[name]
        return self.values.get(name)


@lru_cache(maxsize=1024)
def _is_secret_name(name: str) -> bool:
    return is_secret(name, "")


def expand_word(word: Word, variables: Variables) -> list[str]:
    """The arguments that a word becomes: usually one, several for arrays and unquoted blanks, none for an empty `$X`.

    Raises:
        UnresolvedError: a part of it cannot be known.
    """
    fields = _Fields()
    _fill(fields, word, variables)
    return fields.finish()


def _fill(fields: _Fields, word: Word, variables: Variables) -> None:
    for part in word:
        if isinstance(part, Array):
            fields.add(expand_words(part.words, variables))
        elif isinstance(part, Text) and not part.quoted:
            fields.split(part.text)  # blanks outside of quotes are there only behind the operator of a `${…}`
        elif not isinstance(part, Variable):
            fields.append(_constant(part, variables))
        elif not part.quoted and (instead := _word_instead(part, variables)) is not None:
            _fill(fields, instead, variables)
        else:
            _fill_value(fields, part, word, variables)


def _fill_value(fields: _Fields, part: Variable, word: Word, variables: Variables) -> None:
    value = _variable(part, variables)
    if isinstance(value, str) or not part.every:
        if part.quoted:
            fields.append(_first(value))
        else:
            fields.split(_first(value))
    elif part.quoted:
        others = [other for other in word if other is not part]
        if value or not all(isinstance(other, Text) and not other.text for other in others):
            fields.add(value)
        else:
            fields.forget()  # `"$@"` without arguments is nothing, not an empty argument
    else:
        for index, entry in enumerate(value):
            fields.split(f" {entry}" if index else entry)


def _word_instead(part: Variable, variables: Variables) -> Word | None:
    """The word behind `:-` or `:+` where it counts: its own quotes keep their meaning."""
    kind = part.operator.removeprefix(":")
    if kind not in ("-", "+") or part.name.isdecimal() or part.every:
        return None
    value = variables.lookup(part.name)
    missing = value is None or (part.operator.startswith(":") and value in ("", []))
    if missing == (kind == "-"):
        return part.argument
    return () if kind == "+" else None


class _Fields:
    """The arguments of one word as they grow."""

    def __init__(self) -> None:
        self._finished: list[str] = []
        self._current: str | None = None

    def append(self, text: str) -> None:
        """More of the current argument."""
        self._current = (self._current or "") + text

    def add(self, values: list[str]) -> None:
        """Arguments of their own; the first one joins what stands before it, the last one what comes behind."""
        for index, value in enumerate(values):
            if index:
                self._end()
            self.append(value)

    def split(self, text: str) -> None:
        """Text outside of quotes: its blanks end arguments, and nothing of it may be left."""
        if text[:1].isspace():
            self._end()
        self.add(text.split())
        if text[-1:].isspace():
            self._end()

    def forget(self) -> None:
        """No argument comes out of what stands here."""
        self._current = None

    def _end(self) -> None:
        if self._current is not None:
            self._finished.append(self._current)
            self._current = None

    def finish(self) -> list[str]:
        """The arguments, within bounds.

        Raises:
            UnresolvedError: there are too many, or one is too long.
        """
        self._end()
        if len(self._finished) > MAX_ENTRIES:
            raise UnresolvedError(f"more than {MAX_ENTRIES} arguments come out of it")
        if any(len(value) > MAX_VALUE_LENGTH for value in self._finished):
            raise UnresolvedError(f"a value of more than {MAX_VALUE_LENGTH} characters comes out of it")
        return self._finished


def expand_value(word: Word, variables: Variables) -> str:
    """The one value that a word has on the right of `NAME=`, where blanks do not split.

    Raises:
        UnresolvedError: a part of it cannot be known.
    """
    value = ""
    for part in word:
        if isinstance(part, Array):
            value += " ".join(expand_words(part.words, variables))
        elif isinstance(part, Variable):
            found = _variable(part, variables)
            value += " ".join(found) if isinstance(found, list) and part.every else _first(found)
        else:
            value += _constant(part, variables)
        if len(value) > MAX_VALUE_LENGTH:
            raise UnresolvedError(f"a value of more than {MAX_VALUE_LENGTH} characters comes out of it")
    return value


def expand_words(words: Iterable[Word], variables: Variables) -> list[str]:
    """All arguments that the words become.

    Raises:
        UnresolvedError: a part cannot be known, or there are too many.
    """
    values = [value for word in words for value in expand_word(word, variables)]
    if len(values) > MAX_ENTRIES:
        raise UnresolvedError(f"more than {MAX_ENTRIES} arguments come out of it")
    return values


def _constant(part: Text | Arithmetic | Opaque, variables: Variables) -> str:
    if isinstance(part, Text):
        return part.text
    if isinstance(part, Arithmetic):
        return str(evaluate(part.expression, variables))
    raise UnresolvedError(f"{_shown(part.source)} is known to the shell only")


def _first(value: str | list[str]) -> str:
    """An array without an index means its first entry."""
    return value if isinstance(value, str) else value[0] if value else ""


def _variable(part: Variable, variables: Variables) -> str | list[str]:
    if part.name in ("@", "*"):
        variables.arguments_used = True
        return []
    if not part.name.isidentifier() and not part.name.isdecimal():
        raise UnresolvedError(f"${part.name} is known to the shell only")
    value = None if part.name.isdecimal() else variables.lookup(part.name)
    missing = value is None or (part.operator.startswith(":") and value in ("", []))
    kind = part.operator.removeprefix(":")
    if kind == "+":
        return "" if missing else expand_value(part.argument, variables)
    if not missing:
        assert value is not None, "a missing value was told apart above"
        return value
    if kind in ("-", "="):
        return _default(part, variables)
    if kind == "?":
        hint = expand_value(part.argument, variables)
        raise UnresolvedError(
            f"{part.name} must be set by the caller{f' ({_shown(hint)})' if hint else ''}", _give(part.name)
        )
    if value is not None:
        return value
    if part.name.isdecimal():
        raise UnresolvedError(f"${part.name} is an argument of the script", "write its value in its place")
    if part.every:
        return []
    raise UnresolvedError(f"{part.name} is not set in the script", _give(part.name))


def _default(part: Variable, variables: Variables) -> str:
    """The word behind `:-` or `:=`; the latter also sets the variable."""
    assigns = part.operator.endswith("=")
    try:
        default = expand_value(part.argument, variables)
    except UnresolvedError as error:
        if assigns:
            variables.forget(part.name, f"cannot be known, because {error.problem}", error.remedy)
        raise
    if assigns:
        variables.assign(part.name, default)
    return default


def _give(name: str) -> str:
    return f"give its value with --set {name}=VALUE"


def evaluate(expression: str, variables: Variables) -> int:
    """The integer that `$((expression))` stands for: + - * / %, brackets, numbers and variables.

    Raises:
        UnresolvedError: there is something else in it.
    """
    too_much = UnresolvedError(
        f"$(({_shown(expression)})) is more arithmetic than is read here", "write the number in its place"
    )
    if len(expression) > _MAX_EXPRESSION_LENGTH:
        raise too_much
    try:
        tree = ast.parse(expression.replace("$", "").replace("{", "").replace("}", "").strip(), mode="eval")
        return _integer(tree.body, variables)
    except UnresolvedError:
        raise
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError) as error:
        raise too_much from error


def _integer(node: ast.expr, variables: Variables) -> int:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.Name):
        value = variables.lookup(node.id)
        if value is None:
            raise UnresolvedError(f"{node.id} is not set in the script", _give(node.id))
        return int(value if isinstance(value, str) else " ".join(value))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        size = _integer(node.operand, variables)
        return -size if isinstance(node.op, ast.USub) else size
    if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        result = _ARITHMETIC[type(node.op)](_integer(node.left, variables), _integer(node.right, variables))
        if abs(result) < 2**63:
            return result
    raise ValueError


def _shown(text: str) -> str:
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= 60 else f"{line[:60]}…"
