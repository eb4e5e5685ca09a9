"""trainer_state.json: where the training loop was, as plain JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rltrain_trainer.checkpoint.manifest import FileRecord, recorded
from rltrain_trainer.checkpoint.places import place_of

STATE_NAME = "trainer_state.json"


def write_trainer_state(content: str, state: Mapping[str, Any]) -> dict[str, FileRecord]:
    """Write the loop's state (JSON values only) into a step's directory of files; returns what was written."""
    files: dict[str, FileRecord] = {}
    with recorded(content, STATE_NAME, files) as stream:
        stream.write((json.dumps(dict(state), indent=1, sort_keys=True, allow_nan=False) + "\n").encode())
    return files


def read_trainer_state(content: str) -> dict[str, Any]:
    """Read it back. Raises ValueError when the file is missing or is not a JSON object."""
    path = f"{content}/{STATE_NAME}"
    try:
        state = json.loads(place_of(content).read(path))
    except FileNotFoundError as error:
        raise ValueError(f"{path}: missing; the directory is no checkpoint of this trainer") from error
    if not isinstance(state, dict):
        raise ValueError(f"{path}: not a JSON object")
    return state
