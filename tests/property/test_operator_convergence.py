"""Whatever goes wrong on the way, a job ends in the same state with each child created exactly once.

The cluster here is a model, not a real one, because what is tested are faults that a real one cannot be told to
produce: every call may be refused, may be carried out without an answer, or may be the last thing the operator's
process does; what the operator sees arrives late, twice and out of order. The operator's own code is all real.
"""

from __future__ import annotations

import asyncio
import copy
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from operator_world import (
    JOB,
    KEY,
    STEPS,
    WISHES,
    Agenda,
    Faults,
    Operator,
    World,
    condition,
    new_world,
    play,
    status_of,
)
from rltrain_operator.kube.resources import (
    PODS,
    RAY_CLUSTERS,
    RL_TRAINING_JOBS,
)

CHILDREN = {
    ("configmaps", f"{JOB}-config-1"),
    ("configmaps", f"{JOB}-history"),
    ("secrets", f"{JOB}-tokens"),
    ("persistentvolumeclaims", f"{JOB}-checkpoints"),
    ("persistentvolumeclaims", f"{JOB}-data"),
    ("jobs", f"{JOB}-init-arithmetic"),
    ("poddisruptionbudgets", JOB),
    ("rayclusters", JOB),
}


moves = st.sampled_from(
    [
        "reconcile",
        "reconcile",
        "reconcile",
        "controllers",
        "time",
        "deliver first",
        "deliver last",
        "deliver twice",
        "restart",
        "predecessor",
    ]
)


faults = st.sampled_from(["fine", "fine", "fine", "refused", "no answer", "died before", "died after"])


driver_failures = st.lists(
    st.tuples(st.integers(min_value=0, max_value=STEPS - 1), st.sampled_from(["exits", "hangs"])), max_size=2
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(script=st.lists(moves, max_size=120), planned=st.lists(faults, max_size=80), failures=driver_failures)
def test_every_history_ends_the_same(script: list[str], planned: list[str], failures: list[tuple[int, str]]) -> None:
    world = new_world(planned, failures)
    operator = asyncio.run(play(world, script))
    assert_the_one_end(world, failures)
    assert_idle(world, operator)


HANGING = [(1, "hangs")]


@pytest.mark.parametrize("fault", ["refused", "no answer", "died before", "died after"])
def test_any_single_call_may_fail_in_any_way(fault: str) -> None:
    """Every call of a whole life with one failed attempt, one after the other: nothing is left to chance here."""
    reference = new_world([], HANGING)
    asyncio.run(play(reference, []))
    assert reference.faults.asked > 50
    for call in range(reference.faults.asked):
        world = new_world(["fine"] * call + [fault], HANGING)
        asyncio.run(play(world, []))
        assert_the_one_end(world, HANGING)


def assert_the_one_end(world: World, failures: list[tuple[int, str]]) -> None:
    """The job is complete, everything was made exactly once, and what must stay is there."""
    status = status_of(world)
    assert status["phase"] == "Succeeded"
    assert condition(status, "Complete")["status"] == "True"
    assert status["attempt"] == len(failures) + 1
    assert status["progress"]["step"] == STEPS
    children = {key: count for key, count in world.created.items() if key[0] != "events"}
    assert children == dict.fromkeys(CHILDREN, 1)
    assert set(world.submissions.values()) == {1}
    assert len(world.submissions) == len(failures) + 1
    left = {key for key in world.objects if key[0] not in ("events", RL_TRAINING_JOBS.plural)}
    assert left == CHILDREN - {("rayclusters", JOB)}
    told = [body["message"] for key, body in world.objects.items() if key[0] == "events"]
    assert len(told) == len(set(told))


def assert_idle(world: World, operator: Operator) -> None:
    """A job that is over costs nothing: ten more passes, also of a new process, write nothing."""
    before = world.writes

    async def look() -> None:
        for process in (operator, Operator(world)):
            for _ in range(5):
                assert await process.controller.reconcile(KEY) is None
                world.now += timedelta(seconds=60)

    asyncio.run(look())
    assert world.writes == before


def trains(world: World, attempt: int) -> bool:
    status = status_of(world)
    return status.get("attempt") == attempt and status["phase"] == "Running"


def is_suspended(world: World) -> bool:
    return status_of(world).get("phase") == "Suspended"


LIFE: Agenda = [
    (lambda world: trains(world, 1), "ask for a checkpoint"),
    (lambda world: bool(world.answered) and trains(world, 1), "suspend"),
    (is_suspended, "resume"),
    (lambda world: trains(world, 2), "edit config"),
    (lambda world: trains(world, 3), "edit pods"),
    (lambda world: trains(world, 4), "ask for a restart"),
]


LONG = 20


SHARES = 8


def play_life(fatal_write: int | None = None) -> World:
    world = new_world([], [])
    world.steps = LONG
    world.faults = Faults([], fatal_write=fatal_write)
    asyncio.run(play(world, [], LIFE))
    return world


@pytest.mark.parametrize("share", range(SHARES))
def test_every_wish_comes_true_also_when_the_operator_dies_after_any_write(share: int) -> None:
    """Suspended, resumed, edited twice, started anew: five attempts on three clusters, and not one step done twice."""
    reference = play_life()
    assert reference.faults.writes > 40
    for fatal in (None, *range(share, reference.faults.writes, SHARES)):
        world = play_life(fatal)
        status = status_of(world)
        assert (status["phase"], status["attempt"], status["progress"]["step"]) == ("Succeeded", 5, LONG), fatal
        assert list(world.submissions.values()) == [1] * 5
        assert "lastFailure" not in status
        assert status.get("failures", 0) == 0
        assert list(world.answered.values()) == [1], "a checkpoint that was asked for is saved once"
        ends = [driver.step for driver in world.drivers.values()]
        begins = [driver.first_step for driver in world.drivers.values()]
        assert begins == [0, *ends[:-1]], "each attempt goes on at the step where the one before was stopped"
        made = {key: count for key, count in world.created.items() if key[0] != "events"}
        records = {("configmaps", f"{JOB}-config-{generation}"): 1 for generation in (1, 3, 4, 5)}
        assert made == dict.fromkeys(CHILDREN, 1) | records | {("rayclusters", JOB): 3}


wishes = st.sampled_from(WISHES)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    script=st.lists(st.one_of(moves, moves, wishes), max_size=150),
    planned=st.lists(faults, max_size=60),
    failures=driver_failures,
)
def test_every_history_with_wishes_ends_as_last_wished(
    script: list[str], planned: list[str], failures: list[tuple[int, str]]
) -> None:
    world = new_world(planned, failures)
    operator = asyncio.run(play(world, [*script, "resume"]))
    status, job = status_of(world), world.objects[(RL_TRAINING_JOBS.plural, JOB)]
    assert (status["phase"], status["progress"]["step"]) == ("Succeeded", STEPS)
    numbers = [driver.attempt for driver in world.drivers.values()]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == status["attempt"]
    assert set(world.submissions.values()) == {1}
    assert (RAY_CLUSTERS.plural, JOB) not in world.objects
    once = {key for key in world.created if key[0] not in ("events", "rayclusters")}
    assert {world.created[key] for key in once} == {1}
    wanted = job["spec"]["config"]["trainer"]["policy"]["optimizer_config"]["lr"]
    ran = list(world.drivers.values())[-1].config["trainer"]["policy"]["optimizer_config"]["lr"]
    assert ran == wanted or condition(status, "Reconciling")["reason"] == "EditNotApplied"
    assert_idle(world, operator)


def engines_serving(world: World, count: int) -> bool:
    status = status_of(world)
    engines = status.get("engines") or {}
    return trains(world, 1) and (engines.get("desired"), engines.get("ready")) == (count, count)


MANY = 40


SCALED: Agenda = [
    (lambda world: engines_serving(world, 2), "scale 4"),
    (lambda world: engines_serving(world, 4), "scale 1"),
    (lambda world: engines_serving(world, 1), "scale 3"),
]


def play_scaled(fatal_write: int | None = None) -> World:
    world = new_world([], [])
    world.steps = MANY
    world.faults = Faults([], fatal_write=fatal_write)
    asyncio.run(play(world, [], SCALED))
    return world


def test_engines_come_and_go_in_one_attempt_also_when_the_operator_dies_after_any_write() -> None:
    """The model itself fails where a pod goes before its engine has been drained."""
    reference = play_scaled()
    made = len(reference.created)  # the writes of a start are of no interest here
    assert reference.faults.writes > made + 15
    for fatal in (None, *range(made, reference.faults.writes)):
        world = play_scaled(fatal)
        status = status_of(world)
        assert (status["phase"], status["attempt"], status["progress"]["step"]) == ("Succeeded", 1, MANY), fatal
        assert "stop" not in status, "nothing was stopped for it"
        assert world.created[("rayclusters", JOB)] == 1
        (driver,) = world.drivers.values()
        assert (driver.engines_wanted, len(driver.engines)) == (3, 3), fatal


def test_training_goes_on_with_the_engines_that_have_room() -> None:
    world = new_world([], [])
    world.steps, world.room_for_engines = 40, 3
    asyncio.run(play(world, [], [(lambda world: engines_serving(world, 2), "scale 8")]))
    status = status_of(world)
    assert (status["phase"], status["attempt"]) == ("Succeeded", 1)
    (driver,) = world.drivers.values()
    assert (driver.engines_wanted, len(driver.engines)) == (3, 3)
    messages = [body["message"] for key, body in world.objects.items() if key[0] == "events"]
    assert any("engines become 8" in message for message in messages), messages


ENDLESS = {
    "at the first step": [(1, "exits")] * 4,
    "anywhere and anyhow": [(0, "exits"), (3, "hangs"), (5, "exits"), (0, "hangs"), (2, "exits")],
}


@pytest.mark.parametrize("failures", ENDLESS.values(), ids=ENDLESS.keys())
def test_retries_are_bounded(failures: list[tuple[int, str]]) -> None:
    world = new_world([], failures)
    asyncio.run(play(world, []))
    status = status_of(world)
    assert status["phase"] == "Failed"
    assert status["attempt"] == 4
    assert condition(status, "Failed")["reason"] == "BackoffLimitExceeded"
    assert condition(status, "Stalled")["status"] == "True"


@settings(max_examples=20, deadline=None)
@given(step=st.integers(min_value=1, max_value=STEPS - 1))
def test_a_replaced_head_costs_one_attempt_and_no_step_below_the_checkpoint(step: int) -> None:
    world = new_world([], [])

    async def run() -> None:
        operator = Operator(world)
        replaced = False
        for _ in range(300):
            while world.events:
                operator.deliver(world.events.pop(0))
            await operator.reconcile()
            world.run_controllers()
            world.now += timedelta(seconds=1)
            if not replaced and any(d.step == step for d in world.drivers.values()):
                replaced = True
                world._remove(PODS, f"head-{world.head_restarts}")
                world.drivers.clear()
                world.head_address = None
        assert replaced

    asyncio.run(run())
    status = status_of(world)
    assert status["phase"] == "Succeeded"
    assert status["attempt"] == 2
    assert status["lastFailure"]["reason"] == "DriverLost"


def test_a_process_that_lost_its_lease_and_does_not_know_it_changes_no_status() -> None:
    """It was stopped for a while; its caches are from attempt 1, and another process has begun attempt 2."""
    world = new_world([], [(1, "exits")])

    async def run_until(operator: Operator, attempt: int) -> None:
        for _ in range(100):
            while world.events:
                operator.deliver(world.events.pop(0))
            await operator.reconcile()
            world.run_controllers()
            world.now += timedelta(seconds=1)
            status = status_of(world)
            if status.get("attempt") == attempt and condition(status, "Training")["status"] == "True":
                return
        raise AssertionError(f"attempt {attempt} did not begin")

    async def run() -> None:
        stopped = Operator(world)
        await run_until(stopped, 1)
        await run_until(Operator(world), 2)
        before = copy.deepcopy(status_of(world))
        for _ in range(5):
            await stopped.reconcile()
            world.now += timedelta(seconds=30)
        assert status_of(world) == before

    asyncio.run(run())
