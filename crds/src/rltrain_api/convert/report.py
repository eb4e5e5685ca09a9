"""What a conversion has to say: notes, each with the line of the input that it is about.

Nothing of the input is dropped in silence, so every other module of this package writes here. Must not know what is
converted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Level(StrEnum):
    """How much a note matters, in the word that people see before it."""

    NOTE = "note"  # carried over; good to know
    CHECK = "check"  # carried over, but a person should look: it means something else here, or needs something besides
    MISSING = "missing"  # not carried over: without a person's help the job is not the run that it was


@dataclass(frozen=True, slots=True)
class Note:
    """One remark about the conversion; `line` counts from 1 and is None for what is in no line of the input."""

    line: int | None
    text: str
    level: Level


@dataclass(slots=True)
class Report:
    """Collects the notes of one conversion; the same remark about the same line is kept once."""

    notes: dict[Note, None] = field(default_factory=dict)  # in the order of writing

    def note(self, line: int | None, text: str) -> None:
        """Something was carried over, and this is good to know."""
        self.tell(Level.NOTE, line, text)

    def check(self, line: int | None, text: str) -> None:
        """Something was carried over that a person should look at."""
        self.tell(Level.CHECK, line, text)

    def missing(self, line: int | None, text: str) -> None:
        """Something was not carried over."""
        self.tell(Level.MISSING, line, text)

    def tell(self, level: Level, line: int | None, text: str) -> None:
        """Any of these."""
        self.notes.setdefault(Note(line, text, level))

    def in_order(self) -> tuple[Note, ...]:
        """By line; what is in no line comes last, and what is about one line stays in the order of writing."""
        return tuple(sorted(self.notes, key=lambda note: (note.line is None, note.line or 0)))
