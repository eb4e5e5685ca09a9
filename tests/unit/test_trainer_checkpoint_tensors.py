"""The storage of torch.distributed.checkpoint: what is written comes back, and what is not ours is refused unread."""

from __future__ import annotations

import contextlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from rltrain_trainer.checkpoint.manifest import BrokenCheckpointError
from rltrain_trainer.checkpoint.room import as_met
from rltrain_trainer.checkpoint.tensors import DTYPES, INDEX_NAME, TensorReader, TensorWriter

TENSORS = {
    **{f"of type {name}": torch.arange(6).reshape(2, 3).to(dtype) for name, dtype in DTYPES.items()},
    "a number": torch.tensor(3.5),
    "nothing": torch.empty(0, 4),
    "not row by row": torch.arange(6.0).reshape(2, 3).T,
    "a part of another": torch.arange(10.0)[2:5],
}


def write(directory: Path, tensors: dict[str, Any]) -> TensorWriter:
    writer = TensorWriter(str(directory), 0)
    with as_met():
        save(dict(tensors), storage_writer=writer, planner=DefaultSavePlanner(flatten_state_dict=False), no_dist=True)
    return writer


def read(directory: Path, into: dict[str, Tensor]) -> None:
    with as_met():
        reader = TensorReader(str(directory))
        load(dict(into), storage_reader=reader, planner=DefaultLoadPlanner(flatten_state_dict=False), no_dist=True)


@pytest.mark.parametrize("case", TENSORS)
def test_what_is_written_comes_back_bit_for_bit(case: str, tmp_path: Path) -> None:
    writer = write(tmp_path, {"tensor": TENSORS[case]})
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert {name: record.bytes for name, record in writer.files.items()} == sizes
    found = torch.ones_like(TENSORS[case])
    read(tmp_path, {"tensor": found})
    assert found.dtype == TENSORS[case].dtype
    assert torch.equal(found.float(), TENSORS[case].float())


def test_what_is_no_tensor_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="step is no tensor"):
        write(tmp_path, {"step": 3})


class RunsWhenRead:
    """A pickle of it makes the file `mark` when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("name", [INDEX_NAME, ".metadata", "rank_0.tensors"])
def test_a_pickle_from_elsewhere_is_never_run(name: str, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    directory = tmp_path / "checkpoint"
    write(directory, {"weight": torch.zeros(64)})
    (directory / name).write_bytes(pickle.dumps(RunsWhenRead(mark)).ljust(256, b"\0"))
    with contextlib.suppress(BrokenCheckpointError):  # the index is no JSON then; bytes of tensors may be any
        read(directory, {"weight": torch.ones(64)})
    assert not mark.exists()
    pickle.loads((directory / name).read_bytes())  # noqa: S301 - that it would have run
    assert mark.exists()


def change(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda index: index["tensors"]["weight"].update(changes)


def change_part(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda index: index["tensors"]["weight"]["parts"][0].update(changes)


FORGED: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a file elsewhere": (change_part(file="../../secret"), "not an index of tensors"),
    "a file of another kind": (change_part(file="rank_0.safetensors"), "not an index of tensors"),
    "a type that is none": (change(dtype="object"), "do not make up a tensor"),
    "bytes before the file": (change_part(start=-8), "not an index of tensors"),
    "bytes behind the file": (change_part(start=1 << 40), "ends before byte"),
    "a part that is too large": (change_part(shape=[5, 3]), "do not make up a tensor"),
    "a part that lies outside": (change_part(offsets=[1, 0]), "do not make up a tensor"),
    "a part of another dimension": (change_part(shape=[6], offsets=[0]), "do not make up a tensor"),
    "a part that is missing": (change(parts=[]), "do not make up a tensor"),
    "another format": (lambda index: index.update(format="v9"), "not an index of tensors"),
    "something more": (lambda index: index.update(code="import os"), "not an index of tensors"),
}


@pytest.mark.parametrize("case", FORGED)
def test_an_index_that_makes_no_sense_is_refused(case: str, tmp_path: Path) -> None:
    forge, message = FORGED[case]
    write(tmp_path, {"weight": torch.arange(6.0).reshape(2, 3)})
    index = json.loads((tmp_path / INDEX_NAME).read_text())
    forge(index)
    (tmp_path / INDEX_NAME).write_text(json.dumps(index))
    with pytest.raises(BrokenCheckpointError, match=message):
        read(tmp_path, {"weight": torch.zeros(2, 3)})


def test_a_directory_without_an_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BrokenCheckpointError, match=r"tensors\.json: missing"):
        read(tmp_path, {"weight": torch.zeros(2, 3)})
