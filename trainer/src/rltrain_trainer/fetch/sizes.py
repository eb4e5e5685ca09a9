"""Sizes and directories: what is there, how much room there is, and sizes as people write them."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from rltrain_trainer.fetch.errors import volume_full

_UNITS = ("bytes", "kB", "MB", "GB", "TB")


def shown(size: float) -> str:
    """A number of bytes as people write it, in powers of 1000."""
    power = min(int(math.log10(max(size, 1))) // 3, len(_UNITS) - 1)
    return f"{size / 1000**power:.{min(power, 1)}f} {_UNITS[power]}"


def demand_room(directory: Path, needed: int) -> None:
    """Raises FetchError when the volume of `directory` has fewer than `needed` bytes free."""
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise volume_full(directory, f"{shown(needed)} are needed and {shown(free)} are free")


def bytes_below(directory: Path) -> int:
    """Bytes in all files below `directory`, those in the making included."""
    total = 0
    for parent, _, names in os.walk(directory):
        for name in names:
            try:
                total += (Path(parent) / name).lstat().st_size
            except FileNotFoundError:  # renamed while we looked
                continue
    return total


def files_below(directory: Path) -> Iterator[Path]:
    """Every file below `directory`, links followed, in order; hidden directories at its top are left out."""
    for path in sorted(directory.rglob("*")):
        if path.is_file() and not path.relative_to(directory).parts[0].startswith("."):
            yield path
