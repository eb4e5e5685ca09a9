"""The clients of Ray's Jobs API and of the driver, against small HTTP servers in the same process.

Stand-ins, because the real ones cannot be told to answer wrongly; the answers copied here are those of Ray 2.60.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from rltrain_api.wire import CheckpointRequest, DriverPhase, DriverStatus, EnginesRequest, StopRequest
from rltrain_operator.driver_client import DriverClient, DriverUnavailableError
from rltrain_operator.rayjobs import RayJob, RayJobsClient, RayJobState, RayUnavailableError
from rltrain_operator.rayjobs.client import LIMIT_BYTES

HOST = "127.0.0.1"
Handler = Callable[[web.Request], Awaitable[web.Response]]


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[tuple[aiohttp.ClientSession, int]]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, HOST, 0).start()
    try:
        async with aiohttp.ClientSession() as session:
            yield session, runner.addresses[0][1]
    finally:
        await runner.cleanup()


class RayDashboard:
    """Answers as Ray 2.60's dashboard does with token authentication on."""

    def __init__(self) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.logs = "line 1\nline 2"

    async def answer(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != "Bearer ray-token":
            return web.Response(status=401, text="Unauthorized: Missing authentication token")
        parts = request.path.strip("/").split("/")
        if parts == ["api", "v0", "logs", "file"]:
            return self.log(request.query)
        if request.method == "POST" and parts == ["api", "jobs"]:
            return self.submit(await request.json())
        job = self.jobs.get(parts[2])
        if job is None:
            return web.Response(status=404, text=f"Job {parts[2]} does not exist")
        if parts[3:] == ["stop"]:
            job["status"] = "STOPPED"
            return web.json_response({"stopped": True})
        return web.json_response(job)

    def log(self, query: Mapping[str, str]) -> web.Response:
        if query.get("node_id") != "node-1" or query.get("submission_id") not in self.jobs:
            return web.Response(status=500, text="Server got itself in trouble")
        assert query["filter_ansi_code"] == "true"
        return web.Response(text="\n".join(self.logs.split("\n")[-int(query["lines"]) :]) + "\n")

    def submit(self, body: dict[str, Any]) -> web.Response:
        if body["submission_id"] in self.jobs:
            last_line = f"ValueError: Job with submission_id {body['submission_id']} already exists."
            text = f"Traceback (most recent call last):\n{last_line}"
            return web.Response(status=500, text=text)
        self.jobs[body["submission_id"]] = {**body, "status": "PENDING", "message": None, "driver_exit_code": None}
        return web.json_response({"submission_id": body["submission_id"]})


async def test_a_submission_is_accepted_once_and_repeating_it_is_no_error() -> None:
    dashboard = RayDashboard()
    async with serving(dashboard.answer) as (session, port):
        ray = RayJobsClient(session, port=port)
        for _ in range(2):
            await ray.submit(HOST, "ray-token", "job-1", "train --now", {"A": "1"})
        assert await ray.status(HOST, "ray-token", "job-1") == RayJob(RayJobState.PENDING)
    assert dashboard.jobs["job-1"]["entrypoint"] == "train --now"
    assert dashboard.jobs["job-1"]["runtime_env"] == {"env_vars": {"A": "1"}}


async def test_an_unknown_submission_is_none_and_stopping_it_is_fine() -> None:
    async with serving(RayDashboard().answer) as (session, port):
        ray = RayJobsClient(session, port=port)
        assert await ray.status(HOST, "ray-token", "job-1") is None
        await ray.stop(HOST, "ray-token", "job-1")


async def test_a_failure_comes_with_its_exit_code_and_the_end_of_its_log() -> None:
    dashboard = RayDashboard()
    dashboard.jobs["job-1"] = {
        "status": "FAILED",
        "message": "exit code 1",
        "driver_exit_code": 1,
        "driver_node_id": "node-1",
    }
    dashboard.logs = "x" * 5000 + "the end"
    async with serving(dashboard.answer) as (session, port):
        job = await RayJobsClient(session, port=port).status(HOST, "ray-token", "job-1")
    assert job is not None
    assert (job.state, job.message, job.exit_code) == (RayJobState.FAILED, "exit code 1", 1)
    assert job.log_tail.endswith("the end")
    assert (len(job.log_tail), job.node) == (2000, "node-1")


async def test_the_end_of_a_log_and_no_more_of_it() -> None:
    dashboard = RayDashboard()
    dashboard.jobs["job-1"] = {"status": "RUNNING"}
    dashboard.logs = "\n".join(f"line {number}" for number in range(100))
    async with serving(dashboard.answer) as (session, port):
        ray = RayJobsClient(session, port=port)
        assert await ray.log(HOST, "ray-token", "job-1", "node-1", 2) == "line 98\nline 99\n"
        with pytest.raises(RayUnavailableError, match="the log of job-1: HTTP 500"):
            await ray.log(HOST, "ray-token", "job-1", "", 2)


async def test_an_answer_without_end_is_cut_at_its_beginning() -> None:
    async with serving(fixed(200, "x" * (3 * LIMIT_BYTES) + "the end")) as (session, port):
        text = await RayJobsClient(session, port=port).log(HOST, "ray-token", "job-1", "node-1", 2)
    assert text.endswith("xthe end")
    assert len(text) == LIMIT_BYTES


async def test_a_failure_whose_log_cannot_be_had_is_a_failure_all_the_same() -> None:
    dashboard = RayDashboard()
    dashboard.jobs["job-1"] = {"status": "FAILED", "message": "exit code 1", "driver_exit_code": 1}
    async with serving(dashboard.answer) as (session, port):
        job = await RayJobsClient(session, port=port).status(HOST, "ray-token", "job-1")
    assert job == RayJob(RayJobState.FAILED, "exit code 1", 1)


async def test_a_job_is_stopped() -> None:
    dashboard = RayDashboard()
    async with serving(dashboard.answer) as (session, port):
        ray = RayJobsClient(session, port=port)
        await ray.submit(HOST, "ray-token", "job-1", "train", {})
        await ray.stop(HOST, "ray-token", "job-1")
        job = await ray.status(HOST, "ray-token", "job-1")
    assert job is not None
    assert job.state is RayJobState.STOPPED
    assert job.state.ended


async def test_without_the_token_ray_is_unavailable() -> None:
    async with serving(RayDashboard().answer) as (session, port):
        with pytest.raises(RayUnavailableError, match="401"):
            await RayJobsClient(session, port=port).status(HOST, "another", "job-1")


def fixed(status: int, text: str) -> Handler:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=status, text=text)

    return handler


WRONG = {
    "an error": (500, "Traceback\nRuntimeError: no agent"),
    "not JSON": (200, "<html>"),
    "a list": (200, "[]"),
    "an unknown state": (200, '{"status": "SLEEPING"}'),
}


@pytest.mark.parametrize(("code", "text"), WRONG.values(), ids=WRONG.keys())
async def test_a_useless_answer_is_unavailable(code: int, text: str) -> None:
    async with serving(fixed(code, text)) as (session, port):
        with pytest.raises(RayUnavailableError):
            await RayJobsClient(session, port=port).status(HOST, "t", "job-1")


async def test_a_refused_submission_says_why_in_one_line() -> None:
    async with serving(fixed(500, "Traceback:\n  line\nRuntimeError: no agent")) as (session, port):
        with pytest.raises(RayUnavailableError, match=r"RuntimeError: no agent$"):
            await RayJobsClient(session, port=port).submit(HOST, "t", "job-1", "train", {})


async def test_nobody_there_is_unavailable() -> None:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(RayUnavailableError, match=r"Cannot connect|refused"):
            await RayJobsClient(session, port=1).status(HOST, "t", "job-1")
        with pytest.raises(DriverUnavailableError):
            await DriverClient(session, port=1).status(HOST, "t")


async def test_the_driver_s_routes() -> None:
    asked: list[tuple[str, str, str, Any]] = []
    status = DriverStatus(phase=DriverPhase.TRAINING, attempt=2, step=5, updated=datetime(2026, 1, 1, tzinfo=UTC))

    async def driver(request: web.Request) -> web.Response:
        body = await request.json() if request.can_read_body else None
        asked.append((request.method, request.path, request.headers["Authorization"], body))
        if request.path == "/status":
            return web.json_response(text=status.model_dump_json(by_alias=True))
        if request.path == "/history":
            return web.json_response({"points": [{"step": 1, "evalScore": 0.5}], "durations": {}})
        return web.Response(status=202)

    async with serving(driver) as (session, port):
        client = DriverClient(session, port=port)
        assert await client.status(HOST, "t") == status
        history = await client.history(HOST, "t")
        await client.stop(HOST, "t", StopRequest(checkpoint=False, deadline_seconds=5))
        await client.checkpoint(HOST, "t", CheckpointRequest(request="monday"))
        await client.engines(HOST, "t", EnginesRequest(desired=3))
    assert history.points[0].eval_score == 0.5
    assert asked == [
        ("GET", "/status", "Bearer t", None),
        ("GET", "/history", "Bearer t", None),
        ("POST", "/stop", "Bearer t", {"checkpoint": False, "deadlineSeconds": 5.0}),
        ("POST", "/checkpoint", "Bearer t", {"request": "monday"}),
        ("PUT", "/engines", "Bearer t", {"desired": 3}),
    ]


USELESS = {
    "no token": (401, ""),
    "an error": (500, "{}"),
    "not JSON": (200, "nonsense"),
    "not a status": (200, json.dumps({"phase": "Dreaming"})),
}


@pytest.mark.parametrize(("code", "text"), USELESS.values(), ids=USELESS.keys())
async def test_a_driver_that_answers_uselessly_does_not_answer(code: int, text: str) -> None:
    async with serving(fixed(code, text)) as (session, port):
        with pytest.raises(DriverUnavailableError):
            await DriverClient(session, port=port).status(HOST, "t")
