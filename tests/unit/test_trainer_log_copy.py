from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from rltrain_trainer.checkpoint.places import place_of
from rltrain_trainer.tracking.log_copy import log_copied

ROOT = "memory://bucket/job"


@pytest.fixture(autouse=True)
def store() -> Iterator[None]:
    yield
    fsspec.filesystem("memory").store.clear()


def trainer(tmp_path: Path, ckpt_path: str = ROOT) -> dict[str, str]:
    return {"ckpt_path": ckpt_path, "log_path": str(tmp_path)}


def test_the_log_is_beside_the_checkpoints_at_the_end(tmp_path: Path) -> None:
    with log_copied(trainer(tmp_path), "driver-2"):
        (tmp_path / "driver-2.log").write_text("all steps done\n")
    assert place_of(ROOT).read(f"{ROOT}/logs/driver-2.log") == b"all steps done\n"


def test_a_run_that_fails_leaves_its_log_too(tmp_path: Path) -> None:
    (tmp_path / "driver-1.log").write_text("Traceback\n")
    with pytest.raises(SystemExit), log_copied(trainer(tmp_path), "driver-1"):
        raise SystemExit(1)
    assert place_of(ROOT).read(f"{ROOT}/logs/driver-1.log") == b"Traceback\n"


def test_a_log_that_cannot_be_copied_is_said_and_costs_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), log_copied(trainer(tmp_path, "floppy://disk"), "driver-1"):
        (tmp_path / "driver-1.log").write_text("some\n")
    assert "is not kept at floppy://disk/logs/driver-1.log" in caplog.text


def test_on_a_volume_there_is_nothing_to_copy(tmp_path: Path) -> None:
    with log_copied(trainer(tmp_path, str(tmp_path / "checkpoints")), "driver-1"):
        pass
    assert list(tmp_path.iterdir()) == []
