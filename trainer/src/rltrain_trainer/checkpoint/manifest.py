"""The manifest of a step: what must be there for the step to count as whole."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rltrain_trainer.files import digest, files_below

FORMAT = "rltrain.io/checkpoint/v1"
MANIFEST_NAME = "manifest.json"


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
    files: dict[str, FileRecord] = Field(description="By path relative to the step's directory, with forward slashes.")
    details: dict[str, Any] = Field({}, description="Whatever the writer wants to be read without opening the files.")

    @property
    def total_bytes(self) -> int:
        """Size of all files together."""
        return sum(record.bytes for record in self.files.values())


class BrokenCheckpointError(ValueError):
    """A step is not whole; the message says which file and what is wrong with it."""


def describe(directory: Path, *, step: int, config_hash: str, details: Mapping[str, Any]) -> Manifest:
    """The manifest of what lies below `directory` now; reads every file."""
    files = {
        path.relative_to(directory).as_posix(): FileRecord(bytes=path.stat().st_size, sha256=digest(path))
        for path in files_below(directory)
        if path != directory / MANIFEST_NAME
    }
    return Manifest(step=step, config_hash=config_hash, files=files, details=dict(details))


def read_manifest(directory: Path) -> Manifest:
    """The manifest in `directory`. Raises BrokenCheckpointError when it is missing, torn or of another format."""
    path = directory / MANIFEST_NAME
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise BrokenCheckpointError(f"{path}: missing") from error
    except ValidationError as error:
        raise BrokenCheckpointError(f"{path}: not a manifest ({error.error_count()} errors)") from error
    if manifest.format != FORMAT:
        raise BrokenCheckpointError(f"{path}: format {manifest.format!r}, this release reads {FORMAT!r}")
    return manifest


def verify(directory: Path, *, step: int, digests: bool) -> Manifest:
    """The manifest of the step in `directory`, once every file has its size and, if asked, its digest.

    Raises BrokenCheckpointError that names the first file that differs.
    """
    manifest = read_manifest(directory)
    if manifest.step != step:
        raise BrokenCheckpointError(f"{directory}: the manifest is of step {manifest.step}")
    for name, record in manifest.files.items():
        path = directory / name
        if not path.is_file():
            raise BrokenCheckpointError(f"{path}: missing")
        size = path.stat().st_size
        if size != record.bytes:
            raise BrokenCheckpointError(f"{path}: {size} bytes instead of {record.bytes}")
        if digests and digest(path) != record.sha256:
            raise BrokenCheckpointError(f"{path}: its content has changed since it was written")
    return manifest
