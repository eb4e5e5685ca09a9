"""Where checkpoints lie: a directory on a volume, or a prefix of an object store; one small set of operations for both.

A location is an absolute path or a URL without its last slash. This module must not know what the files mean.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from rltrain_api.fetching import scheme_of
from rltrain_trainer.files import files_below, sync, write_durably


class Sink(Protocol):
    """A file that is being written."""

    def write(self, data: bytes | memoryview, /) -> int | None:
        """Append; all of it is taken."""


class Source(Protocol):
    """A file that is being read."""

    def seek(self, position: int, /) -> int:
        """Go to a byte."""

    def read(self, size: int, /) -> bytes:
        """That many bytes, fewer at the end of the file."""


class Place(Protocol):
    """Files by location. All raise OSError, FileNotFoundError where something that is read is not there."""

    def read(self, location: str) -> bytes:
        """The content of a file."""

    def replace(self, location: str, content: bytes) -> None:
        """Make this the content of a file: durable, and a reader finds the old content or the new one, never a part."""

    def writer(self, location: str) -> AbstractContextManager[Sink]:
        """A new file, durable once the context has ended without an error. Directories above it are made."""

    def reader(self, location: str) -> AbstractContextManager[Source]:
        """A file, to read parts of."""

    def directories(self, location: str) -> list[str]:
        """The names of the directories right below; none where there is nothing."""

    def sizes(self, location: str) -> dict[str, int]:
        """Bytes of every file below, by its path relative to the location."""

    def remove_file(self, location: str) -> None:
        """Remove a file, durably, if it is there."""

    def remove_tree(self, location: str) -> None:
        """Remove a directory and everything below it, if it is there."""


class Volume:
    """The Place of absolute paths."""

    def read(self, location: str) -> bytes:
        """See `Place.read`."""
        return Path(location).read_bytes()

    def replace(self, location: str, content: bytes) -> None:
        """See `Place.replace`."""
        path = Path(location)
        _make_directory(path.parent)
        write_durably(path, content)

    @contextmanager
    def writer(self, location: str) -> Iterator[Sink]:
        """See `Place.writer`."""
        path = Path(location)
        _make_directory(path.parent)
        with path.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        sync(path.parent)

    @contextmanager
    def reader(self, location: str) -> Iterator[Source]:
        """See `Place.reader`."""
        with Path(location).open("rb") as stream:
            yield stream

    def directories(self, location: str) -> list[str]:
        """See `Place.directories`."""
        path = Path(location)
        return [below.name for below in path.iterdir() if below.is_dir()] if path.is_dir() else []

    def sizes(self, location: str) -> dict[str, int]:
        """See `Place.sizes`."""
        path = Path(location)
        return {file.relative_to(path).as_posix(): file.stat().st_size for file in files_below(path)}

    def remove_file(self, location: str) -> None:
        """See `Place.remove_file`."""
        path = Path(location)
        if path.exists():
            path.unlink()
            sync(path.parent)

    def remove_tree(self, location: str) -> None:
        """See `Place.remove_tree`."""
        if Path(location).exists():
            shutil.rmtree(location)


def normal(location: str) -> str:
    """A location as a person writes it (`~`, file://, slashes at its end) in the one form that is used here."""
    if scheme_of(location) == "file":
        location = location.partition("://")[2]
    if scheme_of(location):
        return location.rstrip("/")
    return str(Path(location).expanduser().absolute())


def place_of(location: str) -> Place:
    """The place that a location in its normal form is in. Raises ValueError for a URL that nothing here can use."""
    if not scheme_of(location):
        return Volume()
    from rltrain_trainer.checkpoint.objects import object_store  # imported for those who use one only

    return object_store(location)


def _make_directory(path: Path) -> None:
    """Make a directory and those above it, each name durable."""
    if path.is_dir():
        return
    _make_directory(path.parent)
    path.mkdir(exist_ok=True)
    sync(path.parent)
