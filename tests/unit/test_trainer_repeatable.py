"""A run with the same seed is the same run, to the last bit.

Two runs in one process; `python tests/support/repeated_run.py MODEL DIRECTORY SEED` prints the same digests in others.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import repeated_run


@pytest.mark.proves("trainer.seed")
def test_a_run_with_the_same_seed_is_bitwise_the_same(tiny_model: Path, tmp_path: Path) -> None:
    first, again, other = (
        asyncio.run(repeated_run.run(str(tiny_model), str(tmp_path / str(number)), seed))
        for number, seed in enumerate((1, 1, 2))
    )
    assert first == again
    assert first["weights"] != other["weights"]
    assert first["metrics"] != other["metrics"]
