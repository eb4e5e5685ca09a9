"""FSDP2 as this trainer uses it: one shard group per transformer block, summed gradients, one flat mesh.

The same code runs on gloo with CPUs and on NCCL with GPUs. It must not know of losses or batches.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from rltrain_trainer.models.scored import ScoredCausalLM


def rank_device() -> torch.device:
    """Where this rank computes: its current GPU, or the CPU where there is none."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def data_parallel_mesh(device: torch.device) -> DeviceMesh:
    """The mesh of all ranks of the default process group, which must exist."""
    assert dist.is_initialized(), "init_process_group comes before a sharded model"
    return init_device_mesh(device.type, (dist.get_world_size(),), mesh_dim_names=("data",))


def shard_model(
    model: ScoredCausalLM, mesh: DeviceMesh, *, bf16: bool, reshard_after_forward: bool | int
) -> list[FSDPModule]:
    """Shard the model in place over the mesh; parameters become DTensors on the mesh's device.

    bf16: gather and compute in bfloat16, reduce gradients in float32; parameters keep their own type, which makes them
    the float32 master weights of a model loaded in float32. Gradients are summed over ranks, not averaged: the loss
    already carries its denominators. Returns the shard groups, the root last.
    """
    precision = (
        MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32) if bf16 else MixedPrecisionPolicy()
    )
    groups = [
        fully_shard(block, mesh=mesh, mp_policy=precision, reshard_after_forward=reshard_after_forward)
        for block in model.blocks
    ]
    # The root holds the embeddings, which the forward pass needs at both ends and the backward pass needs first.
    groups.append(fully_shard(model, mesh=mesh, mp_policy=precision, reshard_after_forward=False))
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


def full_tensor(tensor: Tensor) -> Tensor:
    """The whole of a sharded tensor, on every rank. A collective."""
    assert isinstance(tensor, DTensor), "every parameter belongs to a shard group"
    return tensor.full_tensor()


def clip_gradients(model: nn.Module, max_norm: float) -> float:
    """Scale the gradients so that their norm over all parameters and ranks is at most max_norm (0: leave them alone).

    Returns the norm before clipping, the same on every rank. A non-finite norm scales nothing.
    """
    gradients = [local(parameter.grad) for parameter in model.parameters() if parameter.grad is not None]
    assert gradients, "clipping comes after a backward pass"
    squared = torch.nn.utils.get_total_norm(gradients).double().square()
    dist.all_reduce(squared)
    norm = squared.sqrt().item()
    if 0 < max_norm < norm < float("inf"):
        # torch's own clip adds this constant too; three optimiser steps agree with it to the last bits.
        scale = max_norm / (norm + 1e-6)
        for gradient in gradients:
            gradient.mul_(scale)
    return norm
