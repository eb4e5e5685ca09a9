"""A copy of the driver's log in the object store of the checkpoints, so that it outlives the pod there too.

On a volume the log lies beside the checkpoints as it is written; an object cannot be appended to, so it is replaced.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rltrain_api.config import TrainerConfig
from rltrain_api.fetching import scheme_of
from rltrain_trainer.checkpoint.places import normal, place_of
from rltrain_trainer.tracking.logs import BESIDE_CHECKPOINTS, log_directory

log = logging.getLogger(__name__)

SECONDS = 60.0


@contextmanager
def log_copied(trainer: Mapping[str, Any], name: str, *, seconds: float = SECONDS) -> Iterator[None]:
    """While inside, copy `<name>.log` to `<ckpt_path>/logs/` every so many seconds and at the end.

    Does nothing where checkpoints are on a volume. A copy that cannot be made is said once, and costs nothing else.

    Args:
        trainer: The trainer's section of the configuration.
        name: The log's name, without its ending.
        seconds: Between two copies.
    """
    section = TrainerConfig.model_validate(dict(trainer))
    if not scheme_of(section.ckpt_path):
        yield
        return
    target = f"{normal(section.ckpt_path)}/{BESIDE_CHECKPOINTS}/{name}.log"
    copy = _Copy(log_directory(section) / f"{name}.log", target)
    done = threading.Event()
    thread = threading.Thread(target=copy.until, args=(done, seconds), daemon=True, name="log copy")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(seconds)


class _Copy:
    """See `log_copied`."""

    def __init__(self, source: Path, target: str) -> None:
        self._source = source
        self._target = target
        self._copied = b""
        self._said = False

    def until(self, done: threading.Event, seconds: float) -> None:
        while not done.wait(seconds):
            self._now()
        self._now()

    def _now(self) -> None:
        try:
            content = self._source.read_bytes()
            if content != self._copied:
                place_of(self._target).replace(self._target, content)
                self._copied = content
        except (OSError, ValueError) as error:
            if not self._said:
                log.warning("the driver's log is not kept at %s: %s", self._target, error)
            self._said = True
