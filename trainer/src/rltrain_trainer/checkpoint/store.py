"""The commit protocol: begin, write, commit; and its reader: latest, prune.

A step is written in a directory of its own, made durable, and moved to its name in one rename; then the marker moves to
it, which is the commit. Steps beyond the marker do not count: they were not committed, or they belong to a run that was
taken back to an earlier step. A step that is written a second time displaces the first by two renames; between them the
first is still found under its displaced name. So at every moment the last committed step, or an equal one, is whole.
One process at a time writes to a root.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rltrain_trainer.checkpoint.manifest import MANIFEST_NAME, BrokenCheckpointError, Manifest, describe, verify
from rltrain_trainer.files import sync, sync_tree, write_durably

log = logging.getLogger(__name__)

MARKER_NAME = "latest_ckpt_global_step.txt"
WRITING = ".writing_"
DISPLACED = ".displaced_"
REMOVING = ".removing_"

_STEP_DIRECTORY = re.compile(rf"(?:{re.escape(DISPLACED)})?global_step_(\d+)")


@dataclass(frozen=True)
class Checkpoint:
    """A whole step on disk."""

    step: int
    path: Path
    manifest: Manifest


def step_name(step: int) -> str:
    """The directory name of a step, as in SkyRL."""
    return f"global_step_{step}"


def begin(root: Path, step: int) -> Path:
    """An empty directory to write the step's files into, on the same file system as `root`.

    Removes what earlier writers left behind when they died.
    """
    root.mkdir(parents=True, exist_ok=True)
    for leftover in [*root.glob(f"{WRITING}*"), *root.glob(f"{REMOVING}*")]:
        shutil.rmtree(leftover)
    directory = root / f"{WRITING}{step_name(step)}"
    directory.mkdir()
    return directory


def commit(root: Path, step: int, *, config_hash: str, details: Mapping[str, Any] | None = None) -> Checkpoint:
    """Make what was written since `begin(root, step)` the step; returns it. The caller has closed all its files.

    details: JSON values for the manifest.
    """
    directory = root / f"{WRITING}{step_name(step)}"
    manifest = describe(directory, step=step, config_hash=config_hash, details=details or {})
    (directory / MANIFEST_NAME).write_text(manifest.model_dump_json(indent=1) + "\n")
    sync_tree(directory)
    target = root / step_name(step)
    if target.exists():
        displaced = root / f"{DISPLACED}{step_name(step)}"
        _remove(displaced)
        target.rename(displaced)
        sync(root)
    directory.rename(target)
    sync(root)
    write_durably(root / MARKER_NAME, f"{step}\n".encode())
    _remove(root / f"{DISPLACED}{step_name(step)}")
    return Checkpoint(step, target, manifest)


def latest(root: Path) -> Checkpoint | None:
    """The newest whole step up to the marker, every digest verified; None when there is none.

    Steps that are torn or corrupt are skipped with a warning. Without a marker all steps count.
    """
    for step, path in _candidates(root):
        try:
            return Checkpoint(step, path, verify(path, step=step, digests=True))
        except BrokenCheckpointError as error:
            log.warning("checkpoint of step %d skipped: %s", step, error)
    return None


def open_step(path: Path) -> Checkpoint:
    """The step in the directory `path`, every digest verified: what resume_mode from_path names.

    Raises ValueError when the name is not global_step_N or the step is not whole.
    """
    match = _STEP_DIRECTORY.fullmatch(path.name)
    if match is None:
        raise ValueError(f"trainer.resume_path: {path} is not a directory named global_step_N")
    step = int(match.group(1))
    return Checkpoint(step, path, verify(path, step=step, digests=True))


def prune(root: Path, keep: int, *, resumed_from: Path | None = None) -> list[int]:
    """Remove all but the `keep` newest whole steps (negative: keep all); returns the steps removed, newest first.

    Never removes the newest whole step nor `resumed_from`. Steps that are not whole are removed when they are older
    than the newest whole one; steps beyond the marker are left alone. Whole means here that all files have their sizes:
    digests are read before a resume.
    """
    if keep < 0:
        return []
    protected = None if resumed_from is None else resumed_from.resolve()
    removed: list[int] = []
    whole = 0
    for step, path in _candidates(root):
        if _has_its_sizes(path, step):
            whole += 1
            superfluous = whole > max(keep, 1)
        else:
            superfluous = whole > 0
        if superfluous and path.resolve() != protected:
            _remove(path)
            removed.append(step)
    return removed


def _candidates(root: Path) -> Iterator[tuple[int, Path]]:
    """Directories up to the marker that may hold a step, newest first; a displaced one after the one in its place."""
    if not root.is_dir():
        return
    marked = _marked_step(root)
    found = [
        (int(match.group(1)), path)
        for path in root.iterdir()
        if (match := _STEP_DIRECTORY.fullmatch(path.name)) and path.is_dir()
    ]
    for step, path in sorted(found, key=lambda item: (-item[0], item[1].name.startswith(DISPLACED))):
        if marked is None or step <= marked:
            yield step, path


def _marked_step(root: Path) -> int | None:
    marker = root / MARKER_NAME
    if not marker.is_file():
        return None
    content = marker.read_text(errors="replace").strip()
    if not content.isdecimal():
        log.warning("%s: %r is not a step; all steps are looked at", marker, content)
        return None
    return int(content)


def _has_its_sizes(path: Path, step: int) -> bool:
    try:
        verify(path, step=step, digests=False)
    except BrokenCheckpointError:
        return False
    return True


def _remove(directory: Path) -> None:
    """Remove a directory if it is there; under another name first, so that a half-removed step looks like nothing."""
    if not directory.exists():
        return
    doomed = directory.with_name(f"{REMOVING}{directory.name.lstrip('.')}")
    if doomed.exists():
        shutil.rmtree(doomed)
    directory.rename(doomed)
    sync(directory.parent)
    shutil.rmtree(doomed)
