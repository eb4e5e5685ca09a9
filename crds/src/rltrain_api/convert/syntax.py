"""What a shell script is made of: statements, words, and the parts of words.

Only shapes; `rltrain_api.convert.words` makes them of text. Must not know what they are expanded to.
"""

from __future__ import annotations

from dataclasses import dataclass, field

ARITHMETIC = "(("  # what the command `((…))` is called


@dataclass(frozen=True, slots=True)
class Text:
    """Characters that mean themselves."""

    text: str
    quoted: bool


@dataclass(frozen=True, slots=True)
class Variable:
    """`$NAME`, or `${NAME…}` with an operator (`:-`, `-`, `:=`, `=`, `:?`, `?`, `:+`, `+`) and the word behind it."""

    name: str
    quoted: bool
    operator: str = ""
    argument: tuple[Part, ...] = ()
    every: bool = False  # `${NAME[@]}`: all entries of an array


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """`$((…))`; the expression is kept as it is written."""

    expression: str


@dataclass(frozen=True, slots=True)
class Array:
    """The `(…)` behind `NAME=`."""

    words: tuple[Word, ...]


@dataclass(frozen=True, slots=True)
class Opaque:
    """What only a shell could tell: `$(…)`, backquotes, other forms of `${…}`; the source is kept."""

    source: str


Part = Text | Variable | Arithmetic | Array | Opaque
Word = tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Redirection:
    """`> file`, `2>&1`, `<<EOF`; a here-document's text is not kept."""

    operator: str
    target: Word


@dataclass(slots=True)
class Statement:
    """One simple command: its words with their lines, and how it is joined to the one before.

    `joined` is the operator that separates it from the statement before it: "", ";", "&&", "||", "|", "&", "(", ")".
    `broken_off` is the line of a comment (or of a backslash with blanks behind it) that ended a command which its
    author meant to go on.
    """

    line: int
    joined: str = ""
    words: list[Word] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    redirections: list[Redirection] = field(default_factory=list)
    broken_off: int | None = None

    def plain(self, index: int) -> str | None:
        """The word at an index where it holds no expansion and no quotes, such as a keyword."""
        if index >= len(self.words):
            return None
        parts = self.words[index]
        if len(parts) == 1 and isinstance(parts[0], Text) and not parts[0].quoted:
            return parts[0].text
        return None


class ScriptError(ValueError):
    """The text cannot be split into words: a quote or a bracket that nothing closes."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(problem)
        self.line = line
