"""What a renderer answers with, and how lines of several are kept together."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rendered:
    """A file for another place, and what its reader has to know.

    Args:
        text: The whole file; it ends in a newline.
        notes: One sentence or two each, with the field that it is about in front: what is left out or different.
    """

    text: str
    notes: tuple[str, ...]
