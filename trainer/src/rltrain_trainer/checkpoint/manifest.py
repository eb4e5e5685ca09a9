"""The manifest of a step: what must be there for the step to count as whole."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rltrain_trainer.checkpoint.places import Place, Sink, Volume, place_of
from rltrain_trainer.files import READ_BYTES

FORMAT = "rltrain.io/checkpoint/v1"
MANIFEST_NAME = "manifest.json"
_READERS = 4


class FileRecord(BaseModel):
    """One file of a step."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bytes: int = Field(ge=0)
    sha256: str


class Manifest(BaseModel):
    """All files of a step but the manifest itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: str = FORMAT
    step: int = Field(ge=0)
    config_hash: str = Field(description="Hash of the resolved configuration that wrote the step.")
    content: str = Field(
        pattern=r"^[0-9a-z-]+$",
        description="Directory of the files, below the step's; each writing has its own.",
    )
    files: dict[str, FileRecord] = Field(description="By path relative to that directory, with forward slashes.")
    details: dict[str, Any] = Field({}, description="Whatever the writer wants to be read without opening the files.")

    @property
    def total_bytes(self) -> int:
        """Size of all files together."""
        return sum(record.bytes for record in self.files.values())


class BrokenCheckpointError(ValueError):
    """A step is not whole; the message says which file and what is wrong with it."""


class Recorded:
    """A file that is being written, and what the manifest will say of it."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._digest = hashlib.sha256()
        self.bytes = 0

    def write(self, data: bytes | memoryview, /) -> int:
        """Append to the file."""
        self._sink.write(data)
        self._digest.update(data)
        self.bytes += len(data)
        return len(data)

    def record(self) -> FileRecord:
        """What has been written so far."""
        return FileRecord(bytes=self.bytes, sha256=self._digest.hexdigest())


@contextmanager
def recorded(directory: str, name: str, files: dict[str, FileRecord]) -> Iterator[Recorded]:
    """Write the file `name` below `directory`; its record is in `files` once it is durable."""
    with place_of(directory).writer(f"{directory}/{name}") as sink:
        stream = Recorded(sink)
        yield stream
    files[name] = stream.record()


def read_manifest(place: Place, directory: str) -> Manifest:
    """The manifest in `directory`. Raises BrokenCheckpointError when it is missing, torn or of another format."""
    path = f"{directory}/{MANIFEST_NAME}"
    try:
        manifest = Manifest.model_validate_json(place.read(path))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BrokenCheckpointError(f"{path}: missing") from error
    except ValidationError as error:
        raise BrokenCheckpointError(f"{path}: not a manifest ({error.error_count()} errors)") from error
    if manifest.format != FORMAT:
        raise BrokenCheckpointError(f"{path}: format {manifest.format!r}, this release reads {FORMAT!r}")
    return manifest


def verify(place: Place, directory: str, *, step: int, digests: bool) -> Manifest:
    """The manifest of the step in `directory`, once every file has its size and, if asked, its digest.

    Raises BrokenCheckpointError that names the first file that differs. Digests are those of volumes: an object store
    keeps its own, and what is read from it again would have to be paid for again.
    """
    manifest = read_manifest(place, directory)
    if manifest.step != step:
        raise BrokenCheckpointError(f"{directory}: the manifest is of step {manifest.step}")
    content = f"{directory}/{manifest.content}"
    sizes = place.sizes(content)
    for name, record in manifest.files.items():
        if name not in sizes:
            raise BrokenCheckpointError(f"{content}/{name}: missing")
        if sizes[name] != record.bytes:
            raise BrokenCheckpointError(f"{content}/{name}: {sizes[name]} bytes instead of {record.bytes}")
    if digests and isinstance(place, Volume):
        _demand_digests(place, content, manifest.files)
    return manifest


def _demand_digests(place: Place, content: str, files: Mapping[str, FileRecord]) -> None:
    with ThreadPoolExecutor(_READERS) as readers:
        found = readers.map(lambda name: _digest(place, f"{content}/{name}"), files)
        for (name, record), digest in zip(files.items(), found, strict=True):
            if digest != record.sha256:
                raise BrokenCheckpointError(f"{content}/{name}: its content has changed since it was written")


def _digest(place: Place, location: str) -> str:
    content = hashlib.sha256()
    with place.reader(location) as stream:
        while block := stream.read(READ_BYTES):
            content.update(block)
    return content.hexdigest()
