"""The end of an attempt: a stop gives the loop until its deadline, and only a whole run exits with 0."""

import asyncio
import logging
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import pytest

from rltrain_api import names
from rltrain_api.config import TrainerConfig
from rltrain_api.wire import CheckpointStatus, DriverPhase, DriverStatus, JobReference, RunDocument, StopRequest
from rltrain_trainer.driver.__main__ import STOPPED_EARLY, drive, linger, until_stopped
from rltrain_trainer.tracking.logs import MAX_LOG_BYTES, keep_log, log_directory
from rltrain_trainer.tracking.run_state import RunState


async def never() -> None:
    await asyncio.Event().wait()


async def test_a_run_that_ends_by_itself_is_waited_for() -> None:
    state, done = RunState(attempt=1), asyncio.Event()

    async def run() -> None:
        await asyncio.sleep(0)
        done.set()

    await until_stopped(run(), state)
    assert done.is_set()


async def test_what_the_run_raises_comes_through() -> None:
    async def run() -> None:
        raise ValueError("bad data")

    with pytest.raises(ValueError, match="bad data"):
        await until_stopped(run(), RunState(attempt=1))


async def test_a_stop_lets_the_step_end() -> None:
    state, ended = RunState(attempt=1), asyncio.Event()
    state.phase = DriverPhase.TRAINING

    async def run() -> None:
        await state.stop_requested.wait()
        await asyncio.sleep(0.01)
        ended.set()

    state.request_stop(checkpoint=True, deadline_seconds=30)
    await until_stopped(run(), state)
    assert ended.is_set()


async def test_a_stop_past_its_deadline_ends_in_mid_step() -> None:
    state = RunState(attempt=1)
    state.phase = DriverPhase.TRAINING
    state.request_stop(checkpoint=True, deadline_seconds=0)
    await until_stopped(never(), state)


async def test_a_start_is_not_waited_for() -> None:
    state = RunState(attempt=1)
    state.request_stop(checkpoint=True, deadline_seconds=3600)
    await until_stopped(never(), state)


DIRECTORIES = {
    "beside the checkpoints": ({"ckpt_path": "/c/job"}, "/c/job/logs"),
    "where it is asked for": ({"ckpt_path": "/c/job", "log_path": "/data/logs"}, "/data/logs"),
    "not in an object store": ({"ckpt_path": "s3://bucket/job"}, "/tmp/skyrl-logs"),
}


@pytest.mark.proves("trainer.log_path")
@pytest.mark.parametrize(("settings", "directory"), DIRECTORIES.values(), ids=DIRECTORIES)
def test_where_logs_are_kept(settings: dict[str, str], directory: str) -> None:
    assert log_directory(TrainerConfig.model_validate(settings)) == Path(directory)


def test_the_log_is_kept_within_its_bound(tmp_path: Path) -> None:
    root, before = logging.getLogger(), list(logging.getLogger().handlers)
    try:
        keep_log(tmp_path / "run" / "logs", "driver-3")
        for _ in range(50):
            logging.getLogger("rltrain.driver").warning("x" * (MAX_LOG_BYTES // 20))
        logging.getLogger("rltrain.driver").error("the last words")
    finally:
        for handler in [handler for handler in root.handlers if handler not in before]:
            root.removeHandler(handler)
            handler.close()
    kept = tmp_path / "run" / "logs"
    assert (kept / "driver-3.log").read_text().rstrip().endswith("the last words")
    assert sum(file.stat().st_size for file in kept.iterdir()) <= MAX_LOG_BYTES


async def test_a_driver_is_read_before_it_is_dismissed() -> None:
    state = RunState(attempt=1)
    state.request_stop(checkpoint=True, deadline_seconds=30)
    assert not state.dismissed.is_set()
    lingering = asyncio.create_task(linger(state, 3600))
    state.request_stop(checkpoint=False, deadline_seconds=0)
    await lingering
    assert state.stop_wants_checkpoint, "a checkpoint that was promised is still written"
    assert state.stop_deadline_seconds == 30


async def test_a_stopped_driver_shows_its_checkpoint_until_it_is_dismissed(
    monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int
) -> None:
    """The whole process but for the training itself, which would want Ray: from /stop to the exit code."""

    async def train(document: RunDocument, state: RunState) -> None:
        state.phase, state.step, state.total_steps = DriverPhase.TRAINING, 5, 10
        await state.stop_requested.wait()
        state.checkpoint = CheckpointStatus(step=5, path="/c/5", time=datetime(2026, 1, 1, tzinfo=UTC), bytes=1)

    monkeypatch.setattr("rltrain_trainer.driver.__main__.train", train)
    monkeypatch.setattr(names, "DRIVER_PORT", unused_tcp_port)
    monkeypatch.setenv(names.DRIVER_TOKEN_ENV, "token")
    document = RunDocument(job=JobReference(namespace="n", name="j", uid="u"), attempt=1, config={})
    driving = asyncio.create_task(drive(document))
    headers = {"Authorization": "Bearer token"}
    async with aiohttp.ClientSession(f"http://127.0.0.1:{unused_tcp_port}", headers=headers) as session:

        async def phase() -> DriverPhase | None:
            try:
                async with session.get("/status") as answer:
                    status = DriverStatus.model_validate_json(await answer.read())
            except aiohttp.ClientConnectionError:
                return None
            assert (status.phase is DriverPhase.STOPPED) <= (status.checkpoint is not None)
            return status.phase

        async def until(wanted: DriverPhase | None) -> None:
            while True:
                if await phase() is wanted:
                    return
                await asyncio.sleep(0.01)

        await until(DriverPhase.TRAINING)
        for checkpoint, afterwards in ((True, DriverPhase.STOPPED), (True, DriverPhase.STOPPED), (False, None)):
            await session.post("/stop", data=StopRequest(checkpoint=checkpoint).model_dump_json(by_alias=True))
            await until(afterwards)
    assert await driving == STOPPED_EARLY
