from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rltrain_trainer.checkpoint.manifest import BrokenCheckpointError
from rltrain_trainer.checkpoint.store import MARKER_NAME, Checkpoint, begin, commit, latest, open_step, prune
from rltrain_trainer.checkpoint.trainer_state import read_trainer_state, write_trainer_state


def save(root: Path, step: int, content: str = "weights") -> Checkpoint:
    directory = begin(root, step)
    (directory / "policy").mkdir()
    (directory / "policy" / "shard").write_text(content)
    write_trainer_state(directory, {"step": step, "loader": {"epoch": 0}})
    return commit(root, step, config_hash="abc", details={"attempt": 1})


def names(root: Path) -> set[str]:
    return {path.name for path in root.iterdir()}


def found(root: Path) -> int | None:
    checkpoint = latest(root)
    return None if checkpoint is None else checkpoint.step


def test_a_committed_step_is_found_with_what_it_says_of_itself(tmp_path: Path) -> None:
    root = tmp_path / "new" / "ckpts"
    assert latest(root) is None
    written = save(root, 5)
    assert latest(root) == written
    assert written.path == root / "global_step_5"
    assert written.manifest.config_hash == "abc"
    assert written.manifest.details == {"attempt": 1}
    assert set(written.manifest.files) == {"policy/shard", "trainer_state.json"}
    assert written.manifest.total_bytes == sum(
        path.stat().st_size for path in written.path.rglob("*") if path.is_file() and path.name != "manifest.json"
    )
    assert read_trainer_state(written.path) == {"step": 5, "loader": {"epoch": 0}}
    assert names(root) == {"global_step_5", MARKER_NAME}
    assert (root / MARKER_NAME).read_text() == "5\n"


def test_a_step_that_was_begun_and_not_committed_is_nothing(tmp_path: Path) -> None:
    save(tmp_path, 1)
    (begin(tmp_path, 2) / "shard").write_text("half")
    assert found(tmp_path) == 1
    begin(tmp_path, 3)
    assert names(tmp_path) == {"global_step_1", MARKER_NAME, ".writing_global_step_3"}


def replace_manifest(path: Path, **changes: object) -> None:
    manifest = path / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | changes))


def empty(path: Path) -> None:
    shutil.rmtree(path)
    path.mkdir()


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing file": (lambda path: (path / "policy" / "shard").unlink(), r"policy/shard: missing"),
    "short file": (lambda path: (path / "policy" / "shard").write_text("w"), r"policy/shard: 1 bytes instead of 7"),
    "flipped bits": (lambda path: (path / "policy" / "shard").write_text("Weights"), r"shard: its content has changed"),
    "no manifest": (lambda path: (path / "manifest.json").unlink(), r"manifest\.json: missing"),
    "torn manifest": (lambda path: (path / "manifest.json").write_text('{"format"'), r"manifest\.json: not a manifest"),
    "other format": (lambda path: replace_manifest(path, format="v9"), r"format 'v9'"),
    "other step": (lambda path: replace_manifest(path, step=7), r"the manifest is of step 7"),
    "empty directory": (empty, r"manifest\.json: missing"),
}


@pytest.mark.parametrize("case", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_step_is_skipped_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, case: tuple[Callable[[Path], object], str]
) -> None:
    damage, complaint = case
    save(tmp_path, 1)
    save(tmp_path, 2)
    damage(tmp_path / "global_step_2")
    with caplog.at_level(logging.WARNING):
        assert found(tmp_path) == 1
    assert "checkpoint of step 2 skipped" in caplog.text
    with pytest.raises(BrokenCheckpointError, match=complaint):
        open_step(tmp_path / "global_step_2")


def test_steps_are_ordered_as_numbers(tmp_path: Path) -> None:
    save(tmp_path, 9)
    save(tmp_path, 10)
    assert found(tmp_path) == 10


def test_a_step_written_again_replaces_the_first(tmp_path: Path) -> None:
    save(tmp_path, 4, "first")
    again = save(tmp_path, 4, "second")
    assert latest(tmp_path) == again
    assert (again.path / "policy" / "shard").read_text() == "second"
    assert names(tmp_path) == {"global_step_4", MARKER_NAME}


def test_a_displaced_step_is_found_until_its_successor_is_there(tmp_path: Path) -> None:
    save(tmp_path, 4)
    (tmp_path / "global_step_4").rename(tmp_path / ".displaced_global_step_4")
    assert found(tmp_path) == 4
    save(tmp_path, 4, "second")
    assert names(tmp_path) == {"global_step_4", MARKER_NAME}


def test_a_run_taken_back_does_not_return_to_the_steps_it_left(tmp_path: Path) -> None:
    for step in (5, 10, 15):
        save(tmp_path, step)
    assert open_step(tmp_path / "global_step_5").step == 5
    save(tmp_path, 6)
    assert found(tmp_path) == 6
    assert prune(tmp_path, 1) == [5]
    assert names(tmp_path) == {"global_step_6", "global_step_10", "global_step_15", MARKER_NAME}


@pytest.mark.parametrize("marker", [None, "", "five"])
def test_without_a_readable_marker_all_steps_count(tmp_path: Path, marker: str | None) -> None:
    save(tmp_path, 5)
    (tmp_path / MARKER_NAME).unlink()
    if marker is not None:
        (tmp_path / MARKER_NAME).write_text(marker)
    assert found(tmp_path) == 5


PRUNING: dict[str, tuple[int, int | None, set[int], list[int]]] = {
    "keep all": (-1, None, set(), []),
    "keep two": (2, None, set(), [2, 1]),
    "the newest always stays": (0, None, set(), [3, 2, 1]),
    "so does the one resumed from": (1, 2, set(), [3, 1]),
    "a torn old one goes and does not count": (2, None, {3}, [3, 1]),
    "a torn newest one does not make the rest superfluous": (1, None, {4}, [2, 1]),
}


@pytest.mark.parametrize("case", PRUNING.values(), ids=PRUNING)
def test_prune(tmp_path: Path, case: tuple[int, int | None, set[int], list[int]]) -> None:
    keep, resumed_step, torn, expected = case
    for step in (1, 2, 3, 4):
        save(tmp_path, step)
    for step in torn:
        (tmp_path / f"global_step_{step}" / "policy" / "shard").write_text("")
    resumed_from = None if resumed_step is None else tmp_path / "." / f"global_step_{resumed_step}"
    assert prune(tmp_path, keep, resumed_from=resumed_from) == expected
    left = {f"global_step_{step}" for step in (1, 2, 3, 4) if step not in expected}
    assert names(tmp_path) == left | {MARKER_NAME}


def test_what_is_not_a_step_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"trainer\.resume_path: .*policy is not a directory named global_step_N"):
        open_step(tmp_path / "policy")


@pytest.mark.parametrize(("content", "message"), [(None, "missing"), ("[]", "not a JSON object")])
def test_a_trainer_state_that_is_none_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "trainer_state.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_trainer_state(tmp_path)


def test_a_trainer_state_holds_json_only(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range float"):
        write_trainer_state(tmp_path, {"reward": float("nan")})
