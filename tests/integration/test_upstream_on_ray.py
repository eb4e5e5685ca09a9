"""A job with upstream's trainer on a real Ray: submitted, followed by its log, ended, resumed and stopped by us.

What needs GPUs is a stand-in (`skyrl_stand_in`), started as upstream is and fed by upstream's own parser; Ray, our
client of it, the submission and the reading of the log are the real ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest

import skyrl_stand_in
from rltrain_api.job import RLTrainingJob
from rltrain_api.render import job_for_skyrl, overrides_for_skyrl
from rltrain_api.resolve import resolve, resolved_document
from rltrain_api.wire import DriverPhase, DriverStatus, JobReference
from rltrain_operator import plan
from rltrain_operator.rayjobs import RayJob, RayJobsClient, RayJobState, RayUnavailableError
from rltrain_operator.reconcile.upstream_watch import LOG_INTERVAL, Run, UpstreamWatch
from skyrl_jobs import skyrl_job
from upstream_skyrl import as_upstream, comparable

SUPPORT = Path(__file__).parents[1] / "support"
HOST = "127.0.0.1"
STARTS = 4
STARTED_SECONDS = 120
MOST_SECONDS = 300
START = datetime(2026, 1, 1, tzinfo=UTC)
ID = "words-aaaabbbb-1"


@dataclass
class Ray:
    """A Ray of this test's own; `token` is what it wants."""

    port: int
    token: str


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ray]:
    """A Ray whose programs find the stand-in in front of SkyRL's package."""
    packages = tmp_path_factory.mktemp("packages")
    skyrl_stand_in.install(packages)
    for _ in range(STARTS - 1):
        with contextlib.suppress(ChildProcessError), running_ray(packages) as started:
            yield started
            return
    with running_ray(packages) as started:
        yield started


@contextlib.contextmanager
def running_ray(packages: Path) -> Iterator[Ray]:
    """A head with two CPUs, in a process group of its own, so that nobody else's Ray ends with it.

    Raises:
        ChildProcessError: it did not start. Ray's raylet aborts when its agents take longer than half a minute, which
            on a busy machine they sometimes do, and nothing can be set about it.
    """
    # Ray's sockets want a short path.
    directory = Path("/tmp") / f"ray-{secrets.token_hex(4)}"
    running = Ray(free_port(), secrets.token_hex(32))
    binaries = str(Path(sys.executable).parent)
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([binaries, os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join([str(packages), str(SUPPORT), *sys.path]),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": running.token,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_register_timeout_seconds": "180",
    }
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=2"]
    command += [f"--port={free_port()}", f"--dashboard-port={running.port}", f"--ray-client-server-port={free_port()}"]
    command += [f"--temp-dir={directory}", "--min-worker-port=0", "--max-worker-port=0"]
    command += [f"--dashboard-agent-listen-port={free_port()}"]
    process = subprocess.Popen(command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL)
    try:
        asyncio.run(answering(running, process))
        yield running
    finally:
        process.terminate()
        try:
            process.wait(timeout=30)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            shutil.rmtree(directory, ignore_errors=True)


async def answering(running: Ray, process: subprocess.Popen[bytes]) -> None:
    """Wait until a program has run to its end."""
    async with aiohttp.ClientSession() as session:
        client = RayJobsClient(session, port=running.port)
        started = asyncio.create_task(first_program(client, running.token))
        begin = time.monotonic()
        while not started.done():
            if process.poll() is not None or time.monotonic() - begin > STARTED_SECONDS:
                started.cancel()
                raise ChildProcessError(f"Ray did not start; exit code {process.poll()}")
            await asyncio.sleep(0.5)
        await started


async def first_program(client: RayJobsClient, token: str) -> None:
    await insistently(client.submit, HOST, token, "first", "true", {})
    while True:
        seen = await client.status(HOST, token, "first")
        if seen is not None and seen.state.ended:
            return
        await asyncio.sleep(0.5)


async def insistently(call: Callable[..., Awaitable[object]], *arguments: object) -> None:
    """Until Ray takes it, as the operator's queue does; the caller has the deadline."""
    while True:
        try:
            await call(*arguments)
            return
        except RayUnavailableError:
            await asyncio.sleep(0.5)


def make_job(directory: Path, **trainer: Any) -> RLTrainingJob:
    """Paths and texts with what a shell would make something of."""
    checkpoints = {"ckpt_path": str(directory / "a $HOME; dir"), "ckpt_interval": 4, "epochs": 6}
    settings = {**checkpoints, "run_name": "it's $(a) `name`", **trainer}
    return skyrl_job(config={"trainer": settings})


@dataclass
class Followed:
    """What was seen of one run, from its submission to its end."""

    ray: RayJob
    statuses: list[DriverStatus]
    log: str


async def follow(ray: Ray, job: RLTrainingJob, submission_id: str, *, stop_at: int | None = None) -> Followed:
    """Submit as the operator does, ask as it does, and stop where the test says; every ask reads the log."""
    manifest = plan.plan_config_map(job.metadata, resolved_document(job), plan.upstream_overrides(job))
    reference = JobReference(namespace="research", name="words", uid="uid")
    planned = plan.plan_submission(manifest["data"], reference, 1)
    statuses = []
    async with aiohttp.ClientSession() as session, asyncio.timeout(MOST_SECONDS):
        client = RayJobsClient(session, port=ray.port)
        for _ in range(2):  # a repeated submission changes nothing
            await insistently(client.submit, HOST, ray.token, submission_id, planned.entrypoint, planned.env_vars)
        watch, now = UpstreamWatch(client), START
        run = Run(HOST, ray.token, submission_id, 1, bar_counts_steps=True)
        while True:
            seen = await client.status(HOST, ray.token, submission_id)
            assert seen is not None
            now += LOG_INTERVAL
            status = await watch.ask("uid", run, seen, now)
            if status is not None:
                statuses.append(status)
                if stop_at is not None and status.step >= stop_at:
                    await client.stop(HOST, ray.token, submission_id)
            if seen.state.ended:
                log = await client.log(HOST, ray.token, submission_id, seen.node, 10_000)
                return Followed(seen, statuses, log)
            await asyncio.sleep(0.2)


def test_a_run_is_followed_from_its_submission_to_its_end(ray: Ray, tmp_path: Path) -> None:
    job = make_job(tmp_path)
    followed = asyncio.run(follow(ray, job, f"{ID}-whole"))
    assert followed.ray.state is RayJobState.SUCCEEDED, followed.log
    told = next(line for line in followed.log.splitlines() if line.startswith(skyrl_stand_in.RESOLVED))
    expected = as_upstream(resolve(job_for_skyrl(job).spec.config).model_dump(mode="json"), overrides_for_skyrl(job))
    assert comparable(json.loads(told.removeprefix(skyrl_stand_in.RESOLVED))) == comparable(expected)
    last = followed.statuses[-1]
    assert (last.phase, last.step, last.total_steps, last.epoch) == (DriverPhase.TRAINING, 6, 6, 5), followed.log
    assert (last.reward, last.eval_score) == (0.75, 0.375)
    assert last.checkpoint is not None
    assert (last.checkpoint.step, last.checkpoint.path) == (7, str(tmp_path / "a $HOME; dir" / "global_step_7"))
    steps = [status.step for status in followed.statuses]
    assert steps == sorted(steps)
    assert not list(Path(job.spec.config.trainer.ckpt_path).parent.glob("owned*"))


def test_a_stopped_run_goes_on_from_its_checkpoint_in_the_next_attempt(ray: Ray, tmp_path: Path) -> None:
    stopped = asyncio.run(follow(ray, make_job(tmp_path, run_name="hangs"), f"{ID}-stopped", stop_at=5))
    assert stopped.ray.state is RayJobState.STOPPED, stopped.log
    assert stopped.statuses[-1].checkpoint is not None
    resumed = asyncio.run(follow(ray, make_job(tmp_path, epochs=40), f"{ID}-resumed"))
    assert resumed.ray.state is RayJobState.SUCCEEDED, resumed.log
    assert "Resuming from global_step: " in resumed.log
    assert resumed.statuses[-1].step == 40


def test_a_failure_tells_the_end_of_its_log(ray: Ray, tmp_path: Path) -> None:
    failed = asyncio.run(follow(ray, make_job(tmp_path, run_name="fails"), f"{ID}-failed"))
    assert (failed.ray.state, failed.ray.exit_code) == (RayJobState.FAILED, 1)
    assert "RuntimeError: no such model" in failed.ray.log_tail
    assert "\x1b[" not in failed.ray.log_tail
