"""A volume that fills up while a checkpoint is written: said as what it is, and the committed step stays whole."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import save_file

from rltrain_trainer.checkpoint.room import writing_tensors
from rltrain_trainer.checkpoint.store import begin, commit, latest
from rltrain_trainer.driver.failures import describe
from rltrain_trainer.fsdp.state import save_state


@pytest.fixture
def small_volume(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    directory = tmp_path / "small"
    directory.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(directory)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("file systems can be mounted by root only")
    yield directory
    subprocess.run(["umount", str(directory)], check=True)


@pytest.fixture
def one_rank(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def save(directory: Path, layers: int, width: int) -> None:
    """Save a model of that many layers of about 4 * width^2 bytes each."""
    model = torch.nn.Sequential(*(torch.nn.Linear(width, width) for _ in range(layers)))
    save_state(directory, model, torch.optim.SGD(model.parameters()), 0)


SHAPES = {"one tensor larger than the volume": (1, 1000), "many tensors that together are": (60, 100)}


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize("case", SHAPES)
def test_a_full_volume_is_said_and_costs_no_committed_step(case: str, small_volume: Path) -> None:
    root = small_volume / "run"
    save(begin(root, 1), 1, 10)
    commit(root, 1, config_hash="hash")
    with pytest.raises(OSError, match="No space left") as caught:
        save(begin(root, 2), *SHAPES[case])
    assert caught.value.errno == errno.ENOSPC
    described = describe(caught.value)
    assert described.reason == "VolumeFull"
    assert str(small_volume) in described.message
    assert "enlarge the claim" in described.remedy
    newest = latest(root)
    assert newest is not None
    assert newest.step == 1


def test_a_full_volume_met_by_safetensors(small_volume: Path) -> None:
    with pytest.raises(OSError, match="No space left"), writing_tensors(small_volume):
        save_file({"weight": torch.zeros(1_000_000)}, small_volume / "model.safetensors")


@pytest.mark.usefixtures("one_rank")
def test_another_failure_to_write_is_not_called_a_full_volume(tmp_path: Path) -> None:
    (tmp_path / "shards").write_text("a file where a directory should be")
    with pytest.raises((OSError, RuntimeError)) as caught:
        save(tmp_path, 1, 10)
    assert describe(caught.value).reason != "VolumeFull"
