"""What the operator does not ask for or work out twice, and that it is right without it."""

from __future__ import annotations

import asyncio
import copy
import gc
from typing import Any

from operator_moments import document, read
from operator_world import JOB, NAMESPACE, Operator, World, new_world, status_of
from rltrain_api.job import RLTrainingJob
from rltrain_api.judge import judge
from rltrain_api.wire import History, HistoryPoint
from rltrain_operator.kube import Body, ConflictError, NotFoundError, Resource
from rltrain_operator.kube.resources import CLAIMS, CONFIG_MAPS, RAY_CLUSTERS, RL_TRAINING_JOBS
from rltrain_operator.plan.once import once_per_job
from rltrain_operator.recent import Recent
from rltrain_operator.reconcile import observe
from rltrain_operator.reconcile.apply import Context
from rltrain_operator.reconcile.observe import Judgements, view_subject
from rltrain_operator.reconcile.references import RecentClaims
from rltrain_operator.reconcile.state import Observed, WriteHistory

# --- Recent


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_recent_holds_a_value_for_its_time_and_as_many_as_it_may() -> None:
    clock = Clock()
    recent: Recent[str, int] = Recent(2, 10.0, clock)
    assert recent.get("a") is None
    recent.put("a", 1)
    recent.put("b", 2)
    clock.now += 9.9
    assert (recent.get("a"), recent.get("b")) == (1, 2)
    recent.get("a")
    recent.put("c", 3)
    assert (recent.get("a"), recent.get("b"), recent.get("c")) == (1, None, 3), "the least recently used has gone"
    clock.now += 0.1
    assert (recent.get("a"), recent.get("c")) == (None, 3), "reading does not make it younger"
    recent.forget("c")
    assert recent.get("c") is None
    assert len(recent) == 0


def test_an_answer_lives_as_long_as_its_job() -> None:
    asked: list[str] = []

    @once_per_job
    def answer(job: RLTrainingJob) -> str:
        asked.append(job.metadata.name)
        return job.metadata.name

    for _ in range(3):
        first, second = read(document()), read(document(suspend=True))
        assert [answer(first), answer(first), answer(second)] == ["quickstart"] * 3
        del first, second
        gc.collect()
    assert len(asked) == 6, "one and the same job is asked for once, an equal one anew"


# --- judgements


def judged(monkeypatch: Any) -> list[Body]:
    """The documents that are judged from now on."""
    seen: list[Body] = []

    def noting(wire: Body) -> Any:
        seen.append(wire)
        return judge(wire)

    monkeypatch.setattr(observe, "judge", noting)
    return seen


def test_a_spec_is_judged_once_while_it_is_the_same(monkeypatch: Any) -> None:
    seen, judgements = judged(monkeypatch), Judgements()
    wire = document()
    first = view_subject(wire, judgements.judge)
    annotated = copy.deepcopy(wire)
    annotated["metadata"]["annotations"] = {"a": "b"}
    annotated["status"] = {"attempt": 3}
    second = view_subject(annotated, judgements.judge)
    assert len(seen) == 1
    assert second.job is first.job
    assert (second.metadata.annotations, second.status.attempt) == ({"a": "b"}, 3), "metadata and status are read anew"


def test_another_generation_spec_or_object_is_judged_anew(monkeypatch: Any) -> None:
    seen, judgements = judged(monkeypatch), Judgements()
    wire = document()
    view_subject(wire, judgements.judge)
    for path, value in (("generation", 2), ("uid", "another")):
        changed = copy.deepcopy(wire)
        changed["metadata"][path] = value
        subject = view_subject(changed, judgements.judge)
        assert subject.job is not None
        assert getattr(subject.job.metadata, path) == value
    defaulted = document(ttlSecondsAfterFinished=7)
    subject = view_subject(defaulted, judgements.judge)
    assert subject.job is not None
    assert subject.job.spec.ttl_seconds_after_finished == 7, "the server fills in other defaults at one generation"
    assert len(seen) == 4


def test_errors_are_remembered_too() -> None:
    judgements, wrong = Judgements(), document(config=7)
    first, second = (view_subject(wrong, judgements.judge) for _ in range(2))
    assert first.job is None
    assert first.errors == second.errors != ()


# --- claims


class Shelf:
    """A server with one claim, that counts."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.there = {"data"}

    async def get(self, resource: Resource, namespace: str, name: str) -> Body:
        self.asked.append(name)
        if name not in self.there:
            raise NotFoundError(404, "not there")
        return {"metadata": {"name": name}}


async def test_a_claim_that_was_there_is_not_asked_for_again_and_one_that_was_not_is() -> None:
    shelf = Shelf()
    claims = RecentClaims(shelf)  # type: ignore[arg-type]  # only `get` is called
    for _ in range(3):
        assert (await claims.get(CLAIMS, "team", "data"))["metadata"]["name"] == "data"
        try:
            await claims.get(CLAIMS, "team", "late")
        except NotFoundError:
            continue
    await claims.get(CLAIMS, "other", "data")
    await claims.get(CONFIG_MAPS, "team", "data")
    await claims.get(CONFIG_MAPS, "team", "data")
    assert shelf.asked == ["data", "late", "late", "late", "data", "data", "data"]


# --- curves


async def curves(world: World, operator: Operator, steps: list[int]) -> list[int]:
    """Writes that each curve of so many steps costs."""
    subject = view_subject(world.objects[(RL_TRAINING_JOBS.plural, JOB)])
    costs = []
    for step in steps:
        before = world.faults.asked
        action = WriteHistory(History(points=[HistoryPoint(step=number) for number in range(step)]))
        context = Context((NAMESPACE, JOB), subject, Observed(), world.now)
        await operator.controller._applier.carry_out(action, context)
        costs.append(world.faults.asked - before)
    return costs


async def test_a_curve_costs_one_request_each_time_it_grows() -> None:
    world = new_world([], [])
    assert await curves(world, Operator(world), [1, 2, 2, 3]) == [1, 1, 0, 1]
    assert await curves(world, Operator(world), [3, 4]) == [2, 1], "a new process looks at what is there"


async def test_a_curve_that_was_removed_is_made_again() -> None:
    world, key = new_world([], []), ("configmaps", f"{JOB}-history")
    operator = Operator(world)
    await curves(world, operator, [1])
    del world.objects[key]
    try:
        await curves(world, operator, [2])
    except (NotFoundError, ConflictError):
        await curves(world, operator, [2])  # the queue would try the pass again
    assert key in world.objects


# --- one write for a cluster and for how it does


def test_the_write_that_tells_of_a_new_cluster_tells_how_it_does() -> None:
    world = new_world([], [])
    operator = Operator(world)

    async def until_there_is_a_cluster() -> None:
        while (RAY_CLUSTERS.plural, JOB) not in world.objects:
            for event in world.events:
                operator.deliver(event)
            world.events.clear()
            await operator.reconcile()
            world.run_controllers() if (RAY_CLUSTERS.plural, JOB) not in world.objects else None

    asyncio.run(until_there_is_a_cluster())
    status = status_of(world)
    cluster_ready = next(one for one in status["conditions"] if one["type"] == "ClusterReady")
    assert cluster_ready["reason"] == "ClusterNotReady"
    assert "worker pods ready" in cluster_ready["message"]
    assert status["rayCluster"]["name"] == JOB
    assert status["accounting"]["gpus"] == 0
    writes = world.writes
    asyncio.run(operator.reconcile())
    assert world.writes == writes, "the next pass has nothing to add"
