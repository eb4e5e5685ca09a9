"""A volume that fills up while a checkpoint is written: said as what it is, and the committed step stays whole."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.optim.lr_scheduler import LambdaLR

from rltrain_trainer.checkpoint.store import begin, commit, latest
from rltrain_trainer.driver.failures import describe
from rltrain_trainer.fsdp.state import RankState, Trained


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


def save(root: str, step: int, layers: int, width: int) -> None:
    """Save and commit a model of that many layers of about 4 * width^2 bytes each."""
    model = torch.nn.Sequential(*(torch.nn.Linear(width, width) for _ in range(layers)))
    optimizer = torch.optim.SGD(model.parameters())
    state = RankState({"policy": Trained(model, optimizer, LambdaLR(optimizer, lambda _: 1.0))})
    content = begin(root, step)
    state.save(content)
    commit(content, config_hash="hash", files=state.written())


SHAPES = {"one tensor larger than the volume": (1, 1000), "many tensors that together are": (60, 100)}


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize("case", SHAPES)
def test_a_full_volume_is_said_and_costs_no_committed_step(case: str, small_volume: Path) -> None:
    root = str(small_volume / "run")
    save(root, 1, 1, 10)
    with pytest.raises(OSError, match="No space left") as caught:
        save(root, 2, *SHAPES[case])
    assert caught.value.errno == errno.ENOSPC
    described = describe(caught.value)
    assert described.reason == "VolumeFull"
    assert "enlarge the claim" in described.remedy
    newest = latest(root)
    assert newest is not None
    assert newest.step == 1


@pytest.mark.usefixtures("one_rank")
def test_another_failure_to_write_is_not_called_a_full_volume(tmp_path: Path) -> None:
    (tmp_path / "global_step_1").write_text("a file where a directory should be")
    with pytest.raises(OSError, match="global_step_1") as caught:
        save(str(tmp_path), 1, 1, 10)
    assert describe(caught.value).reason != "VolumeFull"
