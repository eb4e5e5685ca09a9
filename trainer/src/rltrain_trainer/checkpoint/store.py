"""The commit protocol: begin, write, commit; and its reader: latest, open_step.

    <root>/latest_ckpt_global_step.txt              the newest committed step, as SkyRL writes it
    <root>/global_step_N/manifest.json              the step is there once this is
    <root>/global_step_N/<writing>/…                its files; every writing has a directory of its own

Every writer makes its files durable. When all have ended, the manifest that names them takes the place of the one
before, which is the commit, and then the marker moves to the step. No directory is ever renamed, so the protocol is the
same on a volume and in an object store: it needs one file that can be replaced atomically. A step that is written a
second time lies beside the first until its manifest is there. Steps beyond the marker do not count: they belong to a
run that was taken back to an earlier step, or their writer died before it moved the marker. So at every moment the last
committed step, or an equal one, is whole. One process at a time commits to a root.
"""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rltrain_trainer.checkpoint.manifest import (
    MANIFEST_NAME,
    BrokenCheckpointError,
    FileRecord,
    Manifest,
    read_manifest,
    verify,
)
from rltrain_trainer.checkpoint.places import Place, place_of

log = logging.getLogger(__name__)

MARKER_NAME = "latest_ckpt_global_step.txt"

_WRITING = re.compile(r"[0-9a-f]{32}")
_STEP_DIRECTORY = re.compile(r"global_step_(\d+)")


@dataclass(frozen=True)
class Checkpoint:
    """A whole step. `path` is its directory, a path or a URL."""

    step: int
    path: str
    manifest: Manifest

    @property
    def content(self) -> str:
        """The directory of its files."""
        return f"{self.path}/{self.manifest.content}"


def step_name(step: int) -> str:
    """The directory name of a step, as in SkyRL."""
    return f"global_step_{step}"


def begin(root: str, step: int) -> str:
    """A directory that nothing is in yet, for the files of the step; whoever writes there makes it."""
    return f"{root}/{step_name(step)}/{uuid.uuid4().hex}"


def commit(
    content: str, *, config_hash: str, files: Mapping[str, FileRecord], details: Mapping[str, Any] | None = None
) -> Checkpoint:
    """Make what was written below `content`, which `begin` has named, the step; returns it.

    Args:
        content: The directory of the files.
        config_hash: Hash of the configuration that wrote them.
        files: What all writers have written; all of it is durable.
        details: JSON values for the manifest.
    """
    directory, _, writing = content.rpartition("/")
    root, _, name = directory.rpartition("/")
    step = int(name.removeprefix(step_name(0)[:-1]))
    place = place_of(root)
    manifest = Manifest(
        step=step, config_hash=config_hash, content=writing, files=dict(files), details=dict(details or {})
    )
    place.replace(f"{directory}/{MANIFEST_NAME}", (manifest.model_dump_json(indent=1) + "\n").encode())
    place.replace(f"{root}/{MARKER_NAME}", f"{step}\n".encode())
    _remove_other_writings(place, directory, writing)
    return Checkpoint(step, directory, manifest)


def latest(root: str) -> Checkpoint | None:
    """The newest whole step up to the marker, verified as `verify` can; None when there is none.

    Steps that are torn or corrupt are skipped with a warning. Without a marker all steps count.
    """
    place = place_of(root)
    for step, path in _candidates(place, root):
        try:
            return Checkpoint(step, path, verify(place, path, step=step, digests=True))
        except BrokenCheckpointError as error:
            log.warning("checkpoint of step %d skipped: %s", step, error)
    return None


def open_step(path: str) -> Checkpoint:
    """The step in the directory `path`, verified as `verify` can: what resume_mode from_path names.

    Raises ValueError when the name is not global_step_N or the step is not whole.
    """
    match = _STEP_DIRECTORY.fullmatch(path.rpartition("/")[2])
    if match is None:
        raise ValueError(f"trainer.resume_path: {path} is not a directory named global_step_N")
    step = int(match.group(1))
    return Checkpoint(step, path, verify(place_of(path), path, step=step, digests=True))


def whole_steps(root: str) -> list[Checkpoint]:
    """All steps up to the marker whose files have their sizes, newest first: digests are read before a resume."""
    place = place_of(root)
    found = []
    for step, path in _candidates(place, root):
        try:
            found.append(Checkpoint(step, path, verify(place, path, step=step, digests=False)))
        except BrokenCheckpointError as error:
            log.warning("checkpoint of step %d does not count: %s", step, error)
    return found


def remove(root: str, step: int) -> None:
    """Remove a step, its manifest first, so that a half-removed one is none."""
    place, path = place_of(root), f"{root}/{step_name(step)}"
    place.remove_file(f"{path}/{MANIFEST_NAME}")
    place.remove_tree(path)


def tidy(root: str) -> None:
    """Remove what writers have left that died: writings that no manifest names.

    Nothing else goes: a directory of a step may be another trainer's, or have a manifest that a later release reads.
    """
    place = place_of(root)
    for name in place.directories(root):
        if _STEP_DIRECTORY.fullmatch(name) is None:
            continue
        path = f"{root}/{name}"
        try:
            named = read_manifest(place, path).content
        except BrokenCheckpointError:
            if MANIFEST_NAME in place.sizes(path):
                continue
            named = None
        _remove_other_writings(place, path, named)


def _remove_other_writings(place: Place, directory: str, named: str | None) -> None:
    """Remove the writings of a step but the named one; the step itself where nothing is left of it."""
    here = place.directories(directory)
    others = [name for name in here if name != named and _WRITING.fullmatch(name)]
    for other in others:
        place.remove_tree(f"{directory}/{other}")
    if others and set(here) == set(others) and not place.sizes(directory):
        place.remove_tree(directory)


def _candidates(place: Place, root: str) -> Iterator[tuple[int, str]]:
    """Directories up to the marker that may hold a step, newest first."""
    marked = _marked_step(place, root)
    found = [
        (int(match.group(1)), f"{root}/{name}")
        for name in place.directories(root)
        if (match := _STEP_DIRECTORY.fullmatch(name))
    ]
    for step, path in sorted(found, reverse=True):
        if marked is None or step <= marked:
            yield step, path


def _marked_step(place: Place, root: str) -> int | None:
    marker = f"{root}/{MARKER_NAME}"
    try:
        content = place.read(marker).decode(errors="replace").strip()
    except FileNotFoundError:
        return None
    if not content.isdecimal():
        log.warning("%s: %r is not a step; all steps are looked at", marker, content)
        return None
    return int(content)
