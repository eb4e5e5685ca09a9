"""What `plan` reads beside the job: the model's `config.json`, a number of parameters, the rows of a data set.

Thin shell: files and words in, numbers out. Must not know how anything is estimated.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

from rltrain_api.sizing.shapes import ModelShape, read_shape
from rltrain_operator.cli.errors import CommandError

CONFIG_NAME = "config.json"
MAX_CONFIG_BYTES = 1024 * 1024  # the largest config.json on the Hub are some 100 KB
COUNT = re.compile(r"([0-9][0-9_,]*(?:\.[0-9]+)?)([KMBT]?)", re.IGNORECASE)
SCALES = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
LARGEST_COUNT = 10**14


def read_model_shape(path: Path) -> ModelShape:
    """The shape in a config.json, or in that of a model's directory.

    Raises:
        CommandError: there is none, or it describes no model that is known here.
    """
    file = path / CONFIG_NAME if path.is_dir() else path
    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise CommandError(f"{file}: cannot be read: {error.strerror}", f"Name a model's {CONFIG_NAME}.") from error
    if len(content) > MAX_CONFIG_BYTES:
        raise CommandError(f"{file}: is larger than {MAX_CONFIG_BYTES:,} bytes", f"Name a model's {CONFIG_NAME}.")
    try:
        config = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CommandError(f"{file}: is no JSON: {error}", f"Name a model's {CONFIG_NAME}.") from error
    if not isinstance(config, dict):
        raise CommandError(f"{file}: holds no JSON object", f"Name a model's {CONFIG_NAME}.")
    try:
        return read_shape(config)
    except ValueError as error:
        raise CommandError(f"{file}: {error}") from error


def shape_beside(model_path: str | None) -> ModelShape | None:
    """The shape of the model that a job names, where that is a directory of this machine with a config.json."""
    if model_path is None:
        return None
    directory = Path(model_path).expanduser()
    return read_model_shape(directory) if (directory / CONFIG_NAME).is_file() else None


def parse_count(text: str) -> int:
    """A number of parameters such as 7B, 1.5b, 494M or 494,032,768.

    Raises:
        ValueError: the text is no such number.
    """
    match = COUNT.fullmatch(text.strip())
    count = Decimal(0)
    if match is not None:
        count = Decimal(match[1].replace(",", "").replace("_", "")) * SCALES[match[2].upper()]
    if not 1 <= count <= LARGEST_COUNT:
        raise ValueError(f"{text!r} is no number of parameters, such as 7B, 1.5B or 494M")
    return int(count)


def count_rows(paths: Sequence[str]) -> int | None:
    """The rows of data files, where all are JSON lines on this machine; otherwise None."""
    files = [Path(path).expanduser() for path in paths]
    if not all(file.suffix == ".jsonl" and file.is_file() for file in files):
        return None
    return sum(_lines(file) for file in files)


def _lines(file: Path) -> int:
    try:
        with file.open("rb") as stream:
            return sum(1 for line in stream if line.strip())
    except OSError as error:
        raise CommandError(f"{file}: cannot be read: {error.strerror}", "Give the number with --rows.") from error
