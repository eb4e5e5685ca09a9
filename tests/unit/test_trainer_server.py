"""The driver's HTTP face, over real sockets on loopback."""

from collections.abc import AsyncIterator

import pytest
from aiohttp.test_utils import TestClient, TestServer

from rltrain_api.wire import DriverStatus, History
from rltrain_trainer.server.app import make_app
from rltrain_trainer.tracking.run_state import RunState

TOKEN = "a-token-of-the-job"
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
async def state() -> RunState:
    return RunState(attempt=1)


@pytest.fixture
async def client(state: RunState) -> AsyncIterator[TestClient]:
    async with TestClient(TestServer(make_app(state, TOKEN))) as client:
        yield client


ROUTES = [
    ("GET", "/status"),
    ("GET", "/history"),
    ("GET", "/metrics"),
    ("POST", "/checkpoint"),
    ("POST", "/stop"),
    ("PUT", "/engines"),
]
BAD_HEADERS = {
    "none": {},
    "empty": {"Authorization": ""},
    "wrong token": {"Authorization": "Bearer another"},
    "prefix of the token": {"Authorization": f"Bearer {TOKEN[:-1]}"},
    "no scheme": {"Authorization": TOKEN},
    "not ascii": {"Authorization": "Bearer ä"},
}


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize("header", BAD_HEADERS)
async def test_every_route_needs_the_token(
    client: TestClient, state: RunState, method: str, path: str, header: str
) -> None:
    response = await client.request(method, path, headers=BAD_HEADERS[header])
    assert response.status == 401
    assert not state.stop_requested.is_set()
    assert not state.checkpoint_requested.is_set()


def test_an_empty_token_is_refused_at_start(state: RunState) -> None:
    with pytest.raises(ValueError, match="RLTRAIN_DRIVER_TOKEN"):
        make_app(state, "")


async def test_status_and_history_speak_the_wire_models(client: TestClient, state: RunState) -> None:
    state.step_done(1, {"reward/avg_raw_reward": 0.5}, seconds=2.0, trained_tokens=10)
    status = DriverStatus.model_validate_json(await (await client.get("/status", headers=AUTHORIZED)).read())
    history = History.model_validate_json(await (await client.get("/history", headers=AUTHORIZED)).read())
    assert (status.step, status.reward) == (1, 0.5)
    assert [point.reward for point in history.points] == [0.5]


async def test_metrics_are_prometheus_gauges(client: TestClient, state: RunState) -> None:
    state.step_done(3, {"reward/avg_raw_reward": 0.25}, seconds=1.0, trained_tokens=10)
    text = await (await client.get("/metrics", headers=AUTHORIZED)).text()
    assert "rltrain_step 3\n" in text
    assert "rltrain_reward_avg_raw_reward 0.25\n" in text


STOPS = {
    "empty body": (b"", True, 202),
    "defaults": (b"{}", True, 202),
    "without checkpoint": (b'{"checkpoint": false}', False, 202),
    "not json": (b"now!", None, 400),
    "wrong type": (b'{"checkpoint": "perhaps"}', None, 400),
}


@pytest.mark.parametrize("case", STOPS)
async def test_stop(client: TestClient, state: RunState, case: str) -> None:
    body, wants_checkpoint, code = STOPS[case]
    response = await client.post("/stop", data=body, headers=AUTHORIZED)
    assert response.status == code
    assert state.stop_requested.is_set() == (code == 202)
    if code == 202:
        assert state.stop_wants_checkpoint is wants_checkpoint


async def test_checkpoint_is_a_request_for_the_next_step_boundary(client: TestClient, state: RunState) -> None:
    assert (await client.post("/checkpoint", headers=AUTHORIZED)).status == 202
    assert state.checkpoint_requested.is_set()


async def test_a_checkpoint_request_has_a_name_and_is_met_once(client: TestClient, state: RunState) -> None:
    for _ in range(2):
        assert (await client.post("/checkpoint", headers=AUTHORIZED, data=b'{"request": "monday"}')).status == 202
    state.saved_request = state.take_checkpoint_request()
    assert (await client.post("/checkpoint", headers=AUTHORIZED, data=b'{"request": "monday"}')).status == 202
    assert not state.checkpoint_requested.is_set()
    status = DriverStatus.model_validate_json(await (await client.get("/status", headers=AUTHORIZED)).read())
    assert status.saved_request == "monday"
    assert (await client.post("/checkpoint", headers=AUTHORIZED, data=b"[]")).status == 400


NUMBERS = {
    "more": (b'{"desired": 5}', 202, 5),
    "what there is": (b'{"desired": 2}', 202, 2),
    "none": (b'{"desired": 0}', 400, 2),
    "not a number": (b'{"desired": "all"}', 400, 2),
    "nothing said": (b"", 400, 2),
}


@pytest.mark.parametrize("case", NUMBERS)
async def test_the_number_of_engines(client: TestClient, state: RunState, case: str) -> None:
    body, code, wanted = NUMBERS[case]
    told: list[int] = []
    state.want_engines(2)
    state.keep_engines(told.append)
    response = await client.put("/engines", data=body, headers=AUTHORIZED)
    assert response.status == code
    assert told == ([2, wanted] if code == 202 else [2])
    status = DriverStatus.model_validate_json(await (await client.get("/status", headers=AUTHORIZED)).read())
    assert status.engines_wanted == wanted


async def test_engines_that_are_wanted_before_they_are_kept_are_not_forgotten(
    client: TestClient, state: RunState
) -> None:
    assert (await client.put("/engines", data=b'{"desired": 3}', headers=AUTHORIZED)).status == 409
    state.want_engines(2)
    assert (await client.put("/engines", data=b'{"desired": 3}', headers=AUTHORIZED)).status == 202
    told: list[int] = []
    state.keep_engines(told.append)
    assert told == [3]
