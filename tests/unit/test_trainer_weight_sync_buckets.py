"""Buckets: nothing is lost, reordered or misaligned on the way through plan, pack, wire and unpack."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rltrain_trainer.weight_sync.buckets import (
    DTYPES,
    Bucket,
    ParameterSpec,
    checksum,
    checksums,
    pack,
    plan_buckets,
    unpack,
)
from rltrain_trainer.weight_sync.sender import WeightSender

shapes = st.lists(st.integers(0, 5), min_size=0, max_size=3).map(tuple)
specs = st.lists(st.tuples(shapes, st.sampled_from(sorted(DTYPES))), max_size=12).map(
    lambda pairs: [ParameterSpec(f"p{index}", shape, dtype) for index, (shape, dtype) in enumerate(pairs)]
)


def values_of(spec: ParameterSpec, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(spec.shape, generator=generator, dtype=torch.float64).to(spec.torch_dtype)


@given(specs, st.integers(1, 400))
@settings(max_examples=150, deadline=None)
def test_a_round_trip_gives_every_parameter_back(planned: list[ParameterSpec], bucket_bytes: int) -> None:
    tensors = {spec.name: values_of(spec, seed) for seed, spec in enumerate(planned)}
    received: dict[str, torch.Tensor] = {}
    for bucket in plan_buckets(planned, bucket_bytes):
        assert bucket.nbytes <= bucket_bytes or len([s for s in bucket.parameters if s.nbytes]) == 1
        buffer = torch.empty(bucket.nbytes, dtype=torch.uint8)
        pack(bucket, tensors, buffer)
        on_the_wire = Bucket.from_wire(
            0,
            [spec.name for spec in bucket.parameters],
            [spec.dtype for spec in bucket.parameters],
            [list(spec.shape) for spec in bucket.parameters],
        )
        received |= {name: tensor.clone() for name, tensor in unpack(on_the_wire, buffer.clone())}
    assert received.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert received[name].dtype == tensor.dtype
        assert torch.equal(received[name], tensor), name


@given(specs, st.integers(1, 400))
@settings(max_examples=60, deadline=None)
def test_the_sender_stages_what_the_plan_says(planned: list[ParameterSpec], bucket_bytes: int) -> None:
    sender = WeightSender(bucket_bytes=bucket_bytes, backend="gloo")
    for step in range(2):  # the second time the buffers are used again
        gathered = ((spec.name, values_of(spec, seed + step)) for seed, spec in enumerate(planned))
        assert sender.stage(gathered) == plan_buckets(planned, bucket_bytes)


def test_packing_converts_to_the_wire_dtype() -> None:
    (bucket,) = plan_buckets([ParameterSpec("w", (2,), "bfloat16")])
    buffer = torch.empty(4, dtype=torch.uint8)
    pack(bucket, {"w": torch.tensor([1.0, 3.14159265])}, buffer)
    ((_, received),) = unpack(bucket, buffer)
    assert received.tolist() == [1.0, 3.140625]


def test_wide_items_come_first_so_that_all_are_aligned() -> None:
    (bucket,) = plan_buckets([ParameterSpec("half", (3,), "bfloat16"), ParameterSpec("single", (2,), "float32")])
    assert [(spec.name, offset) for spec, offset in zip(bucket.parameters, bucket.offsets, strict=True)] == [
        ("single", 0),
        ("half", 8),
    ]


@dataclass(frozen=True)
class Refusal:
    bucket: Bucket
    tensors: dict[str, torch.Tensor]
    size: int
    message: str


W = ParameterSpec("w", (2,), "float32")
REFUSALS = {
    "wrong shape": Refusal(Bucket(0, (W,)), {"w": torch.zeros(3)}, 8, r"parameter w: planned with shape \(2,\), got"),
    "wrong buffer": Refusal(Bucket(3, (W,)), {"w": torch.zeros(2)}, 9, "bucket 3 holds 8 bytes, the buffer 9"),
    "misaligned": Refusal(
        Bucket(0, (ParameterSpec("half", (1,), "float16"), W)),
        {"half": torch.zeros(1), "w": torch.zeros(2)},
        10,
        "item",
    ),
}


@pytest.mark.parametrize("case", REFUSALS.values(), ids=REFUSALS.keys())
def test_what_does_not_fit_is_refused(case: Refusal) -> None:
    with pytest.raises(ValueError, match=case.message):
        pack(case.bucket, case.tensors, torch.empty(case.size, dtype=torch.uint8))


def test_plans_refuse_what_cannot_be_sent() -> None:
    with pytest.raises(ValueError, match="named twice: w"):
        plan_buckets([W, W])
    with pytest.raises(ValueError, match="must be positive"):
        plan_buckets([W], 0)
    with pytest.raises(ValueError, match="dtype 'int8' cannot be sent"):
        ParameterSpec("q", (1,), "int8")
    with pytest.raises(ValueError, match="differ in length: 1, 2, 1"):
        Bucket.from_wire(0, ["w"], ["float32", "float32"], [[1]])


def test_checksums_are_those_of_the_bytes() -> None:
    tensor = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    expected = hashlib.sha256(tensor.numpy().tobytes()).hexdigest()
    assert checksum(tensor) == expected
    assert checksum(tensor.t().contiguous().t()) == expected  # another memory layout, the same values
    changed = tensor.clone()
    changed[1, 2] += 1e-6
    assert checksums([("a", tensor), ("b", changed)])["b"] != expected
    assert checksum(tensor.bfloat16()) != expected
    assert checksum(torch.empty(0)) == hashlib.sha256(b"").hexdigest()
