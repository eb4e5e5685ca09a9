"""The process around the decisions: kopf's settings, workers, health, flags, logs."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import kopf
import pytest
from aiohttp.test_utils import TestClient, TestServer

from rltrain_api import names
from rltrain_operator.__main__ import main, parse_arguments
from rltrain_operator.app import connection_info, make_registry, make_settings
from rltrain_operator.cache import WATCHED_CHILDREN, Cache, Key
from rltrain_operator.health import Readiness, make_health_app, make_metrics_app, readiness
from rltrain_operator.kube import Body, ConflictError, Connection, Resource, TooManyRequestsError, UnavailableError
from rltrain_operator.kube.resources import RL_TRAINING_JOBS
from rltrain_operator.logs import JsonFormatter
from rltrain_operator.metrics import Metrics
from rltrain_operator.queue import WorkQueue
from rltrain_operator.rayjobs import RayUnavailableError
from rltrain_operator.workers import Workers

KEY: Key = ("team", "train")


def registry() -> kopf.OperatorRegistry:
    async def stop() -> None:
        return

    kinds = (RL_TRAINING_JOBS, *WATCHED_CHILDREN)
    return make_registry(Cache(), WorkQueue[Key](), lambda: kopf.ConnectionInfo(server="http://api"), stop, kinds)


def test_kopf_has_event_handlers_and_nothing_that_writes() -> None:
    handlers = registry()
    assert len(handlers._watching.get_all_handlers()) == 1 + len(WATCHED_CHILDREN)
    assert not handlers._changing.get_all_handlers()
    assert not handlers._spawning.get_all_handlers()
    assert not handlers._indexing.get_all_handlers()
    assert not handlers._webhooks.get_all_handlers()


def test_kopf_keeps_nothing_in_objects_and_watches_only_what_is_ours() -> None:
    settings = make_settings()
    storage = settings.persistence.diffbase_storage
    assert storage.fetch(body=kopf.Body({"metadata": {}})) is None
    assert settings.posting.enabled is False
    assert settings.peering.standalone is True
    assert settings.watching.initial_streaming is False
    for resource in WATCHED_CHILDREN:
        assert settings.watching.label_selectors[resource.plural] == names.JOB_LABEL
    assert RL_TRAINING_JOBS.plural not in settings.watching.label_selectors


def test_a_rotated_token_reaches_kopf_at_its_next_login(tmp_path: Path) -> None:
    token_file = tmp_path / "token"
    connection = Connection(server="https://api", token_file=token_file)
    for token in ("one", "two"):
        token_file.write_text(token + "\n")
        assert connection_info(connection).token == token


class Scripted:
    """A controller that does what it is told, pass by pass."""

    def __init__(self, *outcomes: float | Exception | None) -> None:
        self.outcomes = list(outcomes)
        self.passes = 0
        self.begun = asyncio.Event()
        self.done = asyncio.Event()
        self.hold: asyncio.Event | None = None

    async def reconcile(self, key: Key) -> float | None:
        self.passes += 1
        self.begun.set()
        outcome = self.outcomes.pop(0)
        if not self.outcomes:
            self.done.set()
        if self.hold is not None:
            await self.hold.wait()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


class Nothing:
    """An empty cluster."""

    async def list_objects(
        self, resource: Resource, namespace: str | None, *, label_selector: str = ""
    ) -> AsyncIterator[Body]:
        for body in ():
            yield body


def workers(controller: Any, queue: WorkQueue[Key], metrics: Metrics | None = None) -> Workers:
    return Workers(queue, controller, Cache(), Nothing(), [None], metrics or Metrics())


ERRORS: dict[str, Exception] = {
    "conflict": ConflictError(409, "changed"),
    "busy": TooManyRequestsError(429, "busy", retry_after=0.01),
    "away": UnavailableError(0, "refused"),
    "Ray away": RayUnavailableError("refused"),
}


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS.keys())
async def test_an_error_is_retried(error: Exception) -> None:
    queue = WorkQueue[Key](base=0.01)
    controller = Scripted(error, None)
    pool = workers(controller, queue)
    pool.start()
    queue.add(KEY)
    await asyncio.wait_for(controller.done.wait(), 10)
    await pool.stop()
    assert controller.passes == 2


async def test_a_defect_holds_up_its_own_job_only() -> None:
    queue = WorkQueue[Key](base=0.01)
    metrics = Metrics()

    class Mixed(Scripted):
        async def reconcile(self, key: Key) -> float | None:
            if key[1] == "broken":
                raise KeyError("unforeseen")
            return await super().reconcile(key)

    controller = Mixed(0.0, None)
    pool = workers(controller, queue, metrics)
    pool.start()
    queue.add(("team", "broken"))
    queue.add(KEY)
    await asyncio.wait_for(controller.done.wait(), 10)
    assert pool.trouble() is None
    await pool.stop()
    assert metrics.reconcile_failures.labels("Defect")._value.get() == 1


async def test_stopping_waits_for_the_pass_under_way_and_starts_no_other() -> None:
    queue = WorkQueue[Key]()
    controller = Scripted(None, None)
    controller.hold = asyncio.Event()
    pool = workers(controller, queue)
    pool.start()
    queue.add(KEY)
    await asyncio.wait_for(controller.begun.wait(), 10)
    stopping = asyncio.create_task(pool.stop())
    queue.add(("team", "later"))
    await asyncio.sleep(0.05)
    assert not stopping.done()
    controller.hold.set()
    await asyncio.wait_for(stopping, 10)
    assert controller.passes == 1


async def test_waiting_is_trouble_only_while_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line of a thousand jobs would be as long after a restart; a pass that never ends would not."""
    now = [1000.0]
    monkeypatch.setattr("rltrain_operator.workers.time.monotonic", lambda: now[0])
    queue = WorkQueue[Key](clock=lambda: now[0])
    controller = Scripted(None, None, None)
    pool = workers(controller, queue)
    queue.add(("team", "waits"))
    now[0] += 300
    pool._ended_a_pass = now[0] - 1
    assert pool.trouble() is None
    now[0] += 300
    trouble = pool.trouble()
    assert trouble is not None
    assert "no pass has ended" in trouble


async def test_a_worker_that_ended_is_trouble() -> None:
    class Broken(Scripted):
        async def reconcile(self, key: Key) -> float | None:
            raise RuntimeError("not one of the errors that are retried")

    queue = WorkQueue[Key]()
    pool = workers(Broken(), queue)
    pool.start()
    queue.add(KEY)
    await asyncio.sleep(0.05)
    trouble = pool.trouble()
    await pool.stop()
    assert trouble is not None
    assert "worker-0" in trouble


async def test_health_routes() -> None:
    wrong: list[str | None] = [None]
    found = Readiness(False, "standing by for the API server")
    async with TestClient(TestServer(make_health_app(lambda: wrong[0], lambda: found))) as http:
        assert (await http.get("/healthz")).status == 200
        answer = await http.get("/readyz")
        assert (answer.status, await answer.text()) == (503, "standing by for the API server")
        wrong[0], found = "a job has waited 121 s for a worker", Readiness(True, "leading")
        answer = await http.get("/healthz")
        assert (answer.status, await answer.text()) == (503, "a job has waited 121 s for a worker")
        answer = await http.get("/readyz")
        assert (answer.status, await answer.text()) == (200, "leading")


READINESS: dict[str, tuple[dict[str, bool], bool]] = {
    "a leader at work": ({"working": True, "holds": True}, True),
    "a leader whose caches are not filled": ({"holds": True}, False),
    "a leader that could not renew in time": ({"working": True}, False),
    "a standby": ({"stands_by": True}, True),
    "a process that the API server does not answer": ({}, False),
    "a leader that stops": ({"working": True, "holds": True, "stopping": True}, False),
    "a standby that stops": ({"stands_by": True, "stopping": True}, False),
}


@pytest.mark.parametrize(("facts", "expected"), READINESS.values(), ids=READINESS.keys())
def test_a_process_is_ready_while_it_does_its_part(facts: dict[str, bool], expected: bool) -> None:
    given = {"stopping": False, "working": False, "holds": False, "stands_by": False} | facts
    assert readiness(**given).ready is expected


async def test_metrics_are_fresh_when_read() -> None:
    metrics = Metrics()
    jobs = [{"status": {"phase": "Running"}}, {"status": {"phase": "Running"}}, {}]
    app = make_metrics_app(metrics.registry, lambda: metrics.count_jobs(jobs))
    metrics.observe_request("apply", "rltrainingjobs", 409, 0.01)
    async with TestClient(TestServer(app)) as http:
        text = await (await http.get("/metrics")).text()
    assert 'rltrain_jobs{phase="Running"} 2.0' in text
    assert 'rltrain_jobs{phase="Pending"} 1.0' in text
    assert 'rltrain_api_requests_total{code="409",resource="rltrainingjobs",verb="apply"} 1.0' in text


def test_flags() -> None:
    flags = parse_arguments(["--token-key-file", "/key", "--namespace", "a", "--namespace", "b", "--health-port", "1"])
    assert flags.namespace == ["a", "b"]
    assert (flags.health_port, flags.metrics_port) == (1, 8080)
    assert parse_arguments(["--token-key-file", "/key"]).namespace == []


def test_what_is_missing_at_the_start_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    lines: list[str] = []
    monkeypatch.setattr(logging.StreamHandler, "emit", lambda _, record: lines.append(record.getMessage()))
    assert main(["--token-key-file", str(tmp_path / "key")]) == 2
    assert "not running in a pod" in lines[-1]


def test_a_log_line_is_one_json_object_with_its_job() -> None:
    record = logging.makeLogRecord({"name": "n", "levelname": "INFO", "msg": "m %s", "args": (1,), "job": "team/train"})
    line = JsonFormatter().format(record)
    assert "\n" not in line
    entry = json.loads(line)
    assert (entry["message"], entry["level"], entry["job"]) == ("m 1", "info", "team/train")
