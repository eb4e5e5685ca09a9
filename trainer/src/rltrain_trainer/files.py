"""File operations that survive a power cut: what is synced is on the disk, in the order it was synced."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

READ_BYTES = 1024 * 1024


def write_durably(path: Path, content: bytes) -> None:
    """Replace `path` atomically: a reader finds the old content or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Wait until a file's content, or a directory's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def files_below(directory: Path) -> Iterator[Path]:
    """All regular files below `directory`, sorted by path."""
    return (path for path in sorted(directory.rglob("*")) if path.is_file())


def digest(path: Path) -> str:
    """The SHA-256 digest of a file's content, in hexadecimal."""
    content = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(READ_BYTES):
            content.update(block)
    return content.hexdigest()
