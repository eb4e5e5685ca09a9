"""Where records come from: files (parquet, json, jsonl), and datasets of a hub by their name.

A hub's dataset is `owner/name` or `owner/name:split` (SkyRL's form; the split is train unless said). Its files are
fetched once into a cache below `SKYRL_CACHE_DIR` and read like any others. It must not know what a record means.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]  # ships no types
import pyarrow.parquet as pq  # type: ignore[import-untyped]  # ships no types

from rltrain_trainer.fetch.errors import FetchError
from rltrain_trainer.fetch.records import Request
from rltrain_trainer.fetch.run import fetch

log = logging.getLogger(__name__)

CACHE_VARIABLE = "SKYRL_CACHE_DIR"
DEFAULT_CACHE = "~/.cache/skyrl"
DEFAULT_SPLIT = "train"
_HUB_NAME = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(:(?P<split>[\w.-]+))?")


def read_source(name: str) -> Iterator[tuple[Path, list[Any]]]:
    """(file, its records) of every file that `name` stands for: one file, or those of a hub's split in order.

    Raises ValueError for what is missing, unreadable, of an unknown kind or without records.
    """
    for path in _files(name):
        records = _read(path)
        if not records:
            raise ValueError(f"{path}: the dataset has no rows")
        yield path, records


def _files(name: str) -> list[Path]:
    path = Path(name).expanduser()
    if path.is_file():
        return [path]
    on_a_hub = _HUB_NAME.fullmatch(name)
    if on_a_hub is not None and path.suffix not in _READERS:
        return _hub_files(name, on_a_hub["repository"], on_a_hub["split"] or DEFAULT_SPLIT)
    raise ValueError(f"{path}: no such dataset file; check data.train_data and data.val_data and the volume's mount")


def _hub_files(name: str, repository: str, split: str) -> list[Path]:
    """The split's files, in the cache. A file belongs to a split when a word of its path is the split's name."""
    target = Path(os.environ.get(CACHE_VARIABLE) or DEFAULT_CACHE).expanduser() / "datasets" / repository
    patterns = tuple(f"*{split}*{suffix}" for suffix in _READERS)
    try:
        record = fetch(Request("dataset", f"hf://{repository}", target, include=patterns)).record
    except FetchError as error:
        raise ValueError(
            f"{name}: the dataset cannot be had from the hub ({error}); fetch it by an initializer of "
            "spec.storage and name its files"
        ) from error
    found = sorted(file for file in record.files if split in re.split(r"[^A-Za-z0-9_]+", file.rpartition(".")[0]))
    folders = sorted({file.rpartition("/")[0] for file in found})
    if not found:
        raise ValueError(f"{name}: none of its files is named after the split {split!r}; it has {sorted(record.files)}")
    if len(folders) > 1:
        raise ValueError(
            f"{name}: the split {split!r} is in several folders ({', '.join(folders)}); fetch one of them by an "
            "initializer of spec.storage and name its files"
        )
    log.info("%s: %d file(s) in %s", name, len(found), target)
    return [target / file for file in found]


def _read(path: Path) -> list[Any]:
    reader = _READERS.get(path.suffix)
    if reader is None:
        raise ValueError(f"{path}: unknown kind of dataset; a name must end in {', '.join(_READERS)}")
    return reader(path)


def _read_parquet(path: Path) -> list[Any]:
    try:
        records: list[Any] = pq.read_table(path).to_pylist()
    except pa.ArrowException as error:
        raise ValueError(f"{path}: not a readable parquet file ({error}); write it again") from error
    return records


def _read_json(path: Path) -> list[Any]:
    try:
        records = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(records, list):
        raise ValueError(f"{path}: a .json dataset is one list of rows; for one row per line name it .jsonl")
    return records


def _read_jsonl(path: Path) -> list[Any]:
    records = []
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                records.append(json.loads(line))
            except ValueError as error:
                raise ValueError(f"{path}: row {len(records)} (line {number}): not valid JSON ({error})") from error
    return records


_READERS = {".parquet": _read_parquet, ".json": _read_json, ".jsonl": _read_jsonl}
