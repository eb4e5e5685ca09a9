"""Snapshots of a GPU's memory over an update: who allocated what, for https://pytorch.org/memory_viz.

It must not know of models.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist

from rltrain_trainer.checkpoint.places import normal, place_of

log = logging.getLogger(__name__)

DIRECTORY = "memory_snapshots"
_MOST_EVENTS = 100_000  # of allocations and frees, the newest of an update


class MemoryRecorder:
    """Writes <root>/memory_snapshots/<what>_rank_<r>.pickle, root being a path or a URL.

    On a CPU there is nothing to record, which is said once.
    """

    def __init__(self, root: str, *, enabled: bool) -> None:
        self._root = root
        self._enabled = enabled and torch.cuda.is_available()
        if enabled and not self._enabled:
            log.warning("trainer.policy.record_memory: there is no GPU, so no snapshots of memory are taken")

    @contextmanager
    def recording(self, what: str) -> Iterator[None]:
        """Record what happens inside, also when it fails for lack of memory."""
        if not self._enabled:
            yield
            return
        torch.cuda.memory._record_memory_history(max_entries=_MOST_EVENTS)
        try:
            yield
        finally:
            self._write(f"{what}_rank_{dist.get_rank()}.pickle")
            torch.cuda.memory._record_memory_history(enabled=None)

    def _write(self, name: str) -> None:
        with tempfile.TemporaryDirectory() as directory:
            file = Path(directory) / name
            torch.cuda.memory._dump_snapshot(str(file))  # type: ignore[no-untyped-call]  # torch leaves it untyped
            target = f"{normal(self._root)}/{DIRECTORY}/{name}"
            place_of(target).replace(target, file.read_bytes())
            log.info("snapshot of GPU memory at %s", target)
