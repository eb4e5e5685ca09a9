"""Weights as a few large byte buffers: which parameter goes where, packing, unpacking, checksums.

One bucket is one broadcast and one request to each engine, so a model of hundreds of tensors costs a handful of round
trips. The layout serves vLLM's packed transfer (a bucket never holds more than `bucket_bytes`, unless one tensor alone
does) and SGLang's flattened bucket (every tensor starts at a multiple of its item size).

Pure functions of tensors: it must know neither process groups nor engines.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from math import prod
from typing import TypeVar

import torch

DEFAULT_BUCKET_BYTES = 256 * 1024 * 1024

DTYPES = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
    "float64": torch.float64,
}

Item = TypeVar("Item")


@dataclass(frozen=True)
class ParameterSpec:
    """One parameter as it travels: its Hugging Face name, full (unsharded) shape and wire dtype, e.g. "bfloat16"."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    def __post_init__(self) -> None:
        """Refuse a dtype that cannot travel."""
        if self.dtype not in DTYPES:
            raise ValueError(f"parameter {self.name}: dtype {self.dtype!r} cannot be sent; use one of {list(DTYPES)}")

    @classmethod
    def of(cls, name: str, tensor: torch.Tensor) -> ParameterSpec:
        """The spec of a tensor."""
        return cls(name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))

    @property
    def torch_dtype(self) -> torch.dtype:
        """The wire dtype as torch names it."""
        return DTYPES[self.dtype]

    @property
    def nbytes(self) -> int:
        """Bytes on the wire."""
        return prod(self.shape) * self.torch_dtype.itemsize


@dataclass(frozen=True)
class Bucket:
    """Parameters that travel in one buffer, in the order in which they lie in it, without gaps."""

    index: int
    parameters: tuple[ParameterSpec, ...]

    @classmethod
    def of(cls, index: int, parameters: Iterable[ParameterSpec]) -> Bucket:
        """Order the parameters by item size, widest first, so that each one's offset is aligned to its item size."""
        return cls(index, tuple(sorted(parameters, key=lambda spec: -spec.torch_dtype.itemsize)))

    @classmethod
    def from_wire(
        cls, index: int, names: Sequence[str], dtypes: Sequence[str], shapes: Sequence[Sequence[int]]
    ) -> Bucket:
        """The bucket that an update request describes; ValueError when the lists differ in length."""
        if not len(names) == len(dtypes) == len(shapes):
            raise ValueError(
                f"names, dtype_names and shapes differ in length: {len(names)}, {len(dtypes)}, {len(shapes)}"
            )
        specs = (
            ParameterSpec(name, tuple(shape), dtype) for name, dtype, shape in zip(names, dtypes, shapes, strict=True)
        )
        return cls(index, tuple(specs))

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Where each parameter starts in the buffer, bytes."""
        return tuple(accumulate((spec.nbytes for spec in self.parameters[:-1]), initial=0)) if self.parameters else ()

    @property
    def nbytes(self) -> int:
        """Length of the buffer."""
        return sum(spec.nbytes for spec in self.parameters)


def group_by_bytes(items: Iterable[Item], nbytes: Callable[[Item], int], limit: int) -> Iterator[list[Item]]:
    """Cut a stream into runs of at most `limit` bytes; an item larger than that is a run of its own.

    Lazy: a run is handed out as soon as the next item would not fit, so no more than one run is held at a time.
    """
    if limit <= 0:
        raise ValueError(f"the size of a bucket must be positive, got {limit}")
    run: list[Item] = []
    total = 0
    for item in items:
        size = nbytes(item)
        if run and total + size > limit:
            yield run
            run, total = [], 0
        run.append(item)
        total += size
    if run:
        yield run


def plan_buckets(specs: Sequence[ParameterSpec], bucket_bytes: int = DEFAULT_BUCKET_BYTES) -> list[Bucket]:
    """Divide the parameters, in the order in which they are gathered, into buckets of at most `bucket_bytes`."""
    names = [spec.name for spec in specs]
    if len(set(names)) != len(names):
        repeated = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"parameters named twice: {', '.join(repeated)}")
    runs = group_by_bytes(specs, lambda spec: spec.nbytes, bucket_bytes)
    return [Bucket.of(index, run) for index, run in enumerate(runs)]


def pack(bucket: Bucket, tensors: Mapping[str, torch.Tensor], buffer: torch.Tensor) -> None:
    """Copy the bucket's tensors into `buffer` (uint8, [bucket.nbytes]), converting them to the wire dtype."""
    assert buffer.dtype == torch.uint8, "a bucket is packed into bytes"
    for name, view in unpack(bucket, buffer):
        tensor = tensors[name]
        if tensor.shape != view.shape:
            raise ValueError(f"parameter {name}: planned with shape {tuple(view.shape)}, got {tuple(tensor.shape)}")
        view.copy_(tensor)


def unpack(bucket: Bucket, buffer: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (name, view into `buffer`) for every parameter; writing to a view writes to the buffer."""
    if buffer.numel() != bucket.nbytes:
        raise ValueError(f"bucket {bucket.index} holds {bucket.nbytes} bytes, the buffer {buffer.numel()}")
    for spec, offset in zip(bucket.parameters, bucket.offsets, strict=True):
        if offset % spec.torch_dtype.itemsize:
            raise ValueError(
                f"parameter {spec.name} ({spec.dtype}) starts at byte {offset}, which is not a multiple of its item "
                "size; order the parameters of a bucket by item size, widest first"
            )
        yield spec.name, buffer[offset : offset + spec.nbytes].view(spec.torch_dtype).view(spec.shape)


def checksum(tensor: torch.Tensor) -> str:
    """SHA-256 of the tensor's bytes in row-major order, hexadecimal."""
    flat = tensor.detach().contiguous().reshape(-1)
    data = flat.view(torch.uint8) if flat.numel() else flat.new_empty(0, dtype=torch.uint8)
    return hashlib.sha256(data.cpu().numpy().data).hexdigest()


def checksums(parameters: Iterable[tuple[str, torch.Tensor]]) -> dict[str, str]:
    """`checksum` of every parameter by name: equal on trainer and engine when they hold the same weights and dtype."""
    return {name: checksum(tensor) for name, tensor in parameters}
