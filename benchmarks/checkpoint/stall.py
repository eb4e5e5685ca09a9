"""How long a checkpoint holds the training loop: beside training, waited for, and by PyTorch's own writer.

    python benchmarks/checkpoint/stall.py [--million-parameters 30] [--repeats 5] [--to DIRECTORY-OR-URL] [--json FILE]

One process, on the GPU where there is one, trains a model with AdamW (three numbers per parameter are saved) and saves
in three ways, in turn, so that a busy machine slows all of them alike:

    torch.distributed.checkpoint    its own file format, by `save`; the loop waits (only to a directory)
    waited for                      `RankState.save`, and the loop waits for `written` and the commit
    beside training                 `RankState.save`, and the loop goes on while bytes are written

The stall is for how long the loop was held. The whole is until the step is committed and durable. Steps made meanwhile
are compared with steps that nothing is written beside.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
from torch.distributed.checkpoint.state_dict_saver import save
from torch.optim.lr_scheduler import LambdaLR

from rltrain_api.config import SkyRLTrainConfig
from rltrain_api.fetching import scheme_of
from rltrain_api.resolve import resolve
from rltrain_api.wire import JobReference, RunDocument
from rltrain_trainer.checkpoint.manifest import FileRecord
from rltrain_trainer.driver.checkpoints import RunCheckpoints, Save
from rltrain_trainer.fsdp.state import RankState, Trained

WIDTH = 1024
PEER = "torch.distributed.checkpoint"
WAITED = "waited for"
BESIDE = "beside training"


class Ranks:
    """The one rank, asked as the loop asks all of them."""

    def __init__(self, state: RankState) -> None:
        self._state = state

    async def save(self, directory: str) -> None:
        """See `RankState.save`."""
        self._state.save(directory)

    async def written(self) -> dict[str, FileRecord]:
        """See `RankState.written`."""
        return await asyncio.to_thread(self._state.written)


class Run:
    """A model in training, and its checkpoints below `root`."""

    def __init__(self, million_parameters: float, root: str) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        layers = max(1, round(million_parameters * 1e6 / WIDTH**2))
        model = torch.nn.Sequential(*(torch.nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(layers)))
        self.model = model.to(self.device)
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)
        self.trained = Trained(self.model, optimizer, LambdaLR(optimizer, lambda _: 1.0))
        self.ranks = Ranks(RankState({"policy": self.trained}))
        self.bytes = layers * WIDTH**2 * 4 * 3
        config = resolve(SkyRLTrainConfig.model_validate({"trainer": {"ckpt_path": root, "max_ckpts_to_keep": 1}}))
        job = JobReference(namespace="default", name="benchmark", uid="benchmark")
        self.checkpoints = RunCheckpoints(config, RunDocument(job=job, attempt=1, config={}))
        self.step_number = 0

    def step(self) -> float:
        """One training step; its seconds."""
        began = time.perf_counter()
        self.model(torch.rand(8, WIDTH, device=self.device)).square().mean().backward()
        self.trained.optimizer.step()
        self.trained.optimizer.zero_grad()
        self.synchronize()
        self.step_number += 1
        return time.perf_counter() - began

    def synchronize(self) -> None:
        """Wait until the GPU has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    async def beside(self) -> dict[str, float]:
        """Save, and train until the step is committed."""
        done: list[Save] = []
        await self.checkpoints.save(self.step_number, self.ranks, {}, committed=done.append)
        steps = []
        while not done:
            steps.append(await asyncio.to_thread(self.step))
            self.checkpoints.check()
        await self.checkpoints.finished()
        return {"stall": done[0].stall_seconds, "whole": done[0].seconds, "step": median(steps)}

    async def waited(self) -> dict[str, float]:
        """Save, and do nothing until the step is committed."""
        began = time.perf_counter()
        await self.checkpoints.save(self.step_number, self.ranks, {})
        await self.checkpoints.finished()
        seconds = time.perf_counter() - began
        return {"stall": seconds, "whole": seconds}

    async def peer(self, directory: Path) -> dict[str, float]:
        """Save the same tensors by PyTorch's own writer, synced as it does by default."""
        began = time.perf_counter()
        state = {
            "model": {name: parameter.detach() for name, parameter in self.model.named_parameters()},
            "optimizer": get_optimizer_state_dict(self.model, self.trained.optimizer)["state"],
        }
        save(state, storage_writer=FileSystemWriter(directory / f"step_{self.step_number}"))
        seconds = time.perf_counter() - began
        await asyncio.to_thread(shutil.rmtree, directory)
        return {"stall": seconds, "whole": seconds}


async def measure(run: Run, repeats: int, scratch: Path | None) -> dict[str, list[dict[str, float]]]:
    """All ways in turn, after one round that does not count: it makes the memory that later ones use again."""
    ways: dict[str, Callable[[], Any]] = {WAITED: run.waited, BESIDE: run.beside}
    if scratch is not None:
        ways = {PEER: lambda: run.peer(scratch / "peer"), **ways}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in (*ways, "alone")}
    for number in range(repeats + 1):
        for name, way in ways.items():
            alone = median([run.step() for _ in range(3)])
            times = await way()
            if number > 0:
                found[name].append(times)
                found["alone"].append({"step": alone})
    return found


def report_of(run: Run, found: dict[str, list[dict[str, float]]], to: str) -> dict[str, Any]:
    """Medians by way, and what a step loses while bytes are written beside it."""
    medians = {
        name: {key: median([times[key] for times in all_times]) for key in all_times[0]}
        for name, all_times in found.items()
    }
    return {
        "device": torch.cuda.get_device_name() if run.device.type == "cuda" else "cpu",
        "to": to if scheme_of(to) else "a directory",
        "bytes": run.bytes,
        "medians": medians,
        "all": found,
    }


def print_table(report: dict[str, Any]) -> None:
    """One line per way."""
    gigabytes = report["bytes"] / 1e9
    print(f"{gigabytes:.2f} GB to {report['to']}, {report['device']}")
    print(f"{'':30}{'stall s':>10}{'whole s':>10}{'GB/s':>8}")
    for name, times in report["medians"].items():
        if "stall" in times:
            print(f"{name:30}{times['stall']:>10.3f}{times['whole']:>10.3f}{gigabytes / times['whole']:>8.2f}")
    alone, beside = report["medians"]["alone"]["step"], report["medians"][BESIDE]["step"]
    print(f"a step takes {alone:.3f} s alone and {beside:.3f} s while a checkpoint is written beside it")


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--million-parameters", type=float, default=30)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--to", help="a directory or URL; a temporary directory unless given")
    parser.add_argument("--json", type=Path, default=Path("checkpoint_stall.json"))
    arguments = parser.parse_args()
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    with tempfile.TemporaryDirectory() as temporary:
        to = arguments.to or temporary
        run = Run(arguments.million_parameters, to)
        scratch = None if scheme_of(to) else Path(to)
        found = asyncio.run(measure(run, arguments.repeats, scratch))
        report = report_of(run, found, to)
    print_table(report)
    arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    print(f"written to {arguments.json}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
