"""Files of a run on volumes: paths in somebody's home move onto a volume, absolute ones get a volume mounted there.

A pod has no home that lasts, so every path that a run reads or writes must be on a volume of the job. Must not know
where the paths came from, nor judge whether they are right: `rltrain_api.rules` does.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from rltrain_api.convert.fields import Path
from rltrain_api.convert.report import Report
from rltrain_api.overrides import Override, apply_overrides, flatten

CHECKPOINTS = "/checkpoints"
CHECKPOINTS_SIZE = "200Gi"
DATA_SIZE = "50Gi"

_CKPT_PATH: Path = ("trainer", "ckpt_path")
_RESUME_PATH: Path = ("trainer", "resume_path")
_DATA: tuple[Path, ...] = (("data", "train_data"), ("data", "val_data"))
_DEFAULT_DATA = {"train_data": "/data/gsm8k/train.parquet", "val_data": "/data/gsm8k/validation.parquet"}
_MODELS: tuple[Path, ...] = tuple(("trainer", owner, "model", "path") for owner in ("policy", "ref", "critic"))
_OTHER_INPUTS: tuple[Path, ...] = (
    ("environment", "skyrl_gym", "text2sql", "db_path"),
    ("generator", "chat_template", "name_or_path"),
)
# What a run writes besides checkpoints -> the directory for it on their volume.
_OUTPUTS: dict[Path, str] = {
    ("trainer", "export_path"): "exports",
    ("trainer", "log_path"): "logs",
    ("trainer", "policy", "model", "lora", "lora_sync_path"): "lora_sync",
}
_LOCAL_LOGS = "/tmp/skyrl-logs"  # noqa: S108 - SkyRL's default, which is no error
# Directories of the system: what people mount is below them, in /home one further down, where the image's own home is.
_SYSTEM = {"mnt": 2, "media": 2, "srv": 2, "opt": 2, "root": 2, "var": 2, "usr": 2, "tmp": 2, "run": 2, "home": 3}
# First directories of a path that say what its volume says already: ~/ckpts/run1 becomes /checkpoints/run1.
_REPEATED = {
    "ckpts": "checkpoints",
    "checkpoints": "checkpoints",
    "data": "data",
    "datasets": "data",
    "models": "models",
    "exports": "exports",
    "logs": "logs",
}
_DATA_FILE = re.compile(r".*\.(parquet|json|jsonl)", re.I)


@dataclass(slots=True)
class Placement:
    """A configuration whose paths are on volumes, and those volumes."""

    tree: dict[str, Any]
    checkpoints: str = CHECKPOINTS  # where their volume is mounted
    volumes: dict[str, str] = field(default_factory=dict)  # mount path -> name, of volumes besides that

    def covers(self, path: str) -> bool:
        """Whether a path is on one of the volumes."""
        return any(_is_below(path, mount) for mount in (self.checkpoints, *self.volumes))


def place_paths(tree: dict[str, Any], lines: dict[Path, int], report: Report) -> Placement:
    """Move and mount what a run reads and writes.

    Args:
        tree: The configuration, as far as it is set.
        lines: Where each field was set.
        report: Gets a note for every path that is changed, and for every volume.
    """
    placer = _Placer(Placement(tree), lines, report)
    placer.checkpoints()
    placer.data()
    for path in _MODELS:
        placer.read_from(path, "models")
    for path in _OTHER_INPUTS:
        placer.read_from(path, "data")
    for path, directory in _OUTPUTS.items():
        placer.write_to(path, directory)
    placer.tell_volumes()
    placer.tell_homes()
    return placer.placement


def move_output(placement: Placement, path: Path, report: Report) -> bool:
    """Put an output that is not on a volume beside the checkpoints; False where the path is no output."""
    directory = _OUTPUTS.get(path)
    if directory is None:
        return False
    target = posixpath.join(placement.checkpoints, directory)
    placement.tree = apply_overrides(placement.tree, [Override(path, target)])
    report.note(None, f"{'.'.join(path)} is {target}, because it must be on a volume")
    return True


class _Placer:
    def __init__(self, placement: Placement, lines: dict[Path, int], report: Report) -> None:
        self.placement = placement
        self._lines = lines
        self._report = report
        self._inputs: list[str] = []  # files that must be on the volumes before the run

    def checkpoints(self) -> None:
        """Where checkpoints go, and with them the place of their volume."""
        old = self._text(_CKPT_PATH)
        if old is None:
            self._set(_CKPT_PATH, CHECKPOINTS, None)
        elif "://" not in old and old.startswith("/"):
            mount = _anchor(old)
            if mount is not None:
                self.placement.checkpoints = mount
        elif "://" not in old:
            self._set(_CKPT_PATH, _moved(old, CHECKPOINTS), old)
        resume = self._text(_RESUME_PATH)
        if resume is not None and "://" not in resume and not resume.startswith("/"):
            self._set(_RESUME_PATH, _moved(resume, CHECKPOINTS), resume)

    def data(self) -> None:
        """The files of prompts; SkyRL's default is in the home directory, so it is written out."""
        for path in _DATA:
            files = _at(self.placement.tree, path)
            if files is None:
                self._set(path, [_DEFAULT_DATA[path[-1]]], None)
                self._input(_DEFAULT_DATA[path[-1]], "data")
                continue
            if not isinstance(files, list) or not all(isinstance(file, str) for file in files):
                continue
            moved = [self._data_file(file) for file in files]
            if moved != files:
                self._set(path, moved, ", ".join(files))

    def _data_file(self, file: str) -> str:
        if "://" in file:
            return file
        if file.startswith("/"):
            self._input(file, "data")
            return file
        if not file.startswith("~") and not _DATA_FILE.fullmatch(file):
            return file  # a dataset of the Hugging Face Hub
        target = _moved(file, "/data")
        self._input(target, "data")
        return target

    def read_from(self, path: Path, volume: str) -> None:
        """A file or directory that the run reads, where it is one and no name on a hub."""
        old = self._text(path)
        if old is None or "://" in old or not old.startswith(("/", "~", "./", "../")):
            return
        if old.startswith("/"):
            self._input(old, volume)
            return
        target = _moved(old, f"/{volume}")
        self._set(path, target, old)
        self._input(target, volume)

    def write_to(self, path: Path, directory: str) -> None:
        """A directory that the run writes, besides the checkpoints."""
        old = self._text(path)
        if old is None or "://" in old or old.rstrip("/") == _LOCAL_LOGS or self.placement.covers(old):
            return
        base = posixpath.join(self.placement.checkpoints, directory)
        self._set(path, base if old.startswith("/") else _moved(old, base), old)

    def _input(self, file: str, volume: str) -> None:
        self._inputs.append(file)
        if self.placement.covers(file):
            return
        mount = _anchor(file)
        if mount is None:
            return
        names = set(self.placement.volumes.values())
        name = next(name for name in (volume, *(f"{volume}-{number}" for number in range(2, 100))) if name not in names)
        self.placement.volumes[mount] = name

    def tell_volumes(self) -> None:
        """What has to be done about the volumes."""
        placement, report = self.placement, self._report
        report.check(
            None,
            f"storage.checkpoints is a new volume of {CHECKPOINTS_SIZE} at {placement.checkpoints}; choose the size, "
            "or set claimName to one that you have",
        )
        for mount, name in placement.volumes.items():
            files = ", ".join(file for file in self._inputs if _is_below(file, mount))
            report.check(
                None,
                f"storage.data {name!r} is a new, empty volume of {DATA_SIZE} at {mount}: let an initializer write "
                f"{files}, or set claimName to a volume that holds what is needed",
            )
        on_checkpoints = [file for file in self._inputs if _is_below(file, placement.checkpoints)]
        if on_checkpoints:
            report.check(None, f"the volume of storage.checkpoints must also hold {', '.join(on_checkpoints)}")

    def tell_homes(self) -> None:
        """Values that still name a home directory, in fields that are no paths of ours."""
        for override in flatten(self.placement.tree):
            if any(text.startswith("~") for text in _texts(override.value)):
                line = self._lines.get(override.path)
                self._report.check(
                    line, f"{override.key} is in a home directory, which pods do not have: {override.value}"
                )

    def _text(self, path: Path) -> str | None:
        value = _at(self.placement.tree, path)
        return value if isinstance(value, str) and value else None

    def _set(self, path: Path, value: object, old: str | None) -> None:
        self.placement.tree = apply_overrides(self.placement.tree, [Override(path, value)])
        shown = ", ".join(value) if isinstance(value, list) else value
        was = f" instead of {old}" if old is not None else ", SkyRL's default being in a home directory"
        self._report.note(self._lines.get(path), f"{'.'.join(path)} is {shown}{was}")


def _moved(path: str, base: str) -> str:
    """A path in somebody's home or working directory, below `base` instead."""
    inside = posixpath.normpath(path.removeprefix("~").lstrip("/"))
    parts = [part for part in inside.split("/") if part not in ("..", ".")]
    if parts and _REPEATED.get(parts[0]) == posixpath.basename(base):
        parts = parts[1:]
    return posixpath.join(base, *parts)


def _anchor(path: str) -> str | None:
    """Where a volume is mounted that holds an absolute path; None where it would have to be the root."""
    parts = posixpath.normpath(path).strip("/").split("/")
    depth = _SYSTEM.get(parts[0], 1)
    is_file = bool(_DATA_FILE.fullmatch(path))
    available = len(parts) - 1 if is_file else len(parts)
    if not parts[0] or available < 1 or (depth > 1 and available < 2):
        return None
    return "/" + "/".join(parts[: min(depth, available)])


def _is_below(path: str, directory: str) -> bool:
    normal = posixpath.normpath(path)
    return normal == directory or normal.startswith(f"{directory}/")


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for entry in value:
            yield from _texts(entry)
    elif isinstance(value, dict):
        for entry in value.values():
            yield from _texts(entry)


def _at(tree: object, path: Path) -> object:
    for name in path:
        tree = tree.get(name) if isinstance(tree, dict) else None
    return tree
