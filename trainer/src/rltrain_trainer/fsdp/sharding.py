"""FSDP2 as this trainer uses it: meshes of ranks, one shard group per transformer block, summed gradients.

The same code runs on gloo with CPUs and on NCCL with GPUs. It must not know of losses or batches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from rltrain_api.config import FSDPConfig
from rltrain_trainer.models.body import blocks_of
from rltrain_trainer.models.scored import ScoredCausalLM
from rltrain_trainer.models.sequence_parallel import SequenceGroup
from rltrain_trainer.models.valued import ValuedLM

SHARDS = "shard"  # the mesh dimension over which a copy of the model is spread
_TYPES: Mapping[str, torch.dtype] = {"bf16": torch.bfloat16, "fp32": torch.float32}
_WRAPPED_CLASSES = "transformer_layer_cls_to_wrap"

TokenModel = ScoredCausalLM | ValuedLM


@dataclass(frozen=True)
class Sharding:
    """How one model is spread over its ranks; see `of` for where it comes from.

    Args:
        precision: Types of parameters in computation and of gradients in sums.
        buffers: Type of the model's buffers; None leaves them.
        reshard_after_forward: Free gathered parameters after the forward pass, or reshard them to that many ranks.
        offload: Keep parameters, gradients and optimiser state in CPU memory.
        classes: Classes of the modules that are one shard group each; none: the transformer's blocks.
    """

    precision: MixedPrecisionPolicy
    buffers: torch.dtype | None
    reshard_after_forward: bool | int
    offload: bool
    classes: tuple[str, ...]

    @classmethod
    def of(cls, fsdp: FSDPConfig, *, bf16: bool) -> Sharding:
        """What a model's fsdp_config says; bf16 (trainer.bf16) decides types where mixed_precision is unset.

        Raises ValueError for a wrap_policy that FSDP2 has no counterpart of, and for float16, whose small gradients
        would need a scaling that is not done.
        """
        mixed = fsdp.mixed_precision
        if mixed is None:
            precision = (
                MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
                if bf16
                else MixedPrecisionPolicy()
            )
        else:
            precision = MixedPrecisionPolicy(
                param_dtype=_type(mixed.param_dtype), reduce_dtype=_type(mixed.reduce_dtype)
            )
        return cls(
            precision=precision,
            buffers=None if mixed is None else _type(mixed.buffer_dtype),
            reshard_after_forward=fsdp.reshard_after_forward,
            offload=fsdp.cpu_offload,
            classes=_wrapped(fsdp.wrap_policy),
        )

    @property
    def compute_dtype(self) -> torch.dtype:
        """The type that parameters have in computation."""
        return self.precision.param_dtype or torch.float32


@dataclass(frozen=True)
class RankMesh:
    """One rank's place among the ranks of a model, which are all of the default process group.

    Args:
        device: Where the rank computes.
        shards: Mesh of FSDP: [shard], or [replicate, shard] where several copies of the model are kept.
        data_rank: Which of the groups of ranks that get different sequences the rank belongs to.
        data_size: How many such groups there are.
        sequence: The ranks that share the rank's sequences; None where it has them to itself.
    """

    device: torch.device
    shards: DeviceMesh
    data_rank: int
    data_size: int
    sequence: SequenceGroup | None

    @classmethod
    def form(cls, device: torch.device, *, fsdp_size: int = -1, sequence_parallel_size: int = 1) -> RankMesh:
        """Form the meshes. A collective. Ranks that share sequences, or a copy of the model, are neighbours.

        Raises ValueError for sizes that do not divide the number of ranks.
        """
        assert dist.is_initialized(), "init_process_group comes before a sharded model"
        world, rank = dist.get_world_size(), dist.get_rank()
        copy = world if fsdp_size == -1 or fsdp_size >= world else fsdp_size
        for name, size in (("fsdp_config.fsdp_size", copy), ("sequence_parallel_size", sequence_parallel_size)):
            if size < 1 or world % size:
                raise ValueError(f"{name}: {size} does not divide the model's {world} GPUs; use a divisor of {world}")
        if copy == world:
            shards = init_device_mesh(device.type, (world,), mesh_dim_names=(SHARDS,))
        else:
            shards = init_device_mesh(device.type, (world // copy, copy), mesh_dim_names=("replicate", SHARDS))
        sequence = None
        if sequence_parallel_size > 1:
            shape = (world // sequence_parallel_size, sequence_parallel_size)
            mesh = init_device_mesh(device.type, shape, mesh_dim_names=("data", "sequence"))["sequence"]
            sequence = SequenceGroup(mesh.get_group(), mesh.get_local_rank(), sequence_parallel_size)
        return cls(device, shards, rank // sequence_parallel_size, world // sequence_parallel_size, sequence)

    @property
    def counts(self) -> bool:
        """Whether this rank's numbers enter sums over ranks: those of a sequence group compute the same ones."""
        return self.sequence is None or self.sequence.rank == 0

    @property
    def copy_group(self) -> dist.ProcessGroup:
        """The ranks that together hold one copy of the model."""
        return self.shards[SHARDS].get_group() if self.shards.ndim > 1 else self.shards.get_group()


def rank_device() -> torch.device:
    """Where this rank computes: its current GPU, or the CPU where there is none."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def shard_model(model: TokenModel, mesh: RankMesh, sharding: Sharding) -> list[FSDPModule]:
    """Shard the model in place over the mesh; parameters become DTensors.

    Parameters keep their own type, which makes them the float32 master weights of a model loaded in float32. Gradients
    are summed over ranks, not averaged: the loss already carries its denominators. Returns the shard groups, the root
    last.
    """
    if sharding.buffers is not None:
        for buffer in model.buffers():
            if buffer.is_floating_point():
                buffer.data = buffer.data.to(sharding.buffers)
    # A CPU has nowhere to offload to.
    offload = CPUOffloadPolicy() if sharding.offload and mesh.device.type != "cpu" else OffloadPolicy()
    groups = [
        fully_shard(
            block,
            mesh=mesh.shards,
            mp_policy=sharding.precision,
            offload_policy=offload,
            reshard_after_forward=sharding.reshard_after_forward,
        )
        for block in blocks_of(model.body, sharding.classes)
    ]
    # The root holds the embeddings, which the forward pass needs at both ends and the backward pass needs first.
    root = fully_shard(
        model, mesh=mesh.shards, mp_policy=sharding.precision, offload_policy=offload, reshard_after_forward=False
    )
    groups.append(root)
    for group in groups:
        group.set_gradient_divide_factor(1.0)
        group.set_force_sum_reduction_for_comms(True)  # the factor alone would ask for an operation that gloo lacks
    return groups


def free_gathered(groups: list[FSDPModule]) -> None:
    """Forget gathered parameters after a forward pass without backward.

    What stays gathered is not gathered again, so it would be stale after the next change of the shards.
    """
    for group in groups:
        group.reshard()


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a sharded tensor; other tensors as they are."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def full_tensor(tensor: Tensor, device: torch.device | None = None) -> Tensor:
    """The whole of a sharded tensor, on every rank, gathered on `device` (None: where it is). A collective."""
    assert isinstance(tensor, DTensor), "every parameter belongs to a shard group"
    moved = tensor if device is None else tensor.to(device)
    assert isinstance(moved, DTensor), "moving does not gather"
    whole: Tensor = moved.full_tensor()
    return whole


@torch.no_grad()
def set_parameter(parameter: Tensor, full: Tensor) -> None:
    """Put this rank's part of a whole tensor, which every rank has, into a sharded parameter."""
    assert isinstance(parameter, DTensor), "every parameter belongs to a shard group"
    full = full.to(device=parameter.to_local().device, dtype=parameter.dtype)
    mine = distribute_tensor(full, parameter.device_mesh, parameter.placements, src_data_rank=None)
    parameter.to_local().copy_(mine.to_local())


def clip_gradients(model: nn.Module, max_norm: float, group: dist.ProcessGroup | None = None) -> float:
    """Scale the gradients so that their norm over all parameters and ranks is at most max_norm (0: leave them alone).

    group: the ranks that hold one copy of the model, None for all. Returns the norm before clipping, the same on every
    rank. A non-finite norm scales nothing.
    """
    gradients = [local(parameter.grad) for parameter in model.parameters() if parameter.grad is not None]
    assert gradients, "clipping comes after a backward pass"
    squared = torch.nn.utils.get_total_norm(gradients).double().square()
    dist.all_reduce(squared, group=group)
    norm = squared.sqrt().item()
    if 0 < max_norm < norm < float("inf"):
        # torch's own clip adds this constant too; three optimiser steps agree with it to the last bits.
        scale = max_norm / (norm + 1e-6)
        for gradient in gradients:
            gradient.mul_(scale)
    return norm


def _type(name: str) -> torch.dtype:
    if name not in _TYPES:
        raise ValueError(
            f"fsdp_config.mixed_precision: {name} would need its gradients scaled, which is not done; use bf16 or fp32"
        )
    return _TYPES[name]


def _wrapped(policy: Mapping[str, object]) -> tuple[str, ...]:
    others = sorted(set(policy) - {_WRAPPED_CLASSES})
    if others:
        raise ValueError(
            f"fsdp_config.wrap_policy: {', '.join(others)} is a setting of FSDP 1 and means nothing to FSDP2; remove "
            f"it, or name classes in {_WRAPPED_CLASSES}"
        )
    classes = policy.get(_WRAPPED_CLASSES) or ()
    names = (classes,) if isinstance(classes, str) else classes
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"fsdp_config.wrap_policy.{_WRAPPED_CLASSES}: {classes!r} is no list of class names")
    return tuple(names)
