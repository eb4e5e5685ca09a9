"""A trainer is killed, or its power fails, before every single file operation of saves that go on beside training.

What resumes from there computes the same bits as a run that nobody killed.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.optim.lr_scheduler import LambdaLR

from failing_disk import KILLED, SCRATCH, Disk
from rltrain_api.config import SkyRLTrainConfig
from rltrain_api.resolve import resolve
from rltrain_api.wire import JobReference, RunDocument
from rltrain_trainer.checkpoint.manifest import FileRecord
from rltrain_trainer.checkpoint.store import Checkpoint, latest
from rltrain_trainer.checkpoint.trainer_state import read_trainer_state
from rltrain_trainer.driver.checkpoints import RunCheckpoints, Save
from rltrain_trainer.fsdp.state import RankState, Trained

STEPS = 2
SECONDS = 300


class Ranks:
    """One rank in this process, asked as a group of them is."""

    def __init__(self, state: RankState) -> None:
        self._state = state

    async def save(self, directory: str) -> None:
        self._state.save(f"{directory}/policy")

    async def written(self) -> dict[str, FileRecord]:
        files = await asyncio.to_thread(self._state.written)
        return {f"policy/{name}": record for name, record in files.items()}


@dataclass(frozen=True)
class Found:
    """What a process said of its training.

    Args:
        end: The last step's state; None where the process was ended before.
        committed: The newest step that the loop was told of as committed.
    """

    end: dict[str, Any] | None
    committed: int


async def train(root: Path, attempt: int, said: int) -> None:
    """Train to the last step with a save at each, whose bytes are written during the next; says how it went."""
    config = resolve(SkyRLTrainConfig.model_validate({"trainer": {"ckpt_path": str(root), "max_ckpts_to_keep": 1}}))
    job = JobReference(namespace="default", name="job", uid="job-1")
    checkpoints = RunCheckpoints(config, RunDocument(job=job, attempt=attempt, config={}))
    torch.manual_seed(1)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    trained = Trained(model, optimizer, LambdaLR(optimizer, lambda step: 1 / (1 + step)))
    state = RankState({"policy": trained})
    step, seen = 0, list[float]()
    resume = checkpoints.find_resume()
    if resume is not None:
        step, seen = resume.checkpoint.step, resume.loop_state["seen"]
        state.load(f"{resume.content}/policy")
    resumed_at = step
    while step < STEPS:
        loss = model(torch.rand(4, 3)).square().sum()  # the rank's own random numbers go on as well
        loss.backward()
        optimizer.step()
        trained.scheduler.step()
        optimizer.zero_grad()
        step += 1
        seen.append(loss.item())
        checkpoints.check()
        await checkpoints.save(step, Ranks(state), {"seen": seen}, committed=partial(tell, said))
    await checkpoints.finished()
    end = {"resumed_at": resumed_at, "seen": seen, "digest": digest(trained)}
    os.write(said, json.dumps(end).encode() + b"\n")


def tell(said: int, save: Save) -> None:
    os.write(said, json.dumps(save.checkpoint.step).encode() + b"\n")


def digest(trained: Trained) -> str:
    content = hashlib.sha256()
    for parameter in trained.model.parameters():
        moments = trained.optimizer.state[parameter]
        for tensor in (parameter.detach(), *(moments[name] for name in sorted(moments))):
            content.update(tensor.numpy().tobytes())
    return content.hexdigest()


def in_a_fork(root: Path, attempt: int, disk: Disk | None = None) -> Found:
    """Train in a process of its own, which `disk` may end."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(read_end)
            torch.set_num_threads(1)
            sys.dont_write_bytecode = True
            dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
            if disk is not None:
                disk.install()
            asyncio.run(train(root, attempt, write_end))
            status = 0
        finally:
            os._exit(status)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as stream:
        said = [json.loads(line) for line in stream]
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, KILLED), f"the trainer failed by itself with status {status}"
    steps = [step for step in said if isinstance(step, int)]
    return Found(None if status == KILLED else said[-1], max(steps, default=0))


def bits(checkpoint: Checkpoint) -> dict[str, str]:
    """The digests of what the ranks wrote."""
    files = checkpoint.manifest.files.items()
    return {name: record.sha256 for name, record in files if name.startswith("policy/")}


def kill_everywhere(power_cut: bool) -> None:
    """In a process that has torch loaded and never used: its forks can use it."""
    with tempfile.TemporaryDirectory(dir=SCRATCH) as scratch:
        straight = in_a_fork(Path(scratch) / "straight", 1).end
        assert straight is not None
        root = Path(scratch) / "root"
        operation, ended = 0, False
        # By the step that is found: what its checkpoint consists of. From each the rest is computed once.
        seen: dict[int, dict[str, str]] = {}
        while not ended:
            shutil.rmtree(root, ignore_errors=True)
            found = in_a_fork(root, 1, Disk(operation, power_cut))
            ended = found.end is not None
            newest = latest(str(root))
            step = 0 if newest is None else newest.step
            assert step >= found.committed, f"step {found.committed} was called committed and is lost"
            state = {} if newest is None else bits(newest)
            if newest is not None:
                assert read_trainer_state(newest.content)["loop"]["seen"] == straight["seen"][:step]
            if step not in seen:
                seen[step] = state
                assert in_a_fork(root, 2).end == {**straight, "resumed_at": step}
            assert state == seen[step]  # and so it goes on as it did the first time
            operation += 1
        assert operation > 40, "the harness saw few file operations"
        assert set(seen) == set(range(STEPS + 1))


@pytest.mark.timeout(SECONDS + 10)
@pytest.mark.parametrize("power_cut", [False, True], ids=["killed", "power_cut"])
def test_what_resumes_after_a_death_at_any_operation_computes_the_same_bits(power_cut: bool) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([RunCheckpoints.__module__, RankState.__module__, "torch._dynamo"])
    process = context.Process(target=kill_everywhere, args=(power_cut,))
    process.start()
    process.join(SECONDS)
    ended = process.exitcode
    process.kill()
    assert ended == 0, "see what the process said above"
