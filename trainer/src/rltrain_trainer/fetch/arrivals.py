"""How much of a fetch has arrived: counted on the volume, whoever writes there, against what the source says it has.

A library's files in the making count with the rest, so nothing needs to be told of every block that it writes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rltrain_api.fetching import FetchProgress
from rltrain_trainer.fetch.sizes import bytes_below


@dataclass(frozen=True, slots=True)
class _Expected:
    """Bytes below the directory that are no part of what is fetched, and the size of what is, where it is known."""

    others: int
    total: int | None


class Arrivals:
    """The bytes of one fetch into `directory`: those that come from now on, until the source says what it has.

    One thread may fetch and say what is expected while another looks.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._expected = _Expected(bytes_below(directory), total=None)

    def expect(self, total: int, *, missing: int) -> None:
        """What is fetched has `total` bytes, of which `missing` are to be written from now on."""
        self._expected = _Expected(bytes_below(self._directory) - (total - missing), total)

    def progress(self) -> FetchProgress:
        """How far the fetch is; never more than the whole, while old files still stand beside new ones."""
        expected = self._expected
        arrived = max(0, bytes_below(self._directory) - expected.others)
        return FetchProgress(arrived if expected.total is None else min(arrived, expected.total), expected.total)
