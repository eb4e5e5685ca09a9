from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest

from object_server import credentials, object_server
from rltrain_trainer.checkpoint.manifest import BrokenCheckpointError, FileRecord, recorded
from rltrain_trainer.checkpoint.places import normal, place_of
from rltrain_trainer.checkpoint.store import (
    MARKER_NAME,
    Checkpoint,
    begin,
    commit,
    latest,
    open_step,
    remove,
    tidy,
    whole_steps,
)
from rltrain_trainer.checkpoint.trainer_state import read_trainer_state, write_trainer_state


@pytest.fixture(params=["a volume", "S3", "a store of fsspec's"])
def root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A place that nothing is in yet."""
    if request.param == "a volume":
        yield str(tmp_path / "new" / "ckpts")
    elif request.param == "S3":
        with object_server() as objects:
            for name, value in credentials(objects).items():
                monkeypatch.setenv(name, value)
            yield "s3://bucket/ckpts"
    else:
        yield "memory://bucket/ckpts"
        fsspec.filesystem("memory").store.clear()


def write(content: str, text: str = "weights") -> dict[str, FileRecord]:
    files: dict[str, FileRecord] = {}
    with recorded(content, "policy/shard", files) as stream:
        stream.write(text.encode())
    return files


def save(root: str, step: int, text: str = "weights") -> Checkpoint:
    content = begin(root, step)
    files = write(content, text) | write_trainer_state(content, {"step": step, "loader": {"epoch": 0}})
    return commit(content, config_hash="abc", files=files, details={"attempt": 1})


def found(root: str) -> int | None:
    checkpoint = latest(root)
    return None if checkpoint is None else checkpoint.step


def read(checkpoint: Checkpoint) -> str:
    return place_of(checkpoint.content).read(f"{checkpoint.content}/policy/shard").decode()


def test_a_committed_step_is_found_with_what_it_says_of_itself(root: str) -> None:
    assert latest(root) is None
    written = save(root, 5)
    assert latest(root) == written
    assert written.path == f"{root}/global_step_5"
    assert written.manifest.config_hash == "abc"
    assert written.manifest.details == {"attempt": 1}
    assert set(written.manifest.files) == {"policy/shard", "trainer_state.json"}
    sizes = place_of(root).sizes(written.content)
    assert {name: record.bytes for name, record in written.manifest.files.items()} == sizes
    assert written.manifest.total_bytes == sum(sizes.values())
    assert read_trainer_state(written.content) == {"step": 5, "loader": {"epoch": 0}}
    assert place_of(root).directories(root) == ["global_step_5"]
    assert place_of(root).read(f"{root}/{MARKER_NAME}") == b"5\n"


def test_a_step_that_was_begun_and_not_committed_is_nothing(root: str) -> None:
    save(root, 1)
    write(begin(root, 2))
    assert found(root) == 1
    tidy(root)
    assert place_of(root).directories(root) == ["global_step_1"]
    assert found(root) == 1


def test_a_step_that_is_written_again_takes_the_place_of_the_first_in_one_moment(root: str) -> None:
    save(root, 2, "first")
    content = begin(root, 2)
    files = write(content, "second")
    before = latest(root)
    assert before is not None
    assert read(before) == "first"
    after = commit(content, config_hash="abc", files=files)
    assert read(after) == "second"
    assert latest(root) == after
    assert place_of(root).directories(after.path) == [after.manifest.content]


def test_a_writing_that_nobody_committed_goes_and_the_step_stays(root: str) -> None:
    committed = save(root, 2)
    write(begin(root, 2), "never committed")
    tidy(root)
    assert place_of(root).directories(committed.path) == [committed.manifest.content]
    assert latest(root) == committed


def test_what_another_trainer_or_a_later_release_wrote_is_left_alone(root: str) -> None:
    """SkyRL's own steps have the same name; a later release's manifest cannot be read."""
    place = place_of(root)
    others = ["global_step_1/trainer_state.pt", "global_step_1/policy/model.pt", "global_step_2/policy/data.pt"]
    others += ["global_step_3/manifest.json", f"global_step_3/{'0' * 32}/policy/tensors", "notes/plan.txt"]
    for name in others:
        place.replace(f"{root}/{name}", b"theirs")
    tidy(root)
    save(root, 4)
    assert set(others) <= set(place.sizes(root))


def replace_manifest(checkpoint: Checkpoint, **changes: object) -> None:
    manifest = Path(checkpoint.path) / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | changes))


DAMAGE: dict[str, tuple[Callable[[Checkpoint], object], str]] = {
    "missing file": (lambda one: (Path(one.content) / "policy" / "shard").unlink(), r"policy/shard: missing"),
    "missing content": (lambda one: shutil.rmtree(one.content), r"policy/shard: missing"),
    "short file": (lambda one: (Path(one.content) / "policy" / "shard").write_text("w"), r"1 bytes instead of 7"),
    "another content": (lambda one: (Path(one.content) / "policy" / "shard").write_text("WEIGHTS"), r"has changed"),
    "missing manifest": (lambda one: (Path(one.path) / "manifest.json").unlink(), r"manifest.json: missing"),
    "torn manifest": (lambda one: (Path(one.path) / "manifest.json").write_text('{"step"'), r"not a manifest"),
    "manifest of another step": (lambda one: replace_manifest(one, step=7), r"of step 7"),
    "manifest of another format": (lambda one: replace_manifest(one, format="v0"), r"format 'v0'"),
    "files outside of the step": (lambda one: replace_manifest(one, content="../.."), r"not a manifest"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_step_is_skipped_with_a_warning(case: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = str(tmp_path)
    damage, message = DAMAGE[case]
    save(root, 1)
    newest = save(root, 2)
    damage(newest)
    with caplog.at_level(logging.WARNING):
        assert found(root) == 1
    assert "step 2 skipped" in caplog.text
    with pytest.raises(BrokenCheckpointError, match=message):
        open_step(newest.path)


def test_steps_beyond_the_marker_do_not_count(root: str) -> None:
    for step in (3, 4, 1):
        save(root, step)
    assert found(root) == 1
    assert [one.step for one in whole_steps(root)] == [1]
    place_of(root).remove_file(f"{root}/{MARKER_NAME}")
    assert found(root) == 4


def test_a_marker_that_is_no_number_is_not_believed(root: str, caplog: pytest.LogCaptureFixture) -> None:
    save(root, 3)
    place_of(root).replace(f"{root}/{MARKER_NAME}", b"newest\n")
    with caplog.at_level(logging.WARNING):
        assert found(root) == 3
    assert "not a step" in caplog.text


def test_a_removed_step_is_gone(root: str) -> None:
    for step in (1, 2):
        save(root, step)
    remove(root, 1)
    assert [one.step for one in whole_steps(root)] == [2]
    assert place_of(root).directories(root) == ["global_step_2"]


@pytest.mark.parametrize("name", ["global_step_x", "step_4", "global_step_4.old"])
def test_a_path_that_names_no_step_is_refused(name: str, root: str) -> None:
    with pytest.raises(ValueError, match="not a directory named global_step_N"):
        open_step(f"{root}/{name}")


def test_a_state_that_is_no_json_is_refused(root: str) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_trainer_state(root, {"reward": float("nan")})
    place_of(root).replace(f"{root}/trainer_state.json", b"[]")
    with pytest.raises(ValueError, match="not a JSON object"):
        read_trainer_state(root)
    with pytest.raises(ValueError, match="no checkpoint of this trainer"):
        read_trainer_state(f"{root}/elsewhere")


WRITTEN: dict[str, str] = {
    "/a/b/": "/a/b",
    "file:///a/b": "/a/b",
    "~/ckpts/": str(Path("~/ckpts").expanduser()),
    "s3://bucket/a/": "s3://bucket/a",
}


@pytest.mark.parametrize("location", WRITTEN)
def test_locations_have_one_form(location: str) -> None:
    assert normal(location) == WRITTEN[location]


@pytest.mark.parametrize("url", ["s3://key:hidden@bucket/a", "s3://hidden@bucket/a", "s3://bucket/a?secret_key=hidden"])
def test_a_url_with_credentials_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ValueError, match=r"runtime\.envFrom") as caught:
        place_of(url)
    assert "hidden" not in str(caught.value)


def test_a_url_that_nothing_can_use_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing in this image can use it"):
        place_of("floppy://a/b")
