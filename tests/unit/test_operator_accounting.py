"""What a job uses and what comes of it; when that is written; and what of it Prometheus gets."""

from __future__ import annotations

import io
import itertools
import json
import logging
import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from rltrain_api.status import Accounting, Condition, ConditionType, InitializerStatus, Phase, Progress, Status
from rltrain_operator import logs
from rltrain_operator.cache import Cache
from rltrain_operator.health import make_metrics_app
from rltrain_operator.kube import Body
from rltrain_operator.kube.resources import RL_TRAINING_JOBS
from rltrain_operator.metrics import Metrics
from rltrain_operator.queue import WorkQueue
from rltrain_operator.reconcile.accounting import Sight, account, time_in_phases, with_accounts
from rltrain_operator.reconcile.coalesce import write_due
from rltrain_operator.reconcile.state import ClusterView, Observed, QueueView
from rltrain_operator.workers import Workers

METRICS_PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
START = datetime(2026, 1, 1, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def accounts(*sights: tuple[float, Sight]) -> Accounting:
    """The accounts after these sights, each at its second."""
    result = None
    for second, sight in sights:
        result = account(result, sight, at(second))
    assert result is not None
    return result


# Name -> (what is seen at which second, the numbers afterwards).
LIVES: dict[str, tuple[list[tuple[float, Sight]], dict[str, Any]]] = {
    "pods become ready one after the other": (
        [(0, Sight(0, None)), (10, Sight(4, None)), (20, Sight(8, None)), (30, Sight(8, None))],
        {"gpu_seconds": 120, "cluster_seconds": 30, "useful_seconds": 0, "goodput": 0},
    ),
    "a cluster that is given back costs nothing any more": (
        [(0, Sight(8, None)), (10, Sight(None, None)), (100, Sight(None, None))],
        {"gpu_seconds": 80, "cluster_seconds": 10, "gpus": None, "updated": at(10)},
    ),
    "and counts on with the next one": (
        [(0, Sight(8, None)), (10, Sight(None, None)), (100, Sight(2, None)), (110, Sight(2, None))],
        {"gpu_seconds": 100, "cluster_seconds": 20},
    ),
    "after the end GPUs count until they are free, and goodput stays": (
        [(0, Sight(2, 0)), (10, Sight(2, 1)), (20, Sight(2, None, over=True)), (70, Sight(None, None, over=True))],
        {"gpu_seconds": 140, "cluster_seconds": 10, "useful_seconds": 10, "goodput": 1},
    ),
    "steps count from when training begins": (
        [(0, Sight(1, None)), (60, Sight(1, 0)), (70, Sight(1, 1)), (80, Sight(1, 2))],
        {"useful_seconds": 20, "steps": 2, "goodput": 0.25, "step_since": at(80)},
    ),
    "a step that is not done yet does not count": (
        [(0, Sight(1, 0)), (10, Sight(1, 1)), (19, Sight(1, 1))],
        {"useful_seconds": 10, "steps": 1, "step_since": at(10)},
    ),
    "a step that a failure cuts off never counts": (
        [(0, Sight(1, 0)), (10, Sight(1, 1)), (19, Sight(1, None)), (30, Sight(1, 1)), (40, Sight(1, 2))],
        {"useful_seconds": 20, "steps": 2},
    ),
    "steps that are done again do not count": (
        [
            (0, Sight(1, 0)),
            (10, Sight(1, 1)),
            (20, Sight(1, 2)),
            (21, Sight(1, None)),
            (30, Sight(1, 0)),
            (40, Sight(1, 1)),
            (50, Sight(1, 2)),
            (60, Sight(1, 3)),
        ],
        {"useful_seconds": 30, "steps": 3, "goodput": 0.5},
    ),
    "steps of another job's checkpoint are none of this one's": (
        [(0, Sight(1, 100)), (10, Sight(1, 101))],
        {"useful_seconds": 10, "steps": 101},
    ),
    "an operator that was away for many steps counts them": (
        [(0, Sight(4, 0)), (3600, Sight(4, 50))],
        {"gpu_seconds": 14400, "useful_seconds": 3600, "steps": 50},
    ),
    "a clock that was set back loses the time between": (
        [(100, Sight(1, 0)), (110, Sight(1, 1)), (50, Sight(1, 2)), (120, Sight(1, 3))],
        {"gpu_seconds": 20, "useful_seconds": 20, "steps": 3, "updated": at(120)},
    ),
}


@pytest.mark.parametrize(("sights", "expected"), LIVES.values(), ids=LIVES.keys())
def test_accounts(sights: list[tuple[float, Sight]], expected: dict[str, Any]) -> None:
    found = accounts(*sights)
    assert {name: getattr(found, name) for name in expected} == expected


def test_there_are_no_accounts_before_the_first_cluster() -> None:
    assert account(None, Sight(None, None), START) is None


sights = st.builds(
    Sight,
    gpus=st.none() | st.integers(min_value=0, max_value=64),
    step=st.none() | st.integers(min_value=0, max_value=9),
    over=st.booleans(),
)
lives = st.lists(st.tuples(st.integers(min_value=-5, max_value=600), sights), min_size=1, max_size=40)


def lived(life: list[tuple[int, Sight]]) -> list[Accounting]:
    """The accounts after each sight; the numbers are the seconds between them."""
    now, found, result = START, None, []
    for seconds, sight in life:
        now += timedelta(seconds=seconds)
        found = account(found, sight, now)
        if found is not None:
            result.append(found)
    return result


@settings(max_examples=200, deadline=None)
@given(life=lives)
def test_no_sum_ever_falls_and_goodput_is_a_share(life: list[tuple[int, Sight]]) -> None:
    found = lived(life)
    for before, after in itertools.pairwise(found):
        assert after.gpu_seconds >= before.gpu_seconds
        assert after.cluster_seconds >= before.cluster_seconds
        assert after.useful_seconds >= before.useful_seconds
        assert after.steps >= before.steps
        assert after.updated >= before.updated
    for one in found:
        assert one.useful_seconds <= one.cluster_seconds
        assert one.goodput is None or 0 <= one.goodput <= 1


@settings(max_examples=100, deadline=None)
@given(life=lives, lost=st.sets(st.integers(min_value=0, max_value=39)))
def test_a_process_that_begins_anew_goes_on_from_the_status(life: list[tuple[int, Sight]], lost: set[int]) -> None:
    """Writes may be lost and the process may end between any two: what was written carries all that is needed."""
    now, written, undisturbed = START, None, None
    for number, (seconds, sight) in enumerate(life):
        now += timedelta(seconds=max(0, seconds))
        undisturbed = account(undisturbed, sight, now)
        decided = account(written, sight, now)
        if number not in lost and decided is not None:
            written = Accounting.model_validate_json(decided.model_dump_json(by_alias=True))
    if written is not None and undisturbed is not None:
        most = max((sight.gpus or 0 for _, sight in life), default=0)
        elapsed = (now - START).total_seconds()
        assert 0 <= written.gpu_seconds <= most * elapsed + 1
        assert written.useful_seconds <= written.cluster_seconds <= elapsed + 1
    if not lost:
        assert written == undisturbed


@settings(max_examples=100, deadline=None)
@given(gpus=st.integers(min_value=0, max_value=64), cuts=st.lists(st.integers(0, 3600), max_size=20, unique=True))
def test_how_often_one_looks_changes_no_sum(gpus: int, cuts: list[int]) -> None:
    looked = accounts((0, Sight(gpus, 0)), *((cut, Sight(gpus, 0)) for cut in sorted(cuts)), (3600, Sight(gpus, 1)))
    once = accounts((0, Sight(gpus, 0)), (3600, Sight(gpus, 1)))
    assert looked == once


@dataclass
class Life:
    """A job as the operator sees it, pass by pass."""

    status: Status
    writes: int = 0
    last_write: datetime | None = None

    def look(self, now: datetime, cluster: ClusterView | None, **changes: Any) -> None:
        """One pass: the decided status is written if it is worth it."""
        decided = self.status.model_copy(update=changes)
        decided = with_accounts(self.status, decided, Observed(cluster=cluster), now)
        due = write_due(self.status, decided, self.last_write, now)
        if due is not None and due <= now:
            self.status, self.last_write = decided, now
            self.writes += 1


def condition(kind: ConditionType, truth: bool, message: str = "") -> Condition:
    status = "True" if truth else "False"
    return Condition.model_validate(
        {"type": kind, "status": status, "reason": "R", "message": message, "lastTransitionTime": START}
    )


CLUSTER = ClusterView(uid="c", created=START, ready_gpus=8)
TRAINING = Status(phase=Phase.RUNNING, phase_since=START, conditions=[condition(ConditionType.TRAINING, True)])


def test_a_training_job_is_written_at_most_once_in_ten_seconds_and_loses_no_time() -> None:
    life = Life(TRAINING)
    for second in range(0, 601):
        # A step each second, and words that change with it.
        progress = Progress(step=second, message=f"step {second}", updated=at(second))
        life.look(at(second), CLUSTER, progress=progress)
    assert life.writes == 61
    found = life.status.accounting
    assert found is not None
    assert (found.gpu_seconds, found.useful_seconds, found.goodput, found.steps) == (4800, 600, 1, 600)


IDLE: dict[str, tuple[Status, ClusterView | None]] = {
    "a long step": (TRAINING.model_copy(update={"progress": Progress(step=1)}), CLUSTER),
    "a job that waits for its pods": (
        Status(phase=Phase.PROVISIONING, phase_since=START),
        replace(CLUSTER, ready_gpus=0),
    ),
    "a job that a queue holds back": (
        Status(phase=Phase.QUEUED, phase_since=START),
        replace(CLUSTER, ready_gpus=0, queue=QueueView("team", suspended=True, reason="Queued")),
    ),
    "a suspended job": (Status(phase=Phase.SUSPENDED, phase_since=START), None),
    "a complete job whose cluster is still there": (
        Status(phase=Phase.SUCCEEDED, phase_since=START, conditions=[condition(ConditionType.COMPLETE, True)]),
        CLUSTER,
    ),
    "a complete job": (
        Status(phase=Phase.SUCCEEDED, phase_since=START, conditions=[condition(ConditionType.COMPLETE, True)]),
        None,
    ),
}


@pytest.mark.parametrize(("status", "cluster"), IDLE.values(), ids=IDLE.keys())
def test_a_job_in_which_nothing_happens_is_not_written(status: Status, cluster: ClusterView | None) -> None:
    life = Life(status)
    life.look(at(0), cluster)
    settled = life.writes
    for minute in range(1, 600):
        life.look(at(60 * minute), cluster)
    assert life.writes == settled
    assert settled <= 1


QUEUES: dict[str, tuple[bool, int, int | None]] = {
    "held back": (True, 0, None),
    "let go, no pods yet": (False, 0, 0),
    "let go": (False, 8, 8),
    "evicted, and its pods are still there": (True, 8, 8),
}


@pytest.mark.parametrize(("suspended", "gpus", "expected"), QUEUES.values(), ids=QUEUES.keys())
def test_waiting_in_a_queue_is_no_time_with_a_cluster(suspended: bool, gpus: int, expected: int | None) -> None:
    cluster = replace(CLUSTER, ready_gpus=gpus, queue=QueueView("team", suspended, reason="Queued"))
    found = with_accounts(TRAINING, TRAINING, Observed(cluster=cluster), START).accounting
    assert (found.gpus if found is not None else None) == expected


def test_the_words_of_an_initializer_wait_their_turn_and_its_state_does_not() -> None:
    life = Life(Status(phase=Phase.INITIALIZING, phase_since=START))
    for second in range(10):
        words = InitializerStatus(name="data", state="Running", message=f"{second} files")
        life.look(at(second), None, initializers=[words])
    assert life.writes == 1
    life.look(at(10), None, initializers=[InitializerStatus(name="data", state="Complete")])
    assert life.last_write == at(10)


def test_a_condition_is_written_at_once_and_brings_the_sums_up_to_date() -> None:
    life = Life(TRAINING)
    life.look(at(0), CLUSTER)
    life.look(at(3), CLUSTER, conditions=[condition(ConditionType.TRAINING, False)], phase=Phase.RESTARTING)
    assert life.last_write == at(3)
    assert life.status.accounting is not None
    assert (life.status.accounting.gpu_seconds, life.status.accounting.step_since) == (24, None)


def test_what_a_message_says_waits_its_turn() -> None:
    life = Life(TRAINING)
    life.look(at(0), CLUSTER)
    for second in range(1, 10):
        life.look(at(second), CLUSTER, conditions=[condition(ConditionType.TRAINING, True, f"{second} s")])
    assert life.writes == 1


PHASES: dict[str, tuple[Status, Phase | None, tuple[datetime | None, dict[str, float] | None]]] = {
    "the first": (Status(), Phase.PENDING, (at(100), None)),
    "the same": (Status(phase=Phase.RUNNING, phase_since=START), Phase.RUNNING, (START, None)),
    "another": (Status(phase=Phase.RUNNING, phase_since=START), Phase.UPDATING, (at(100), {"running": 100})),
    "the same once more, later": (
        Status(phase=Phase.RUNNING, phase_since=at(90), durations={"running": 50.0, "train/generate": 7.0}),
        Phase.RESTARTING,
        (at(100), {"running": 60, "train/generate": 7}),
    ),
    "of a status that an older operator wrote": (
        Status(phase=Phase.RUNNING, durations={"running": 50.0}),
        Phase.FAILED,
        (at(100), {"running": 50}),
    ),
    "with a clock that was set back": (
        Status(phase=Phase.STARTING, phase_since=at(500)),
        Phase.RUNNING,
        (at(100), {"starting": 0}),
    ),
}


@pytest.mark.parametrize(("old", "phase", "expected"), PHASES.values(), ids=PHASES.keys())
def test_time_in_phases(old: Status, phase: Phase | None, expected: tuple[datetime, dict[str, float]]) -> None:
    assert time_in_phases(old, old.model_copy(update={"phase": phase}), at(100)) == expected


def job(name: str, **status: Any) -> Body:
    """An RLTrainingJob as the API server gives it."""
    metadata = {"namespace": "team", "name": name, "uid": name, "resourceVersion": "1"}
    return {"metadata": metadata, "status": status}


SUMS = {"gpuSeconds": 80, "clusterSeconds": 10, "usefulSeconds": 5, "goodput": 0.5, "updated": "2026-01-01T00:00:00Z"}
CHECKPOINT = {"latestStep": 4, "path": "/checkpoints/4", "time": "2026-01-01T00:00:00Z"}
RUNNING_JOB = job("train", phase="Running", accounting={**SUMS, "gpus": 8}, checkpoint=CHECKPOINT)
NEW_JOB = job("new", phase="Starting", accounting={**SUMS, "goodput": None, "gpus": 0})
COMPLETE_JOB = job("over", phase="Succeeded", accounting=SUMS, checkpoint=CHECKPOINT)
EDITED_JOB = job("edited", phase="Running", accounting="by hand")


async def scraped(metrics: Metrics, cache: Cache) -> dict[str, float]:
    """The page as Prometheus reads it: every sample under its name and the values of its labels."""
    workers = Workers(WorkQueue(), None, cache, None, [None], metrics)  # type: ignore[arg-type]  # none of it works
    async with TestClient(TestServer(make_metrics_app(metrics.registry, workers.refresh_metrics))) as http:
        text = await (await http.get("/metrics")).text()
    families = list(text_string_to_metric_families(text))
    return {" ".join([s.name, *s.labels.values()]): s.value for family in families for s in family.samples}


async def test_jobs_have_series_of_their_own_only_while_they_have_a_cluster() -> None:
    metrics, cache = Metrics(), Cache()
    for body in (RUNNING_JOB, NEW_JOB, COMPLETE_JOB, EDITED_JOB):
        cache.upsert(RL_TRAINING_JOBS, body)
    found = await scraped(metrics, cache)
    assert {key: value for key, value in found.items() if "_job_" in key and "age" not in key} == {
        "rltrain_job_gpus train team": 8,
        "rltrain_job_gpus new team": 0,
        "rltrain_job_goodput train team": 0.5,
    }
    assert [key for key in found if "age" in key] == ["rltrain_job_checkpoint_age_seconds train team"]
    assert found["rltrain_job_checkpoint_age_seconds train team"] > 0
    assert (found["rltrain_jobs Running"], found["rltrain_jobs Succeeded"], found["rltrain_jobs Failed"]) == (2, 1, 0)
    for body in (RUNNING_JOB, NEW_JOB):
        cache.remove(RL_TRAINING_JOBS, body)
    assert not [key for key in await scraped(metrics, cache) if "_job_" in key]


async def test_sums_grow_by_what_was_written_and_never_fall() -> None:
    metrics = Metrics()
    first = Accounting.model_validate(SUMS)
    second = first.model_copy(update={"gpu_seconds": 100.0, "useful_seconds": 7.5})
    for old, new in ((None, first), (first, second), (second, first), (second, None), (None, None)):
        metrics.count_accounts("team", old, new)
    found = await scraped(metrics, Cache())
    sums = ("gpu_seconds", "cluster_seconds", "useful_seconds")
    assert [found[f"rltrain_{name}_total team"] for name in sums] == [100, 10, 7.5]


async def test_every_metric_is_on_its_page_and_none_else() -> None:
    metrics = Metrics()
    families = {family.name for family in metrics.registry.collect()}
    written = set(re.findall(r"^\| `(rltrain_\w+?)(?:_total)?` \|", METRICS_PAGE.read_text(), re.MULTILINE))
    assert written == families


def test_every_line_that_is_logged_while_a_job_is_worked_on_bears_its_name() -> None:
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(logs.JsonFormatter())
    logger = logging.Logger("anywhere")
    logger.addHandler(handler)
    logger.info("before")
    with logs.about("team/train"):
        logger.info("during")
        with logs.about("team/other"):
            logger.info("another")
        logger.info("said by itself", extra={"job": "team/said"})
    logger.info("after")
    entries = [json.loads(line) for line in written.getvalue().splitlines()]
    assert [entry.get("job") for entry in entries] == [None, "team/train", "team/other", "team/said", None]
