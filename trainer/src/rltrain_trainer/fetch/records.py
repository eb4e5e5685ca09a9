"""What is wanted, and the record of what was fetched: a small file beside the files, found by the next job.

    <target>/.rltrain/<key>.json    the record of one source, written last
    <target>/.rltrain/<key>.part*   what has arrived of a file so far
    <target>/.rltrain/lock          held while somebody fetches into the target

A record is believed when all its files are there with their sizes. Digests are computed when a file arrives, and
compared with what the source or the job says about it.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ValidationError

from rltrain_trainer.files import sync, write_durably

log = logging.getLogger(__name__)

KEPT_DIRECTORY = ".rltrain"


@dataclass(frozen=True, slots=True)
class Request:
    """What is wanted.

    Args:
        kind: What the files are; a hub keeps datasets and models apart.
        source: Where they come from.
        target: The directory they are put into.
        sha256: What the one file must be.
        include: Of a repository, only files that match one of these patterns; empty means all.
    """

    kind: Literal["dataset", "model"]
    source: str
    target: Path
    sha256: str | None = None
    include: tuple[str, ...] = ()

    @property
    def kept(self) -> Path:
        """The directory of records and of what is half there."""
        return self.target / KEPT_DIRECTORY

    @property
    def key(self) -> str:
        """Names the request among others with the same target; the digest is no part of it, it only judges."""
        said = "\n".join((self.kind, self.source, *sorted(self.include)))
        return hashlib.sha256(said.encode()).hexdigest()[:16]


class FetchedFile(BaseModel):
    """One file: its size in bytes and its SHA-256."""

    size: int
    sha256: str


class Record(BaseModel):
    """What was fetched. `identity` is the source's own word for this state of it: a commit, an ETag, a digest."""

    source: str
    identity: str | None
    files: dict[str, FetchedFile]
    time: datetime

    @property
    def total_bytes(self) -> int:
        """The size of all files."""
        return sum(file.size for file in self.files.values())

    def is_whole(self, target: Path) -> bool:
        """Whether all files are there with their sizes."""
        return all(_size(target / name) == file.size for name, file in self.files.items())


def read_record(request: Request) -> Record | None:
    """The record of an earlier fetch whose files are all there, or None."""
    path = _path(request)
    try:
        record = Record.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError:
        log.warning("%s cannot be read, so everything is fetched again", path)
        return None
    if not record.is_whole(request.target):
        log.warning("files that %s lists are gone or have another size, so they are fetched again", path)
        return None
    return record


def write_record(request: Request, identity: str | None, files: dict[str, FetchedFile]) -> Record:
    """Note what was fetched, in one rename, after all files are on the disk."""
    record = Record(source=request.source, identity=identity, files=files, time=datetime.now(UTC))
    for name in files:
        sync(request.target / name)
    write_durably(_path(request), (record.model_dump_json(indent=1) + "\n").encode())
    return record


def _path(request: Request) -> Path:
    return request.kept / f"{request.key}.json"


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None
