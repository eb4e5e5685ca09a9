"""What every kind of source can do: say which state it is in, and put its files into the target."""

from __future__ import annotations

from typing import Protocol

from rltrain_trainer.fetch.arrivals import Arrivals
from rltrain_trainer.fetch.records import FetchedFile


class Source(Protocol):
    """One source; both methods raise FetchError."""

    def identity(self) -> str | None:
        """The source's own word for its present state, at the cost of one small request; None where it has none."""

    def fetch(self, arrivals: Arrivals) -> dict[str, FetchedFile]:
        """Put the files into the target; what is there already from a broken fetch is not fetched again.

        `arrivals` is told of their sizes, where the source knows them. Returns them by their path in the target.
        """
