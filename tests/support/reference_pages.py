"""The reference pages that tables in tests were read from.

They are not part of the project: where they are not at hand, the test that compares a table with its page is skipped,
and says so.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

DIRECTORY = Path(os.environ.get("RLTRAIN_SEEDS", Path(__file__).parents[3] / "shared" / "seeds"))


def reference_page(name: str) -> str:
    """The text of a page; skips the test where it is not at hand (RLTRAIN_SEEDS names another directory)."""
    path = DIRECTORY / name
    if not path.is_file():
        pytest.skip(
            f"the reference page {name} is not in RLTRAIN_SEEDS ({DIRECTORY.name}), so its table was not compared"
        )
    return path.read_text(encoding="utf-8")
