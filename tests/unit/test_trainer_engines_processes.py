"""Two engine processes and a trainer's sender over gloo: kill -9 and a hang, in generation and in a weight update."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from rltrain_api.wire import EngineState
from rltrain_trainer.engines.builtin.__main__ import main as builtin_main
from rltrain_trainer.engines.contract import GenerateRequest, TokenSampling
from rltrain_trainer.engines.fleet import Fleet
from rltrain_trainer.engines.http_engine import HttpEngine
from rltrain_trainer.engines.sync import admit_joining, sync_weights
from rltrain_trainer.weight_sync.buckets import Bucket, checksums
from rltrain_trainer.weight_sync.sender import WeightSender

torch.set_num_threads(1)

ARGUMENTS = ["--dtype", "float32", "--max-model-len", "512", "--max-num-seqs", "64", "--served-model-name", "tiny"]
# One import of torch and transformers for all engine processes; the model class is imported lazily otherwise.
PRELOADED = ["rltrain_trainer.engines.builtin.__main__", "transformers.models.qwen2.modeling_qwen2"]
START_SECONDS = 60


@dataclass
class EngineProcess:
    process: ForkServerProcess
    url: str

    def signal(self, number: signal.Signals) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)


@pytest.fixture(scope="module")
def engines(tiny_model: Path, python_environment: dict[str, str]) -> Iterator[list[EngineProcess]]:
    """Four engines, started side by side; tests take them from the end and put back those that live."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    started = []
    with pytest.MonkeyPatch.context() as patch:
        # The fork server of Python 3.11 leaves sys.path as it is when it preloads (and swallows the ImportError).
        patch.setenv("PYTHONPATH", python_environment["PYTHONPATH"])
        for _ in range(4):
            port = free_port()
            arguments = [*ARGUMENTS, "--model", str(tiny_model), "--port", str(port)]
            process = context.Process(target=builtin_main, args=(arguments,), daemon=True)
            process.start()
            started.append(EngineProcess(process, f"http://127.0.0.1:{port}"))
    try:
        yield list(started)
    finally:
        for engine in started:
            engine.process.kill()
        for engine in started:
            engine.process.join(10)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class LocalSender:
    """The sender in this process, as the driver would reach it; `before_broadcast` is where tests strike."""

    model: Any
    sender: WeightSender = field(default_factory=lambda: WeightSender(bucket_bytes=60_000, backend="gloo"))
    buckets: Sequence[Bucket] = ()
    before_broadcast: Callable[[int], None] = lambda _: None

    async def stage(self) -> None:
        self.buckets = self.sender.stage(iter(self.model.named_parameters()))

    async def address(self) -> str:
        return "127.0.0.1"

    async def free_port(self) -> int:
        return free_port()

    async def join_engines(self, address: str, port: int, world_size: int, timeout_seconds: float) -> None:
        await asyncio.to_thread(self.sender.join, address, port, world_size, timeout_seconds)

    async def leave_engines(self) -> None:
        self.sender.leave()

    async def broadcast(self, bucket_index: int) -> None:
        self.before_broadcast(bucket_index)
        await asyncio.to_thread(self.sender.broadcast, bucket_index)


def model_of(directory: Path, seed: int) -> Any:
    model = AutoModelForCausalLM.from_pretrained(directory).eval()
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def largest_error(model: Any, prompt: Sequence[int], response: Sequence[int], logprobs: Sequence[float]) -> float:
    ids = torch.tensor([[*prompt, *response]])
    with torch.no_grad():
        expected = model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    chosen = expected.gather(-1, ids[0, len(prompt) :, None])[:, 0]
    return float((chosen - torch.tensor(logprobs)).abs().max())


@asynccontextmanager
async def fleet_of(*processes: EngineProcess) -> AsyncIterator[Fleet]:
    clients = [HttpEngine(engine.url, engine.url) for engine in processes]
    async with asyncio.timeout(START_SECONDS):
        for client in clients:
            while not await client.is_live():  # noqa: ASYNC110 - another process: no event tells
                await asyncio.sleep(0.1)
    fleet = Fleet(clients, probe_seconds=0.5, probes_until_dead=3)
    fleet.start()
    try:
        yield fleet
    finally:
        await fleet.close()


def requests(count: int) -> list[GenerateRequest]:
    return [GenerateRequest(str(n), (9, 33, 17, 5 + n), TokenSampling(400, ignore_eos=True)) for n in range(count)]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - it is about other processes
            await asyncio.sleep(0.002)


async def test_an_engine_killed_in_generation_costs_no_sample(engines: list[EngineProcess], tiny_model: Path) -> None:
    victim, survivor = engines.pop(), engines.pop()
    sender = LocalSender(model_of(tiny_model, 1))
    async with fleet_of(victim, survivor) as fleet:
        report = await sync_weights(fleet, sender, 1)
        assert (report.engines, report.attempts, report.nbytes) == (2, 1, sum(b.nbytes for b in sender.buckets))
        wanted = requests(8)
        answers = [asyncio.create_task(fleet.generate(request, deadline_seconds=60)) for request in wanted]
        await until(lambda: all(member.outstanding for member in fleet.members))
        await asyncio.sleep(0.1)
        victim.signal(signal.SIGKILL)
        for request, answer in zip(wanted, answers, strict=True):
            (result,) = await answer
            assert len(result.token_ids) == 400
            assert largest_error(sender.model, request.token_ids, result.token_ids, result.logprobs) < 1e-4
        assert [member.state for member in fleet.members] == [EngineState.DEAD, EngineState.SERVING]
    sender.sender.leave()
    engines.append(survivor)


async def test_an_engine_killed_in_an_update_does_not_stop_the_others(
    engines: list[EngineProcess], tiny_model: Path
) -> None:
    survivor, victim = engines.pop(), engines.pop()
    sender = LocalSender(model_of(tiny_model, 1))
    async with fleet_of(survivor, victim) as fleet:
        await sync_weights(fleet, sender, 1)
        old, sender.model = sender.model, model_of(tiny_model, 2)
        in_flight = asyncio.create_task(fleet.generate(requests(1)[0], deadline_seconds=60))
        await until(lambda: any(member.outstanding for member in fleet.members))

        def strike(bucket_index: int) -> None:
            if bucket_index == 2 and victim.process.is_alive():
                victim.signal(signal.SIGKILL)
                victim.process.join(10)

        sender.before_broadcast = strike
        report = await sync_weights(fleet, sender, 2)
        assert (report.engines, report.lost) == (1, (victim.url,))
        assert report.attempts >= 2
        engine = fleet.members[0].engine
        assert await engine.checksums() == checksums(sender.model.named_parameters(remove_duplicate=False))
        assert [status.weight_version for status in fleet.engine_statuses()] == [2, None]
        (result,) = await in_flight
        for span in result.spans:
            model = old if span.version == 1 else sender.model
            error = largest_error(
                model, requests(1)[0].token_ids, result.token_ids[: span.end], result.logprobs[: span.end]
            )
            assert len(result.spans) > 1 or error < 1e-4
        assert result.spans[-1].end == 400
    sender.sender.leave()
    engines.append(survivor)


async def test_an_engine_that_hangs_is_replaced_and_joins_again_with_current_weights(
    engines: list[EngineProcess], tiny_model: Path
) -> None:
    steady, hung = engines.pop(), engines.pop()
    sender = LocalSender(model_of(tiny_model, 3))
    async with fleet_of(steady, hung) as fleet:
        await sync_weights(fleet, sender, 1)
        wanted = requests(6)
        answers = [asyncio.create_task(fleet.generate(request, deadline_seconds=60)) for request in wanted]
        await until(lambda: all(member.outstanding for member in fleet.members))
        hung.signal(signal.SIGSTOP)
        for answer in answers:
            (result,) = await answer
            assert len(result.token_ids) == 400
        assert [member.state for member in fleet.members] == [EngineState.SERVING, EngineState.DEAD]
        sender.model = model_of(tiny_model, 4)
        report = await sync_weights(fleet, sender, 2)
        assert (report.engines, report.lost) == (1, ())
        hung.signal(signal.SIGCONT)
        async with asyncio.timeout(20):
            await fleet.until_joining()
        admitted = await admit_joining(fleet, sender)
        assert admitted is not None
        assert (admitted.engines, admitted.version) == (1, 2)
        expected = checksums(sender.model.named_parameters(remove_duplicate=False))
        assert [await member.engine.checksums() for member in fleet.members] == [expected, expected]
        sender.model = model_of(tiny_model, 5)
        assert (await sync_weights(fleet, sender, 3)).engines == 2
    sender.sender.leave()
    engines += [steady, hung]


def test_the_command_says_when_it_is_ready_and_ends_cleanly(
    tiny_model: Path, python_environment: dict[str, str]
) -> None:
    command = [sys.executable, "-m", "rltrain_trainer.engines.builtin", "--model", str(tiny_model), "--port", "0"]
    with subprocess.Popen(command + ARGUMENTS, stdout=subprocess.PIPE, text=True, env=python_environment) as process:
        assert process.stdout is not None
        line = process.stdout.readline()  # pytest's own time-out bounds it
        match = re.match(
            r"rltrain builtin engine ready at (\S+) model=tiny dtype=float32 device=cpu sequences=64 length=512", line
        )
        assert match, line
        with urllib.request.urlopen(f"{match.group(1)}/health", timeout=10) as response:  # noqa: S310 - our own engine
            assert response.status == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_a_model_that_is_not_there_is_said_in_one_line() -> None:
    with pytest.raises(SystemExit, match="rltrain builtin engine: model path /nowhere: no such directory"):
        builtin_main(["--model", "/nowhere"])
