"""Exclusion: `VLLM*` leaves out all variables that begin with VLLM, a bare name leaves out that one.

A star stands for any characters. Spaces around an entry and its case do not matter if nothing fits as it is written,
but are worth a warning, as is an entry that fits nothing. Pure functions of names; values play no part.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rltrain_api.env.catalogue import CATALOGUE, near_miss

SEPARATOR = ","


@dataclass(frozen=True, slots=True)
class Exclusion:
    """What a list of entries leaves out of given names.

    Args:
        entries: Variable that is left out -> the entry that says so, without spaces around it.
        warnings: What is doubtful about the entries.
    """

    entries: dict[str, str]
    warnings: tuple[str, ...]


def split_entries(text: str) -> list[str]:
    """The entries of a list separated by commas, as RLLM_EXCLUDE is written; spaces are kept, to be warned about."""
    return [entry for entry in text.split(SEPARATOR) if entry.strip()]


def exclude(entries: Sequence[str], names: Iterable[str], where: str = "exclude") -> Exclusion:
    """Apply entries to the names of variables; the first entry that fits a name counts for it.

    An entry that fits none of the names is fine if it fits a variable of the catalogue, and doubtful otherwise.

    Args:
        entries: Names, or patterns with stars.
        names: The variables that are there.
        where: What to call the list in warnings.
    """
    present = sorted(set(names))
    found: dict[str, str] = {}
    warnings = []
    for entry in entries:
        text = entry.strip()
        if not text:
            continue
        if text != entry:
            warnings.append(f"{where} {entry!r}: the spaces around it are left out")
        matched = [name for name in present if fits(text, name)]
        if not matched and not any(fits(text, name) for name in CATALOGUE):
            matched = [name for name in present if fits(text.upper(), name.upper())]
            doubt = _other_case(matched) if matched else _fits_nothing(text, present)
            warnings.append(f"{where} {text!r}: {doubt}")
        for name in matched:
            found.setdefault(name, text)
    return Exclusion(found, tuple(warnings))


def fits(entry: str, name: str) -> bool:
    """Whether an entry stands for a name, upper and lower case told apart."""
    pattern = ".*".join(re.escape(part) for part in entry.split("*"))
    return re.fullmatch(pattern, name) is not None


def _other_case(matched: Sequence[str]) -> str:
    return f"taken for {', '.join(matched)}, which is written in another case"


def _fits_nothing(entry: str, present: Sequence[str]) -> str:
    remedy = ""
    near = near_miss(entry)
    if "*" not in entry and any(name.startswith(entry.rstrip("_")) for name in (*present, *CATALOGUE)):
        remedy = f"; a name without a star is one variable, and {entry}* is all that begin with it"
    elif near is not None:
        remedy = f"; did you mean {near.name}?"
    return f"fits no variable{remedy}"
