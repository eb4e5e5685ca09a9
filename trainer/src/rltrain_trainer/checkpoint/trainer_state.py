"""trainer_state.json: where the training loop was, as plain JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

STATE_NAME = "trainer_state.json"


def write_trainer_state(directory: Path, state: Mapping[str, Any]) -> None:
    """Write the loop's state (step, epoch, loader state, …; JSON values only) into a step's directory."""
    (directory / STATE_NAME).write_text(json.dumps(dict(state), indent=1, sort_keys=True, allow_nan=False) + "\n")


def read_trainer_state(directory: Path) -> dict[str, Any]:
    """Read it back. Raises ValueError when the file is missing or is not a JSON object."""
    path = directory / STATE_NAME
    try:
        state = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ValueError(f"{path}: missing; the directory is no checkpoint of this trainer") from error
    if not isinstance(state, dict):
        raise ValueError(f"{path}: not a JSON object")
    return state
