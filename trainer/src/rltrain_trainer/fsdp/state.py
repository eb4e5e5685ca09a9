"""A rank's part of a checkpoint: what `PolicyRank.save` writes and `PolicyRank.load` reads.

    <directory>/shards/                     torch.distributed.checkpoint: parameters and optimiser moments, by name;
                                            any number of ranks may read what any number wrote
    <directory>/rank_<r>.safetensors        random-number state of rank r
    <directory>/optimizer.json              optimiser steps done

Nothing here is pickled but the index of torch.distributed.checkpoint (`shards/.metadata`): read only directories that
`rltrain_trainer.checkpoint` verified. It must not know of the commit protocol.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.optim import Optimizer

from rltrain_trainer.checkpoint.room import writing_tensors

SHARDS = "shards"
PROGRESS = "optimizer.json"


def save_state(directory: Path, model: nn.Module, optimizer: Optimizer, optimizer_steps: int) -> None:
    """Write this rank's part below `directory`, which all ranks share. A collective: returns when all have written.

    Raises OSError with ENOSPC when the volume has no room.
    """
    rank = dist.get_rank()
    directory.mkdir(parents=True, exist_ok=True)
    with writing_tensors(directory):
        save(_tensors(model, optimizer), checkpoint_id=directory / SHARDS)
        save_file(_random_state(), directory / _random_file(rank))
    if rank == 0:
        progress = {"optimizer_steps": optimizer_steps, "world_size": dist.get_world_size()}
        (directory / PROGRESS).write_text(json.dumps(progress) + "\n")
    dist.barrier()


def load_state(directory: Path, model: nn.Module, optimizer: Optimizer) -> int:
    """Read this rank's part into the model and the optimiser; returns the optimiser steps done. A collective.

    Raises ValueError when `directory` is not what `save_state` writes.
    """
    if not (directory / PROGRESS).is_file():
        raise ValueError(f"{directory}: not a policy checkpoint ({PROGRESS} is missing); resume from another step")
    state = _tensors(model, optimizer)
    load(state, checkpoint_id=directory / SHARDS)  # in place: the parameters are now the saved ones
    optimizer_state: dict[str, Any] = get_optimizer_state_dict(model, optimizer)
    optimizer_state["state"] = state["optimizer"]
    set_optimizer_state_dict(model, optimizer, optimizer_state)
    _restore_random_state(directory / _random_file(dist.get_rank()))
    progress: dict[str, int] = json.loads((directory / PROGRESS).read_text())
    return progress["optimizer_steps"]


def _tensors(model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """Parameters (tied ones once) and optimiser moments by the parameter's name; the tensors are the live ones."""
    return {
        "model": {name: parameter.detach() for name, parameter in model.named_parameters()},
        "optimizer": get_optimizer_state_dict(model, optimizer)["state"],
    }


def _random_file(rank: int) -> str:
    return f"rank_{rank}.safetensors"


def _random_state() -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _restore_random_state(path: Path) -> None:
    """A rank that the saved run did not have keeps the seed it started with."""
    if not path.is_file():
        return
    state = load_file(path)
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
