"""A disk that ends the process before its n-th operation, or loses its power then."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

KILLED = 77
# The harness itself decides what survives, so a real disk would only make the thousands of syncs slow.
SCRATCH = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


@dataclass
class Disk:
    """Counts file operations by audit events and ends the process before the last one allowed.

    With a power cut, what was not synced is lost as well: files written since are cut in half, and a rename whose
    directory was not synced since is undone.
    """

    allowed: int
    power_cut: bool
    operations: int = 0
    unsynced_files: set[str] = field(default_factory=set)
    unsynced_renames: list[tuple[str, str, bytes | None]] = field(default_factory=list)

    def install(self) -> None:
        fsync = os.fsync

        def counted(descriptor: Any) -> None:
            self._operation()
            fsync(descriptor)
            self._synced(str(Path(f"/proc/self/fd/{descriptor}").readlink()))

        os.fsync = counted  # type: ignore[assignment]
        sys.addaudithook(self._audit)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
            self._operation()
            self.unsynced_files.add(os.path.realpath(arguments[0]))
        elif event == "os.rename":
            self._operation()
            self._renamed(*(os.path.realpath(name) for name in arguments[:2]))
        elif event in ("os.mkdir", "os.remove", "os.rmdir"):
            self._operation()

    def _operation(self) -> None:
        if self.operations == self.allowed:
            if self.power_cut:
                self._lose()
            os._exit(KILLED)
        self.operations += 1

    def _renamed(self, source: str, target: str) -> None:
        replaced = Path(target).read_bytes() if Path(target).is_file() else None
        self.unsynced_renames.append((source, target, replaced))
        self.unsynced_files = {
            target + name.removeprefix(source) if name == source or name.startswith(source + "/") else name
            for name in self.unsynced_files
        }

    def _synced(self, name: str) -> None:
        self.unsynced_files.discard(name)
        self.unsynced_renames = [rename for rename in self.unsynced_renames if str(Path(rename[1]).parent) != name]

    def _lose(self) -> None:
        self.allowed = sys.maxsize  # the loss itself is not an operation of the writer
        for name in self.unsynced_files & {str(path) for path in map(Path, self.unsynced_files) if path.is_file()}:
            os.truncate(name, Path(name).stat().st_size // 2)
        for source, target, replaced in reversed(self.unsynced_renames):
            if Path(target).exists() and not Path(source).exists():
                Path(target).rename(source)
                if replaced is not None:
                    Path(target).write_bytes(replaced)
