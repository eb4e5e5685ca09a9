"""A rank's part of a checkpoint: its share of every model in training, of their optimisers, and its random numbers.

    <directory>/tensors.json, rank_<r>.tensors      parameters and optimiser moments by name (`checkpoint.tensors`);
                                                    any number of ranks may read what any number wrote
    <directory>/rank_<r>.safetensors                random-number state of rank r
    <directory>/progress.json                       optimiser steps done, by the model's name

Only what is trained is saved: a frozen parameter, such as all but the adapters under LoRA, is that of the model's own
files. It must not know of the commit protocol.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import safetensors.torch
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from rltrain_trainer.checkpoint.manifest import FileRecord, recorded
from rltrain_trainer.checkpoint.places import place_of
from rltrain_trainer.checkpoint.room import as_met
from rltrain_trainer.checkpoint.tensors import TensorReader, TensorWriter

PROGRESS = "progress.json"

# All ranks end a save together, so a rank waits for the slowest: a terabyte to a slow store, not a step of training.
WRITE_TIMEOUT = timedelta(hours=2)

# Wrappers that put their name into those of the parameters below, and may come and go between two runs.
_WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.")


@dataclass(frozen=True)
class Trained:
    """A model in training, with what moves it."""

    model: nn.Module
    optimizer: Optimizer
    scheduler: LambdaLR


@dataclass(frozen=True)
class Replaced:
    """A frozen model that is now and then replaced as a whole, so that all of it is saved."""

    model: nn.Module


class RankState:
    """Saves and loads this rank's part of the models in training, which have names such as policy and critic.

    Making one, `save` and `load` are collectives. One save is in flight at a time.
    """

    def __init__(self, trained: Mapping[str, Trained | Replaced]) -> None:
        self._trained = dict(trained)
        # A group of its own: its collectives run beside those of training, on a thread of their own.
        self._group = dist.new_group(backend="gloo", timeout=WRITE_TIMEOUT)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        accelerated = torch.cuda.is_available()
        self._stager = DefaultStager(
            StagingOptions(
                use_pinned_memory=accelerated,
                use_shared_memory=False,
                use_async_staging=False,
                use_non_blocking_copy=accelerated,
            )
        )
        self._writing: Future[dict[str, FileRecord]] | None = None

    def save(self, directory: str) -> None:
        """Copy this rank's part to the host's memory and begin to write it below `directory`, a path or a URL.

        Returns when the copy is made: training may go on. `written` must have returned since the save before. The
        memory for the copy is kept for the next one.
        """
        assert self._writing is None, "one save at a time: written() comes first"
        # DefaultStager makes its copies of the tensors that are given to it, and of nothing that they belong to.
        staged = self._stager.stage(self._tensors())
        assert isinstance(staged, dict), "staging is synchronous, so there is nothing to wait for"
        random = safetensors.torch.save(_random_state())
        self._writing = self._thread.submit(self._write, directory, staged, random, json.dumps(self._steps()).encode())

    def written(self) -> dict[str, FileRecord]:
        """Wait until all ranks have written; the files that are this rank's, by their names below the directory.

        Raises OSError when a rank could not write, with ENOSPC when there was no room.
        """
        assert self._writing is not None, "save() comes first"
        try:
            return self._writing.result(timeout=2 * WRITE_TIMEOUT.total_seconds())
        finally:
            self._writing = None

    def load(self, directory: str) -> None:
        """Read this rank's part into models, optimisers and schedules; learning rates follow their configuration.

        A rank that the saved run did not have keeps the random numbers it began with. Raises ValueError when
        `directory` is not what `save` writes, or is of other models.
        """
        steps = self._read_steps(directory)
        state = self._tensors()
        reader = TensorReader(directory)
        _demand_same(directory, reader.shapes(), {name: tuple(tensor.shape) for name, tensor in state.items()})
        with as_met():  # in place: the parameters are the saved ones afterwards
            load(
                state,
                storage_reader=reader,
                planner=DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False),
                process_group=self._group,
            )
        for name, trained in self._trained.items():
            if isinstance(trained, Replaced):
                continue
            _set_moments(trained, {key: value for key, value in state.items() if key.startswith(f"{name}.")}, name)
            _set_schedule(trained, steps[name])
        _restore_random_state(directory, dist.get_rank())

    def _write(self, directory: str, staged: dict[str, Any], random: bytes, steps: bytes) -> dict[str, FileRecord]:
        """On the thread: write what was staged; returns what this rank has written."""
        rank = dist.get_rank()
        writer = TensorWriter(directory, rank)
        with as_met():
            save(
                staged,
                storage_writer=writer,
                planner=DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False),
                process_group=self._group,
            )
        with recorded(directory, _random_file(rank), writer.files) as stream:
            stream.write(random)
        if rank == 0:
            with recorded(directory, PROGRESS, writer.files) as stream:
                stream.write(steps + b"\n")
        return writer.files

    def _tensors(self) -> dict[str, Any]:
        """What is saved, by name: trained parameters (tied ones once) and optimiser moments; the live tensors."""
        return {
            key: tensor
            for name, trained in self._trained.items()
            for key, tensor in {**_parameters(trained, name), **_moments(trained, name)}.items()
        }

    def _steps(self) -> dict[str, int]:
        return {
            name: 0 if isinstance(trained, Replaced) else trained.scheduler.last_epoch
            for name, trained in self._trained.items()
        }

    def _read_steps(self, directory: str) -> dict[str, int]:
        try:
            steps: dict[str, int] = json.loads(place_of(directory).read(f"{directory}/{PROGRESS}"))
        except FileNotFoundError as error:
            raise ValueError(
                f"{directory}: not a checkpoint of this trainer ({PROGRESS} is missing); resume from another step"
            ) from error
        if set(steps) != set(self._trained):
            raise ValueError(
                f"{directory}: it holds {_listed(steps)}, and this run trains {_listed(self._trained)}; resume from a "
                "run of the same kind, or start afresh with trainer.resume_mode none"
            )
        return steps


def _demand_same(directory: str, saved: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Raises ValueError unless the checkpoint has exactly the tensors of this run, with their shapes."""
    for name in sorted(saved.keys() | wanted.keys()):
        if saved.get(name) != wanted.get(name):
            raise ValueError(
                f"{directory}: {name} is {_shape(saved.get(name))} there and {_shape(wanted.get(name))} in this run; "
                "the model, its adapters or what is trained of it are others: use those of the checkpoint, or start "
                "afresh with trainer.resume_mode none"
            )


def _parameters(trained: Trained | Replaced, name: str) -> dict[str, Tensor]:
    return {
        f"{name}.model.{_plain(parameter_name)}": parameter.detach()
        for parameter_name, parameter in trained.model.named_parameters()
        if parameter.requires_grad or isinstance(trained, Replaced)
    }


def _moments(trained: Trained | Replaced, name: str) -> dict[str, Tensor]:
    if isinstance(trained, Replaced):
        return {}
    state: dict[str, dict[str, Any]] = get_optimizer_state_dict(trained.model, trained.optimizer)["state"]  # type: ignore[assignment]  # declared as wide as any state
    return {
        f"{name}.optimizer.{_plain(parameter_name)}.{moment}": value
        for parameter_name, moments in state.items()
        for moment, value in moments.items()
    }


def _set_moments(trained: Trained, state: Mapping[str, Any], name: str) -> None:
    current: dict[str, Any] = get_optimizer_state_dict(trained.model, trained.optimizer)
    for parameter_name, moments in current["state"].items():
        for moment in moments:
            moments[moment] = state[f"{name}.optimizer.{_plain(parameter_name)}.{moment}"]
    set_optimizer_state_dict(trained.model, trained.optimizer, current)


def _set_schedule(trained: Trained, steps: int) -> None:
    """Go to where so many optimiser steps lead under the present schedule."""
    scheduler = trained.scheduler
    scheduler.last_epoch = steps
    groups = zip(trained.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
    for group, base, factor in groups:
        group["lr"] = base * factor(steps)


def _plain(name: str) -> str:
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def _random_file(rank: int) -> str:
    return f"rank_{rank}.safetensors"


def _random_state() -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _restore_random_state(directory: str, rank: int) -> None:
    try:
        content = place_of(directory).read(f"{directory}/{_random_file(rank)}")
    except FileNotFoundError:  # more ranks than the saved run had
        return
    state = safetensors.torch.load(content)
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def _listed(names: Mapping[str, object]) -> str:
    return " and ".join(sorted(names)) or "nothing"


def _shape(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else f"of shape {list(shape)}"
