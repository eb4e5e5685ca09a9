"""Which statements of a script run once and for certain, and which stand in a condition, a loop or a function.

Only keywords and the joints between statements are looked at. Must not know what the commands do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rltrain_api.convert.syntax import Statement

# Keyword that opens a block -> keyword that closes it.
_BLOCKS = {"if": "fi", "case": "esac", "for": "done", "while": "done", "until": "done", "select": "done"}
_WITHIN = ("then", "else", "elif", "do", "!")
_TESTS = ("[", "[[", "test")


@dataclass(eq=False, slots=True)
class Block:
    """Statements that run under a condition, several times, or when a function is called.

    `last_line` is None as long as nothing closes it; `variable` is that of a `for` loop.
    """

    kind: str
    line: int
    closed_by: str
    last_line: int | None = None
    variable: str | None = None
    is_group: bool = False  # `{ … }` or `( … )`: runs like any other statement

    @property
    def where(self) -> str:
        """The lines, in words."""
        if self.last_line in (None, self.line):
            return f"line {self.line}"
        return f"lines {self.line} to {self.last_line}"


@dataclass(frozen=True, slots=True)
class Placed:
    """A statement, the index of its first word that is no keyword, and the outermost block that it stands in."""

    statement: Statement
    first: int
    block: Block | None


def arrange(statements: Sequence[Statement]) -> tuple[list[Placed], list[Block]]:
    """Every statement with its block, in order; and the blocks that nothing closes."""
    arranger = _Arranger()
    at = 0
    while at < len(statements):
        if _is_function(statements, at):
            arranger.function_follows = True
            at += 3
            continue
        arranger.place(statements[at])
        at += 1
    return arranger.placed, [block for block in arranger.open if not block.is_group]


def _is_function(statements: Sequence[Statement], at: int) -> bool:
    """Whether `name ( )` or `function name ( )` begins here."""
    here = statements[at]
    named = len(here.words) == 1 or (len(here.words) == 2 and here.plain(0) == "function")
    following = [(other.joined, other.words) for other in statements[at + 1 : at + 3]]
    return named and following == [("(", []), (")", [])]


class _Arranger:
    def __init__(self) -> None:
        self.placed: list[Placed] = []
        self.open: list[Block] = []
        self.function_follows = False
        self._condition: Block | None = None  # of the statement before

    def place(self, statement: Statement) -> None:
        if not statement.words and statement.joined in ("(", ")"):
            if statement.joined == "(":
                self.open.append(Block("(", statement.line, ")", is_group=True))
            else:
                self._close(statement.line, ")")
            return
        self._condition = self._condition_of(statement)
        block_before = self._outermost()
        first = self._keywords(statement)
        block = block_before or self._outermost() or self._condition
        self.placed.append(Placed(statement, first, block))

    def _condition_of(self, statement: Statement) -> Block | None:
        """A block of its own for what stands behind `&&` or `||`, unless what is before is sure to succeed."""
        before = self.placed[-1] if self.placed else None
        if statement.joined not in ("&&", "||", "|", "|&") or before is None:
            return None
        if self._condition is not None:
            self._condition.last_line = statement.line
            return self._condition
        is_test = before.statement.plain(before.first) in _TESTS
        if statement.joined == "||" or (statement.joined == "&&" and is_test):
            return Block(f"condition ({statement.joined})", before.statement.line, "", last_line=statement.line)
        return None

    def _keywords(self, statement: Statement) -> int:
        """Open and close the blocks that keywords in front of the statement say; the index behind them."""
        at = 0
        while (word := statement.plain(at)) is not None:
            if word in _WITHIN:
                at += 1
            elif word in _BLOCKS:
                variable = statement.plain(at + 1) if word in ("for", "select") else None
                self.open.append(Block(word, statement.line, _BLOCKS[word], variable=variable))
                at = len(statement.words) if word in ("for", "select", "case") else at + 1
            elif word == "function":
                self.function_follows = True
                at += 2
            elif word == "{":
                kind = "function" if self.function_follows else self._condition.kind if self._condition else "{"
                self.open.append(Block(kind, statement.line, "}", is_group=kind == "{"))
                self.function_follows = False
                at += 1
            elif word in ("fi", "esac", "done", "}"):
                self._close(statement.line, word)
                at += 1
            else:
                break
        return at

    def _close(self, line: int, word: str) -> None:
        if self.open and self.open[-1].closed_by == word:
            self.open.pop().last_line = line

    def _outermost(self) -> Block | None:
        return next((block for block in self.open if not block.is_group), None)
