"""Fleet and weight sync decided by scripted engines: who serves, who is tried again, who is taken out."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

import pytest

from rltrain_api.wire import EngineState
from rltrain_trainer.engines.contract import (
    EngineError,
    EngineFailedError,
    EnginePausedError,
    EngineRefusedError,
    EngineUnreachableError,
    FinishReason,
    GenerateRequest,
    TokenSampling,
)
from rltrain_trainer.engines.fleet import Fleet, NoEngineServesError
from rltrain_trainer.engines.sync import WeightSyncError, admit_during, admit_joining, sync_weights
from rltrain_trainer.rollout.trajectory import VersionSpan
from rltrain_trainer.weight_sync.group import TransferError
from scripted_engines import ScriptedEngine, ScriptedSender, answer

REQUEST = GenerateRequest("r", (1, 2, 3), TokenSampling(7))


async def synced(*engines: ScriptedEngine) -> Fleet:
    fleet = Fleet(engines)
    await sync_weights(fleet, ScriptedSender(), 1)
    return fleet


def states(fleet: Fleet) -> dict[str, tuple[EngineState, int | None]]:
    return {status.name: (status.state, status.weight_version) for status in fleet.engine_statuses()}


async def test_nothing_is_served_before_the_first_weights() -> None:
    engine = ScriptedEngine("a")
    fleet = Fleet([engine])
    with pytest.raises(NoEngineServesError, match=r"request r was not served within 0 s; engines: a Joining"):
        await fleet.generate(REQUEST, deadline_seconds=0.1)
    waiting = asyncio.create_task(fleet.generate(REQUEST, deadline_seconds=20))
    await asyncio.sleep(0)
    await sync_weights(fleet, ScriptedSender(), 1)
    assert (await waiting)[0].spans == (VersionSpan(1, 0, 1),)
    assert engine.salts == ["1"]


async def test_requests_go_where_the_fewest_tokens_are_outstanding() -> None:
    hold = asyncio.Event()
    first, second = ScriptedEngine("a", hold=hold), ScriptedEngine("b", hold=hold)
    fleet = await synced(first, second)
    large = replace(REQUEST, sampling=TokenSampling(100))
    tasks = []
    for request in (large, REQUEST, REQUEST, REQUEST):
        tasks.append(asyncio.create_task(fleet.generate(request, deadline_seconds=20)))
        await asyncio.sleep(0.01)
    assert [len(engine.salts) for engine in (first, second)] == [1, 3]
    assert [member.outstanding for member in fleet.members] == [103, 30]
    hold.set()
    await asyncio.gather(*tasks)
    assert [member.outstanding for member in fleet.members] == [0, 0]


@dataclass(frozen=True)
class Trouble:
    """Something the first engine does to a request; the caller gets an answer all the same."""

    first: ScriptedEngine
    state: EngineState  # of the first engine afterwards
    served_by: str


def troubles() -> dict[str, Trouble]:
    return {
        "dies": Trouble(ScriptedEngine("a", {"generate": [EngineUnreachableError("reset")]}), EngineState.DEAD, "b"),
        "fails inside": Trouble(
            ScriptedEngine("a", {"generate": [EngineFailedError("500")]}), EngineState.SERVING, "b"
        ),
        "is paused": Trouble(ScriptedEngine("a", {"generate": [EnginePausedError("503")]}), EngineState.SERVING, "a"),
        "aborts": Trouble(ScriptedEngine("a", answers=[answer(1, FinishReason.ABORT)]), EngineState.SERVING, "a"),
        "was restarted": Trouble(ScriptedEngine("a", answers=[answer(-1)]), EngineState.JOINING, "b"),
        "has other weights": Trouble(ScriptedEngine("a", answers=[answer(9)]), EngineState.JOINING, "b"),
    }


@pytest.mark.parametrize("name", troubles())
async def test_a_request_survives_what_happens_to_an_engine(name: str) -> None:
    case = troubles()[name]
    second = ScriptedEngine("b")
    fleet = await synced(case.first, second)
    fleet.members[1].outstanding = 5  # so that the first engine is asked first
    (result,) = await fleet.generate(REQUEST, deadline_seconds=20)
    assert result == answer(1)
    assert states(fleet)["a"][0] == case.state
    assert ("generate" in second.calls) == (case.served_by == "b")


async def test_a_request_at_fault_is_not_sent_round() -> None:
    first, second = ScriptedEngine("a", {"generate": [EngineRefusedError("the prompt is empty")]}), ScriptedEngine("b")
    fleet = await synced(first, second)
    with pytest.raises(EngineRefusedError, match="the prompt is empty"):
        await fleet.generate(REQUEST, deadline_seconds=20)
    assert "generate" not in second.calls


async def test_probes_take_out_a_silent_engine_and_let_it_join_again() -> None:
    hold = asyncio.Event()
    silent, other = ScriptedEngine("a", hold=hold), ScriptedEngine("b")
    fleet = Fleet([silent, other], probe_seconds=0.01, probes_until_dead=2)
    sender = ScriptedSender()
    await sync_weights(fleet, sender, 3)
    fleet.members[1].outstanding = 50
    request = asyncio.create_task(fleet.generate(REQUEST, deadline_seconds=20))
    await asyncio.sleep(0.01)
    assert silent.salts == ["3"]  # it has the request, and hangs
    silent.live = False
    fleet.start()
    assert await request == (answer(3),)
    assert states(fleet)["a"] == (EngineState.DEAD, None)
    silent.live = True
    hold.set()

    async def rollouts() -> str:
        while states(fleet)["a"] != (EngineState.SERVING, 3):  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.01)
        return "trajectories"

    async with asyncio.timeout(20):
        assert await admit_during(fleet, sender, rollouts()) == "trajectories"
    assert sender.staged == 1  # from the weights that were staged, not gathered anew
    assert other.calls.count("pause") == 1  # and without disturbing the others
    await fleet.close()


async def test_rollouts_that_fail_while_engines_are_admitted_say_why() -> None:
    fleet = Fleet([ScriptedEngine("a")])
    await sync_weights(fleet, ScriptedSender(), 1)

    async def rollouts() -> None:
        raise ValueError("a bad row")

    with pytest.raises(ValueError, match="a bad row"):
        await admit_during(fleet, ScriptedSender(), rollouts())


@dataclass(frozen=True)
class Failure:
    """What one of two engines does during a sync to version 2, and what becomes of it."""

    script: dict[str, list[EngineError]]
    state: EngineState
    attempts: int


def gone() -> EngineError:
    return EngineUnreachableError("connection refused")


def failed() -> EngineError:
    return EngineFailedError("500")


FAILURES = {
    "none": lambda: Failure({}, EngineState.SERVING, 1),
    "dies at pause": lambda: Failure({"pause": [gone()]}, EngineState.DEAD, 2),
    "dies at begin": lambda: Failure({"begin": [gone()]}, EngineState.DEAD, 2),
    "dies at push": lambda: Failure({"push": [gone()]}, EngineState.DEAD, 2),
    "dies at commit": lambda: Failure({"commit": [gone()]}, EngineState.DEAD, 1),
    "dies at resume": lambda: Failure({"resume": [gone()]}, EngineState.DEAD, 1),
    "fails one push": lambda: Failure({"push": [failed()]}, EngineState.SERVING, 2),
    "fails one commit": lambda: Failure({"commit": [failed()]}, EngineState.SERVING, 2),
    "fails every push": lambda: Failure({"push": [failed()] * 9}, EngineState.DEAD, 3),
    "refuses to resume": lambda: Failure({"resume": [EngineRefusedError("torn")]}, EngineState.DEAD, 1),
}


@pytest.mark.parametrize("name", FAILURES)
async def test_a_sync_reaches_the_engines_that_can_be_reached(name: str) -> None:
    case = FAILURES[name]()
    first, second = ScriptedEngine("a"), ScriptedEngine("b")
    fleet = await synced(first, second)
    first.script, first.calls = case.script, []
    second.calls = []
    sender = ScriptedSender()
    report = await sync_weights(fleet, sender, 2)
    alive = case.state == EngineState.SERVING
    assert states(fleet) == {
        "a": (case.state, 2 if alive else None),
        "b": (EngineState.SERVING, 2),
    }
    assert (report.engines, report.lost, report.attempts) == (1 + alive, () if alive else ("a",), case.attempts)
    assert second.version == 2
    assert second.calls.count("commit") == 1  # once it has the weights it is left in peace
    assert second.calls[-1] == "resume"
    if not alive and "resume" not in case.script:
        assert "resume" not in first.calls  # half an update is never resumed from


async def test_the_group_stands_until_its_members_change() -> None:
    engines = [ScriptedEngine("a"), ScriptedEngine("b")]
    fleet, sender = Fleet(engines), ScriptedSender()
    for version in (1, 2):
        await sync_weights(fleet, sender, version)
    assert sender.joined == [3]
    newcomer = ScriptedEngine("c")
    fleet.add(newcomer)
    with pytest.raises(ValueError, match="already has an engine named c"):
        fleet.add(ScriptedEngine("c"))
    assert [member.name for member in fleet.joining] == ["c"]
    await sync_weights(fleet, sender, 3)
    assert sender.joined == [3, 4]
    assert states(fleet)["c"] == (EngineState.SERVING, 3)
    assert await admit_joining(fleet, sender) is None


async def test_a_lost_broadcast_is_repeated_and_a_lost_sender_is_raised() -> None:
    engine = ScriptedEngine("a")
    fleet = Fleet([engine])
    report = await sync_weights(fleet, ScriptedSender(script=[TransferError("reset")]), 1)
    assert (report.attempts, states(fleet)["a"]) == (2, (EngineState.SERVING, 1))
    with pytest.raises(ConnectionError, match="rank 0 died"):
        await sync_weights(fleet, ScriptedSender(script=[ConnectionError("rank 0 died")]), 2)
    with pytest.raises(WeightSyncError, match="did not reach a in 3 attempts"):
        await sync_weights(fleet, ScriptedSender(script=[TransferError("reset")] * 99), 3)


async def test_a_sync_that_no_engine_survives_is_an_error() -> None:
    fleet = await synced(ScriptedEngine("a"))
    fleet.members[0].engine.script = {"push": [gone()]}  # type: ignore[attr-defined]  # a ScriptedEngine
    with pytest.raises(WeightSyncError, match="no engine took weight version 2; lost: a"):
        await sync_weights(fleet, ScriptedSender(), 2)
