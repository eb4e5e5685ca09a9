"""A writer is killed, or the power fails, before every single file operation: the last committed step stays whole."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rltrain_trainer.checkpoint.store import MARKER_NAME, begin, commit, latest, prune

KILLED = 77
# The harness itself decides what survives, so a real disk would only make the thousands of syncs slow.
SCRATCH = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


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
            (root / f"global_step_{step}" / "a").write_bytes(b"torn")

    def write(self, root: Path) -> None:
        self._write(root, self.written, b"after")
        prune(root, self.keep)

    def _write(self, root: Path, step: int, line: bytes) -> None:
        directory = begin(root, step)
        for name, content in (("a", line), *self.files):
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        commit(root, step, config_hash="hash")

    @property
    def newest_before(self) -> int | None:
        """The step that a resume would take before the writer began."""
        marked = self.committed[-1] if self.committed else -1
        return max((step for step in self.committed if step <= marked and step not in self.corrupt), default=None)


@dataclass
class Disk:
    """Counts file operations by audit events and ends the process before the last one allowed.

    With a power cut, what was not synced is lost as well: files written since are cut in half, and a rename whose
    directory was not synced since is undone.
    """

    allowed: int
    power_cut: bool
    operations: int = 0
    unsynced_files: set[str] = field(default_factory=set)
    unsynced_renames: list[tuple[str, str, bytes | None]] = field(default_factory=list)

    def install(self) -> None:
        fsync = os.fsync

        def counted(descriptor: Any) -> None:
            self._operation()
            fsync(descriptor)
            self._synced(str(Path(f"/proc/self/fd/{descriptor}").readlink()))

        os.fsync = counted  # type: ignore[assignment]
        sys.addaudithook(self._audit)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
            self._operation()
            self.unsynced_files.add(os.path.realpath(arguments[0]))
        elif event == "os.rename":
            self._operation()
            self._renamed(*(os.path.realpath(name) for name in arguments[:2]))
        elif event in ("os.mkdir", "os.remove", "os.rmdir"):
            self._operation()

    def _operation(self) -> None:
        if self.operations == self.allowed:
            if self.power_cut:
                self._lose()
            os._exit(KILLED)
        self.operations += 1

    def _renamed(self, source: str, target: str) -> None:
        replaced = Path(target).read_bytes() if Path(target).is_file() else None
        self.unsynced_renames.append((source, target, replaced))
        self.unsynced_files = {
            target + name.removeprefix(source) if name == source or name.startswith(source + "/") else name
            for name in self.unsynced_files
        }

    def _synced(self, name: str) -> None:
        self.unsynced_files.discard(name)
        self.unsynced_renames = [rename for rename in self.unsynced_renames if str(Path(rename[1]).parent) != name]

    def _lose(self) -> None:
        self.allowed = sys.maxsize  # the loss itself is not an operation of the writer
        for name in self.unsynced_files & {str(path) for path in map(Path, self.unsynced_files) if path.is_file()}:
            os.truncate(name, Path(name).stat().st_size // 2)
        for source, target, replaced in reversed(self.unsynced_renames):
            if Path(target).exists() and not Path(source).exists():
                Path(target).rename(source)
                if replaced is not None:
                    Path(target).write_bytes(replaced)


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
    found = latest(root)
    allowed = {scene.newest_before, scene.written}
    assert (found.step if found else None) in allowed
    if found is not None:
        content = (found.path / "a").read_bytes()
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
                scene.write(root)
                again = latest(root)
                assert again is not None
                assert (again.step, (again.path / "a").read_bytes()) == (scene.written, b"after")
            operation += 1
        assert operation > 10, "the harness saw no file operations"
        assert latest(root).step == scene.written  # type: ignore[union-attr]
        assert (root / MARKER_NAME).read_text() == f"{scene.written}\n"
