"""A pod that is about to be stopped asks the driver to save first, over real sockets on loopback."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import BaseTestServer, TestServer

from rltrain_api import names
from rltrain_api.wire import DriverPhase
from rltrain_trainer.server.app import make_app
from rltrain_trainer.server.before_stop import ended, main, stops
from rltrain_trainer.tracking.run_state import RunState

TOKEN = "a-token-of-the-job"
PATIENCE_SECONDS = 30.0


@pytest.fixture
async def state() -> RunState:
    state = RunState(attempt=1)
    state.phase = DriverPhase.TRAINING
    return state


@pytest.fixture
async def driver(state: RunState) -> AsyncIterator[BaseTestServer]:
    async with TestServer(make_app(state, TOKEN)) as server:
        yield server


def ask(server: BaseTestServer, seconds: float = PATIENCE_SECONDS, token: str = TOKEN) -> asyncio.Future[bool]:
    return asyncio.ensure_future(asyncio.to_thread(ended, str(server.make_url("")).rstrip("/"), token, seconds))


async def test_it_waits_until_the_driver_has_saved_and_stopped(driver: BaseTestServer, state: RunState) -> None:
    asked = ask(driver)
    await asyncio.wait_for(state.stop_requested.wait(), PATIENCE_SECONDS)
    assert state.stop_wants_checkpoint
    assert state.stop_deadline_seconds == PATIENCE_SECONDS
    assert not asked.done()
    state.phase = DriverPhase.STOPPED
    await asyncio.sleep(1)
    assert not asked.done(), "the operator has not read it yet"
    await driver.close()
    assert await asked


@pytest.mark.parametrize("phase", [DriverPhase.FINISHED, DriverPhase.FAILED])
async def test_a_driver_that_has_ended_is_left_alone(
    driver: BaseTestServer, state: RunState, phase: DriverPhase
) -> None:
    state.phase = phase
    assert await ask(driver)
    assert not state.stop_requested.is_set()


async def test_a_driver_that_does_not_end_is_waited_for_until_the_deadline(
    driver: BaseTestServer, state: RunState
) -> None:
    assert not await ask(driver, seconds=0.0)
    assert state.stop_requested.is_set()


async def test_a_driver_that_goes_away_has_ended(state: RunState) -> None:
    server = TestServer(make_app(state, TOKEN))
    await server.start_server()
    asked = ask(server)
    await asyncio.wait_for(state.stop_requested.wait(), PATIENCE_SECONDS)
    await server.close()
    assert await asked


def follow(server: BaseTestServer, seconds: float) -> asyncio.Future[bool]:
    return asyncio.ensure_future(asyncio.to_thread(stops, str(server.make_url("")).rstrip("/"), TOKEN, seconds))


async def test_an_engine_stays_while_the_driver_stops(driver: BaseTestServer, state: RunState) -> None:
    looked = follow(driver, PATIENCE_SECONDS)
    state.request_stop(checkpoint=True, deadline_seconds=PATIENCE_SECONDS)
    assert await looked


async def test_an_engine_that_goes_alone_asks_for_nothing(driver: BaseTestServer, state: RunState) -> None:
    assert not await follow(driver, 0.0)
    assert not state.stop_requested.is_set()


async def test_an_engine_does_not_stay_for_a_driver_that_has_ended(driver: BaseTestServer, state: RunState) -> None:
    state.phase = DriverPhase.STOPPED
    state.request_stop(checkpoint=True, deadline_seconds=PATIENCE_SECONDS)
    assert not await follow(driver, PATIENCE_SECONDS)


async def test_with_another_job_s_token_nothing_is_asked(driver: BaseTestServer, state: RunState) -> None:
    assert await ask(driver, token="another")
    assert not state.stop_requested.is_set()


async def test_whoever_else_listens_there_is_not_waited_for() -> None:
    async with TestServer(web.Application()) as stranger:
        assert await ask(stranger)


@pytest.mark.parametrize("options", [[], ["--follow"]], ids=["asks", "follows"])
def test_nobody_there(options: list[str], unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(names.DRIVER_TOKEN_ENV, TOKEN)
    assert main(["--host", "127.0.0.1", "--port", str(unused_tcp_port), "--seconds", "60", *options]) == 0


def test_it_starts_without_torch_and_ray(python_environment: dict[str, str]) -> None:
    program = (
        "import sys, rltrain_trainer.server.before_stop; print(*sorted({'torch', 'ray', 'aiohttp'} & set(sys.modules)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], env=python_environment, capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == []
