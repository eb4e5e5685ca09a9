"""Where the time of a training step goes, by SkyRL's names (`timing/*`). It must not know what is timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rltrain_trainer.tracking.run_state import RunState

PREFIX = "timing/"


class Stopwatch:
    """Measures parts of steps: for the run's state over all steps, and for the metrics of each."""

    def __init__(self, state: RunState, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._state = state
        self._monotonic = monotonic
        self._seconds: dict[str, float] = {}

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Count the seconds spent inside towards `name`."""
        began = self._monotonic()
        try:
            with self._state.timed(name):
                yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + self._monotonic() - began

    def taken(self) -> dict[str, float]:
        """`timing/{name}` of everything since this was asked last, in seconds."""
        taken = {f"{PREFIX}{name}": seconds for name, seconds in self._seconds.items()}
        self._seconds = {}
        return taken
