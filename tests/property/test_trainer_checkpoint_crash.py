"""A writer is killed, or the power fails, before every single file operation: the last committed step stays whole."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from failing_disk import KILLED, SCRATCH, Disk
from rltrain_trainer.checkpoint.manifest import FileRecord, recorded
from rltrain_trainer.checkpoint.retention import Saved, keeps_newest, superfluous
from rltrain_trainer.checkpoint.store import MARKER_NAME, begin, commit, latest, remove, tidy, whole_steps


@dataclass(frozen=True)
class Scene:
    """What lies below the root before, and what the killed writer does."""

    committed: tuple[int, ...]  # in this order
    corrupt: frozenset[int]
    written: int
    files: tuple[tuple[str, bytes], ...]
    keep: int

    def prepare(self, root: Path) -> None:
        for step in self.committed:
            self._write(root, step, b"before")
        for step in self.corrupt & set(self.committed):
            (a_of(root, step)).write_bytes(b"torn")

    def write(self, root: Path) -> None:
        self._write(root, self.written, b"after")
        saved = [Saved(one.step) for one in whole_steps(str(root))]
        for step in superfluous(saved, keeps_newest(self.keep)):
            remove(str(root), step)

    def _write(self, root: Path, step: int, line: bytes) -> None:
        content = begin(str(root), step)
        files: dict[str, FileRecord] = {}
        for name, text in (("a", line), *self.files):
            with recorded(content, name, files) as stream:
                stream.write(text)
        commit(content, config_hash="hash", files=files)

    @property
    def newest_before(self) -> int | None:
        """The step that a resume would take before the writer began."""
        marked = self.committed[-1] if self.committed else -1
        return max((step for step in self.committed if step <= marked and step not in self.corrupt), default=None)


def a_of(root: Path, step: int) -> Path:
    (path,) = (root / f"global_step_{step}").glob("*/a")
    return path


def killed_at(operation: int, scene: Scene, root: Path, *, power_cut: bool) -> bool:
    """Run the writer in a child that is killed before this operation; whether it was."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            Disk(operation, power_cut).install()
            scene.write(root)
            status = 0
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, KILLED), f"the writer failed by itself with status {status}"
    return status == KILLED


def check(scene: Scene, root: Path) -> None:
    found = latest(str(root))
    allowed = {scene.newest_before, scene.written}
    assert (found.step if found else None) in allowed
    if found is not None:
        content = (Path(found.content) / "a").read_bytes()
        assert content == (b"before" if found.step != scene.written else content)
        assert content in (b"before", b"after")


steps = st.integers(min_value=1, max_value=4)
names = st.sampled_from(["b", "policy/c", "policy/shards/d"])
scenes = st.builds(
    Scene,
    committed=st.lists(steps, max_size=3).map(tuple),
    corrupt=st.frozensets(steps, max_size=1),
    written=steps,
    files=st.dictionaries(names, st.binary(max_size=8), max_size=2).map(lambda files: tuple(files.items())),
    keep=st.sampled_from([-1, 1, 2]),
)


SHARD = (("policy/shards/d", b"weights"),)
WRITTEN_AGAIN = Scene(committed=(2,), corrupt=frozenset(), written=2, files=SHARD, keep=1)
TAKEN_BACK = Scene(committed=(3, 1), corrupt=frozenset(), written=4, files=SHARD, keep=1)
NEWEST_CORRUPT = Scene(committed=(1, 2), corrupt=frozenset({2}), written=2, files=SHARD, keep=1)


@pytest.mark.parametrize("power_cut", [False, True], ids=["killed", "power_cut"])
@example(scene=WRITTEN_AGAIN)
@example(scene=TAKEN_BACK)
@example(scene=NEWEST_CORRUPT)
@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(scene=scenes)
def test_the_last_committed_step_survives_a_death_at_any_operation(scene: Scene, power_cut: bool) -> None:
    with tempfile.TemporaryDirectory(dir=SCRATCH) as scratch:
        base = Path(scratch) / "base"
        scene.prepare(base)
        operation, killed = 0, True
        while killed:
            root = Path(scratch) / "root"
            shutil.rmtree(root, ignore_errors=True)
            if base.exists():
                shutil.copytree(base, root)
            killed = killed_at(operation, scene, root, power_cut=power_cut)
            check(scene, root)
            if killed:  # the next attempt cleans up and gets through
                tidy(str(root))
                scene.write(root)
                again = latest(str(root))
                assert again is not None
                assert (again.step, (Path(again.content) / "a").read_bytes()) == (scene.written, b"after")
            operation += 1
        assert operation > 10, "the harness saw no file operations"
        assert latest(str(root)).step == scene.written  # type: ignore[union-attr]
        assert (root / MARKER_NAME).read_text() == f"{scene.written}\n"
