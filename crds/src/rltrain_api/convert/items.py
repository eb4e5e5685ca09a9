"""One set value of the input: where it stands, which field it sets, to what.

All forms of input (command line, list of overrides, YAML) become these. Must not know which fields exist.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rltrain_api.convert.fields import Path

MAX_ITEMS = 1000  # SkyRL's configuration has some 280 fields


class TooManyItemsError(ValueError):
    """The input sets more values than any configuration has."""


def within_bounds(values: Sequence[Any]) -> None:
    """Refuse more values than a configuration can have, before anything is made of them.

    Raises:
        TooManyItemsError: there are more.
    """
    if len(values) > MAX_ITEMS:
        raise TooManyItemsError(
            f"sets {len(values)} values, more than {MAX_ITEMS}; SkyRL's configuration has fewer than 300"
        )


@dataclass(frozen=True, slots=True)
class Item:
    """A path and its value.

    Args:
        line: In the input, from 1.
        path: From the root of the configuration, as the input has it.
        value: Plain data.
        written: The value as it was written, where it came from a command line.
    """

    line: int
    path: Path
    value: object
    written: str | None = None

    @property
    def key(self) -> str:
        """The path, dotted."""
        return ".".join(self.path)
