"""Tensors of many ranks in a directory that any number of ranks can read, whatever their sharding.

    <directory>/rank_<r>.tensors    what rank r wrote: the bytes of its parts, one behind the other
    <directory>/tensors.json        the index: type and shape of each tensor, and where its parts lie

torch.distributed.checkpoint plans who writes and who reads what; this module is its storage. That library's own file
format keeps its index, and what is not a tensor, as pickles, which run whatever code they hold. Here nothing is
unpickled: a checkpoint from elsewhere is data and no more.
"""

from __future__ import annotations

import math
import os
from collections import defaultdict
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, ReadItem, SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from rltrain_trainer.checkpoint.manifest import BrokenCheckpointError, FileRecord, recorded
from rltrain_trainer.checkpoint.places import Source, place_of

INDEX_NAME = "tensors.json"
DTYPES: dict[str, torch.dtype] = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    )
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}

Extent = Annotated[int, Field(ge=0)]


class Part(BaseModel):
    """A box of a tensor, and where its bytes begin: row by row, in the order of the machine that wrote them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    offsets: tuple[Extent, ...]
    shape: tuple[Extent, ...]
    file: Annotated[str, Field(pattern=r"^rank_[0-9]+\.tensors$")]
    start: Extent


class Entry(BaseModel):
    """One tensor."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dtype: str
    shape: tuple[Extent, ...]
    parts: tuple[Part, ...]


class Index(BaseModel):
    """All tensors by name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["rltrain.io/tensors/v1"] = "rltrain.io/tensors/v1"
    tensors: dict[str, Entry]


class TensorWriter(StorageWriter):
    """One rank's end of a `torch.distributed.checkpoint.save` into `directory`.

    `files` are the records of what this rank has written. Raises ValueError for what is not a tensor.
    """

    def __init__(self, directory: str, rank: int) -> None:
        self._directory = directory
        self._name = f"rank_{rank}.tensors"
        self.files: dict[str, FileRecord] = {}

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write this rank's parts one behind the other."""
        results = []
        with recorded(self._directory, self._name, self.files) as stream:
            for item in plan.items:
                tensor = planner.resolve_data(item)
                if not isinstance(tensor, Tensor):
                    raise ValueError(f"{item.index.fqn} is no tensor, and checkpoints hold nothing else")
                start = stream.bytes
                stream.write(_bytes_of(tensor))
                part = Part(
                    offsets=tuple(item.index.offset or ()), shape=tuple(tensor.shape), file=self._name, start=start
                )
                results.append(WriteResult(item.index, stream.bytes - start, part))
        done: Future[list[WriteResult]] = Future()
        done.set_result(results)
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """The coordinating rank: write the index of what all ranks have written."""
        parts: dict[str, list[Part]] = defaultdict(list)
        for result in (result for of_rank in results for result in of_rank):
            parts[result.index.fqn].append(result.storage_data)
        entries = {}
        for name, saved in metadata.state_dict_metadata.items():
            assert isinstance(saved, TensorStorageMetadata), "write_data lets only tensors pass"
            entries[name] = Entry(
                dtype=_NAMES[saved.properties.dtype], shape=tuple(saved.size), parts=tuple(parts[name])
            )
        with recorded(self._directory, INDEX_NAME, self.files) as stream:
            stream.write(Index(tensors=entries).model_dump_json().encode())

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """A writer is for one checkpoint."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Nothing depends on it: the coordinator is the rank whose `finish` is called."""

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """As planned."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """As planned."""
        return plans

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Writers are made by hand, never found by an id."""
        return False


class TensorReader(StorageReader):
    """One rank's end of a `torch.distributed.checkpoint.load` from `directory`.

    Making one reads the index; it and `read_data` raise BrokenCheckpointError when the files are not what a
    TensorWriter writes.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._place = place_of(directory)
        path = f"{directory}/{INDEX_NAME}"
        try:
            self._index = Index.model_validate_json(self._place.read(path))
        except FileNotFoundError as error:
            raise BrokenCheckpointError(f"{path}: missing") from error
        except ValidationError as error:
            raise BrokenCheckpointError(f"{path}: not an index of tensors ({error.error_count()} errors)") from error
        for name, entry in self._index.tensors.items():
            _demand_sense(path, name, entry)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor that is there, by name."""
        return {name: entry.shape for name, entry in self._index.tensors.items()}

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The index, as the planner wants it."""
        return Metadata({name: _metadata(entry) for name, entry in self._index.tensors.items()})

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Read the parts that this rank needs, file by file, from front to back."""
        by_file: dict[str, list[tuple[Part, ReadItem]]] = defaultdict(list)
        for item in plan.items:
            part = self._part(item.storage_index)
            by_file[part.file].append((part, item))
        for file, wanted in by_file.items():
            with self._place.reader(f"{self._directory}/{file}") as stream:
                for part, item in sorted(wanted, key=lambda pair: pair[0].start):
                    saved = self._read(stream, part, DTYPES[self._index.tensors[item.storage_index.fqn].dtype])
                    box = tuple(
                        slice(first, first + length)
                        for first, length in zip(item.storage_offsets, item.lengths, strict=True)
                    )
                    target = planner.resolve_tensor(item).detach()
                    target.copy_(saved[box])
                    planner.commit_tensor(item, target)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def _part(self, index: MetadataIndex) -> Part:
        offsets = tuple(index.offset or ())
        parts = self._index.tensors[index.fqn].parts
        return next(part for part in parts if part.offsets == offsets)

    def _read(self, stream: Source, part: Part, dtype: torch.dtype) -> Tensor:
        size = math.prod(part.shape) * dtype.itemsize
        if size == 0:
            return torch.empty(part.shape, dtype=dtype)
        stream.seek(part.start)
        content = stream.read(size)
        if len(content) != size:
            raise BrokenCheckpointError(f"{self._directory}/{part.file}: it ends before byte {part.start + size}")
        return torch.frombuffer(bytearray(content), dtype=dtype).reshape(part.shape)

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """A reader is for one checkpoint."""

    def set_up_storage_reader(
        self,
        metadata: Metadata,
        is_coordinator: bool,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """The index is read already."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """As planned."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """As planned."""
        return plans

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Readers are made by hand, never found by an id."""
        return False


def _bytes_of(tensor: Tensor) -> memoryview:
    """The bytes of a tensor, row by row; no copy where it lies so on the CPU."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def _metadata(entry: Entry) -> TensorStorageMetadata:
    return TensorStorageMetadata(
        TensorProperties(dtype=DTYPES[entry.dtype]),
        torch.Size(entry.shape),
        [ChunkStorageMetadata(torch.Size(part.offsets), torch.Size(part.shape)) for part in entry.parts],
    )


def _demand_sense(path: str, name: str, entry: Entry) -> None:
    """Raises BrokenCheckpointError unless the parts lie inside the tensor and together have as many numbers."""
    ranks = {len(entry.shape), *(len(part.offsets) for part in entry.parts), *(len(part.shape) for part in entry.parts)}
    fits = len(ranks) == 1 and all(
        first + length <= whole
        for part in entry.parts
        for first, length, whole in zip(part.offsets, part.shape, entry.shape, strict=True)
    )
    numbers = sum(math.prod(part.shape) for part in entry.parts)
    if entry.dtype not in DTYPES or not fits or numbers != math.prod(entry.shape):
        raise BrokenCheckpointError(f"{path}: the parts of {name} do not make up a tensor of type {entry.dtype}")
