"""`NAME=value` in front of commands and behind `export`, and what can be seen of a word without expanding it.

Must not know what a variable is used for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from rltrain_api.convert.syntax import Array, Text, Word

_ASSIGNMENT = re.compile(r"(?P<name>[A-Za-z_]\w*)(?P<append>\+)?=")


@dataclass(frozen=True, slots=True)
class Assignment:
    """One `NAME=word` or `NAME+=word`."""

    name: str
    word: Word
    appends: bool


def assignments_before(words: list[Word], first: int) -> tuple[list[Assignment], int]:
    """The assignments in front of a command, and the index of the command's name."""
    found: list[Assignment] = []
    for index in range(first, len(words)):
        assignment = assignment_in(words[index])
        if assignment is None:
            return found, index
        found.append(assignment)
    return found, len(words)


def assignment_in(word: Word) -> Assignment | None:
    """The assignment that a word is, if it is one."""
    first = word[0] if word else None
    if not isinstance(first, Text) or first.quoted:
        return None
    match = _ASSIGNMENT.match(first.text)
    if match is None:
        return None
    rest = Text(first.text[match.end() :], False)
    return Assignment(match["name"], (rest, *word[1:]) if rest.text else word[1:], match["append"] is not None)


def is_array(word: Word) -> bool:
    """Whether the right side of an assignment is `(…)`."""
    return len(word) == 1 and isinstance(word[0], Array)


def appended(old: str | list[str] | None, new: str | list[str]) -> str | list[str]:
    """`NAME+=new`: more entries of an array, or more of the text."""
    if isinstance(new, list):
        return [*([old] if isinstance(old, str) else old or []), *new]
    if isinstance(old, list):
        return [(old[0] if old else "") + new, *old[1:]]
    return (old or "") + new


def plain_text(word: Word) -> str:
    """The word without its quotes, where nothing in it has to be expanded; otherwise its plain beginning."""
    text = ""
    for part in word:
        if not isinstance(part, Text):
            break
        text += part.text
    return text


def readable(word: Word) -> str:
    """What can be shown of a word: its text, with `…` for what is expanded."""
    return "".join(part.text if isinstance(part, Text) else "…" for part in word)
