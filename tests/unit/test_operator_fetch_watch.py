"""How far fetches are: whose log is read, how often, what is kept of it, and how it reaches the status."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

import pytest

from operator_moments import NOW, T, document, read, stated, status
from rltrain_api import names
from rltrain_api.fetching import FetchProgress
from rltrain_api.status import InitializerStatus, Status
from rltrain_operator.cache import Cache
from rltrain_operator.kube import ApiError, Body, ForbiddenError, UnavailableError
from rltrain_operator.kube.resources import BATCH_JOBS, PODS
from rltrain_operator.reconcile.decide import decide
from rltrain_operator.reconcile.fetch_watch import READ_SECONDS, FetchWatch
from rltrain_operator.reconcile.initializing import mirror_initializers
from rltrain_operator.reconcile.observe import Poller
from rltrain_operator.reconcile.state import InitializerState, InitializerView, Observed, Subject
from rltrain_operator.tokens import TokenIssuer

KEY = ("team", "quickstart")
DATASET = {"name": "one", "dataset": {"from": "https://data.example/train.parquet", "to": "/data"}}
MODEL = {"name": "one", "model": {"from": "hf://owner/name", "to": "/data"}}
SCRIPT = {"name": "one", "script": {"configMap": "scripts", "key": "a.py"}}
COMMAND = {"name": "one", "command": ["python", "-c", "print('progress 1 of 2 bytes')"]}
SAID = "2026-01-01 00:00:15,000 progress 1200 of 3000 bytes\n"


@dataclass
class Logs:
    """The one thing that is asked of the API server here: it answers with a log, or fails."""

    answer: str | ApiError = SAID
    asked: list[tuple[str, str]] = field(default_factory=list)

    async def log_tail(self, namespace: str, pod: str, lines: int) -> str:
        self.asked.append((namespace, pod))
        if isinstance(self.answer, ApiError):
            raise self.answer
        return self.answer


@dataclass
class Clock:
    """A clock that is set by hand."""

    seconds: float = 0.0

    def __call__(self) -> float:
        return self.seconds


def subject(initializer: Body, known: Status | None = None) -> Subject:
    written = document()
    written["spec"]["storage"]["initializers"] = [initializer]
    job = read(written)
    return Subject(job.metadata, known or Status(), job)


def cache_of(pod_phase: str, batch_status: Body) -> Cache:
    """The batch Job of the initializer, and its pod."""

    def metadata(name: str) -> Body:
        return {
            "name": name,
            "namespace": "team",
            "uid": name,
            "resourceVersion": "1",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {
                names.JOB_LABEL: "quickstart",
                names.ROLE_LABEL: names.ROLE_INITIALIZER,
                "job-name": "quickstart-init-one",
            },
            "ownerReferences": [{"kind": names.KIND, "name": "quickstart", "uid": "aaaabbbb-cccc"}],
        }

    cache = Cache()
    cache.upsert(BATCH_JOBS, {"metadata": metadata("quickstart-init-one"), "status": batch_status})
    cache.upsert(PODS, {"metadata": metadata("pod"), "status": {"phase": pod_phase}})
    return cache


async def observed_with(logs: Logs, of: Subject, cache: Cache, clock: Clock) -> Observed:
    """What a pass sees; Ray and the driver are not asked while there is no cluster."""
    nobody: Any = None
    poller = Poller(nobody, nobody, TokenIssuer(b"k" * 32), FetchWatch(logs, clock))
    return await poller.observe(cache, KEY, of, NOW)


ENDED = {"conditions": [{"type": "Complete", "status": "True"}]}
WHOSE: dict[str, tuple[Body, str, Body, bool]] = {
    "a dataset": (DATASET, "Running", {"active": 1}, True),
    "a model": (MODEL, "Running", {"active": 1}, True),
    "a script": (SCRIPT, "Running", {"active": 1}, False),
    "a command": (COMMAND, "Running", {"active": 1}, False),
    "a pod that waits": (DATASET, "Pending", {"active": 1}, False),
    "a pod that has ended": (DATASET, "Failed", {"active": 1}, False),
    "a fetch that is done": (DATASET, "Running", ENDED, False),
}


@pytest.mark.parametrize(("initializer", "phase", "batch", "asks"), WHOSE.values(), ids=WHOSE.keys())
async def test_whose_log_is_read(initializer: Body, phase: str, batch: Body, asks: bool) -> None:
    logs = Logs()
    observed = await observed_with(logs, subject(initializer), cache_of(phase, batch), Clock())
    assert logs.asked == ([("team", "pod")] if asks else [])
    assert observed.initializers["one"].progress == (FetchProgress(1200, 3000) if asks else None)


async def test_no_log_is_read_of_a_job_that_is_over_or_cannot_be_read() -> None:
    logs, running = Logs(), cache_of("Running", {"active": 1})
    over = status(1, conditions=[stated(T.FAILED, "True", "DriverFailed")])
    await observed_with(logs, subject(DATASET, over), running, Clock())
    readable = subject(DATASET)
    await observed_with(logs, Subject(readable.metadata, Status(), None), running, Clock())
    assert logs.asked == []


async def test_a_pod_is_asked_once_in_a_while_however_often_its_job_is_looked_at() -> None:
    logs, clock, cache = Logs(), Clock(), cache_of("Running", {"active": 1})
    watch = FetchWatch(logs, clock)
    views = {"one": InitializerView(InitializerState.RUNNING, pod="pod", attempts=1)}
    for moment in (0.0, 1.0, READ_SECONDS - 1):
        clock.seconds = moment
        seen = await watch.with_progress(cache, KEY, subject(DATASET), views)
        assert seen["one"].progress == FetchProgress(1200, 3000)
    assert len(logs.asked) == 1
    logs.answer = "progress 3000 of 3000 bytes"
    clock.seconds = READ_SECONDS
    seen = await watch.with_progress(cache, KEY, subject(DATASET), views)
    assert (seen["one"].progress, len(logs.asked)) == (FetchProgress(3000, 3000), 2)


REFUSALS: dict[str, ApiError] = {
    "no right": ForbiddenError(403, "pods/log is forbidden"),
    "the node does not answer": UnavailableError(0, "timeout"),
    "any other": ApiError(418, "no"),
}


@pytest.mark.parametrize("error", REFUSALS.values(), ids=REFUSALS.keys())
async def test_a_log_that_cannot_be_read_is_no_failure_and_said_once(
    error: ApiError, caplog: pytest.LogCaptureFixture
) -> None:
    logs, clock, cache = Logs(error), Clock(), cache_of("Running", {"active": 1})
    watch = FetchWatch(logs, clock)
    views = {"one": InitializerView(InitializerState.RUNNING, pod="pod", attempts=1)}
    with caplog.at_level(logging.DEBUG):
        for moment in (0.0, 1.0, 20.0, 40.0):
            clock.seconds = moment
            assert await watch.with_progress(cache, KEY, subject(DATASET), views) == views
    assert len(logs.asked) == 3, "a refusal is asked about no more often than an answer"
    assert [record.levelname for record in caplog.records] == ["INFO"]


async def test_of_a_log_two_numbers_are_kept_and_nothing_else() -> None:
    logs = Logs(f"token=hunter2\n{SAID}password\n")
    of = subject(DATASET)
    observed = await observed_with(logs, of, cache_of("Running", {"active": 1}), Clock())
    decided = decide(of, observed, NOW)
    written = decided.status.model_dump_json(by_alias=True)
    assert '"bytes":1200' in written
    assert '"totalBytes":3000' in written
    assert not any(word in written for word in ("hunter2", "password", "token="))


AGAIN: dict[str, tuple[Body, float | None]] = {
    "a dataset": (DATASET, 15.0),
    "a model": (MODEL, 15.0),
    "a script": (SCRIPT, None),
    "a command": (COMMAND, None),
}


@pytest.mark.parametrize(("initializer", "again"), AGAIN.values(), ids=AGAIN.keys())
def test_a_fetch_that_runs_is_looked_at_again(initializer: Body, again: float | None) -> None:
    running = {"one": InitializerView(InitializerState.RUNNING, pod="pod", attempts=1)}
    decision = decide(subject(initializer), Observed(initializers=running), NOW)
    assert (decision.status.phase, decision.requeue_after) == ("Initializing", again)


FAR = InitializerStatus(name="one", state="Running", attempts=1, bytes=5, total_bytes=9)
MIRRORED: dict[str, tuple[InitializerView, tuple[int | None, int | None]]] = {
    "further": (InitializerView(InitializerState.RUNNING, attempts=1, progress=FetchProgress(7, 9)), (7, 9)),
    "of an unknown size": (InitializerView(InitializerState.RUNNING, attempts=1, progress=FetchProgress(7)), (7, None)),
    "not known at the moment": (InitializerView(InitializerState.RUNNING, attempts=1), (5, 9)),
    "another try": (InitializerView(InitializerState.RUNNING, attempts=2), (None, None)),
    "done": (InitializerView(InitializerState.COMPLETE, "1 file", attempts=1), (None, None)),
    "failed": (InitializerView(InitializerState.FAILED, "no room", attempts=1), (None, None)),
}


@pytest.mark.parametrize(("view", "expected"), MIRRORED.values(), ids=MIRRORED.keys())
def test_progress_in_the_status(view: InitializerView, expected: tuple[int | None, int | None]) -> None:
    job = subject(DATASET).job
    assert job is not None
    (mirrored,) = mirror_initializers(job.spec.storage.initializers, {"one": view}, [FAR])
    assert (mirrored.bytes, mirrored.total_bytes) == expected
