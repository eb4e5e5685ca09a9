"""The end of an attempt: a stop gives the loop until its deadline, and only a whole run exits with 0."""

import asyncio

import pytest

from rltrain_trainer.driver.__main__ import until_stopped
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

    async def run() -> None:
        await state.stop_requested.wait()
        await asyncio.sleep(0.01)
        ended.set()

    state.request_stop(checkpoint=True, deadline_seconds=30)
    await until_stopped(run(), state)
    assert ended.is_set()


async def test_a_stop_past_its_deadline_ends_in_mid_step() -> None:
    state = RunState(attempt=1)
    state.request_stop(checkpoint=True, deadline_seconds=0)
    await until_stopped(never(), state)
