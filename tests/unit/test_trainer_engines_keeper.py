"""As many engines as are wanted, while requests and weight syncs go on: hosts and engines do as they are told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from rltrain_api.wire import EngineState
from rltrain_trainer.engines.contract import GenerateRequest, TokenSampling
from rltrain_trainer.engines.fleet import Fleet
from rltrain_trainer.engines.keeper import EngineKeeper, EngineStartError
from rltrain_trainer.engines.sync import admit_joining, sync_weights
from scripted_engines import ScriptedEngine, ScriptedSender, answer

REQUEST = GenerateRequest("r", (1, 2, 3), TokenSampling(7))


@dataclass(eq=False)
class Host:
    """An engine's process: it ends when it is told to, or when `crash` is set."""

    pod: str
    url: str = "http://nowhere"
    crash: asyncio.Event = field(default_factory=asyncio.Event)
    stopped: bool = False

    async def ended(self) -> str:
        await self.crash.wait()
        return "its server ended with exit code 1"

    async def stop(self) -> None:
        self.stopped = True


@dataclass
class Cluster:
    """Pods for engines; a start waits for one, or fails as long as `broken`."""

    pods: int
    broken: int = 0
    engines: dict[str, ScriptedEngine] = field(default_factory=dict)
    hosts: list[Host] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def free(self) -> list[str]:
        taken = {host.pod for host in self.hosts if not host.stopped}
        return [pod for pod in (f"e-{number}" for number in range(self.pods)) if pod not in taken]

    async def start(self) -> Host:
        if self.broken:
            self.broken -= 1
            raise EngineStartError("the model does not load")
        while not (free := self.free()):  # noqa: ASYNC110 - Ray tells nobody either when there is room
            await asyncio.sleep(0.001)
        host = Host(free[0])
        self.hosts.append(host)
        return host

    def connect(self, name: str, url: str) -> ScriptedEngine:
        self.engines[name] = ScriptedEngine(name)
        return self.engines[name]


@dataclass
class Run:
    """A fleet that is kept, with the weights of step 1."""

    cluster: Cluster
    fleet: Fleet
    keeper: EngineKeeper
    sender: ScriptedSender = field(default_factory=ScriptedSender)

    def states(self) -> dict[str, str]:
        return {status.name: status.state.value for status in self.keeper.statuses()}

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110 - no event tells of all that may be asked
                await asyncio.sleep(0.001)


@asynccontextmanager
async def running(engines: int, *, pods: int = 8, broken: int = 0, drain_seconds: float = 5.0) -> AsyncIterator[Run]:
    cluster, fleet = Cluster(pods), Fleet([])
    started = [await cluster.start() for _ in range(engines)]
    keeper = EngineKeeper(
        fleet,
        started,
        start=cluster.start,
        connect=cluster.connect,
        drain_seconds=drain_seconds,
        retry_seconds=0.001,
    )
    cluster.broken = broken
    run = Run(cluster, fleet, keeper)
    await sync_weights(fleet, run.sender, 1)
    keeping = asyncio.create_task(keeper.run())
    try:
        yield run
    finally:
        keeping.cancel()
        await asyncio.wait({keeping})
        await fleet.close()
        await keeper.close()
    assert all(host.stopped for host in cluster.hosts), "no process is left behind"


async def test_more_engines_serve_with_the_newest_weights_and_the_others_are_not_disturbed() -> None:
    async with running(2) as run:
        run.keeper.want(4)
        await run.until(lambda: len(run.fleet.joining) == 2)
        assert run.states() == dict.fromkeys(("engine-0", "engine-1"), "Serving") | dict.fromkeys(
            ("engine-2", "engine-3"), "Joining"
        )
        report = await admit_joining(run.fleet, run.sender)
        assert report is not None
        assert (report.engines, report.version) == (2, 1)
        assert set(run.states().values()) == {"Serving"}
        assert run.cluster.engines["engine-0"].calls.count("pause") == 1, "in the first sync alone"
        assert sorted(status.pod or "" for status in run.keeper.statuses()) == ["e-0", "e-1", "e-2", "e-3"]


async def test_fewer_engines_end_their_requests_first() -> None:
    async with running(3) as run:
        busy = run.cluster.engines["engine-1"]
        busy.hold = asyncio.Event()
        run.fleet.members[0].outstanding = 99
        request = asyncio.create_task(run.fleet.generate(REQUEST, deadline_seconds=10))
        await run.until(lambda: bool(busy.salts))
        run.keeper.want(1)
        await run.until(lambda: run.cluster.hosts[2].stopped)
        assert run.states() == {"engine-0": "Serving", "engine-1": "Draining"}, "the idle one has gone"
        busy.hold.set()
        assert await request == (answer(1),)
        await run.until(lambda: [host.stopped for host in run.cluster.hosts] == [False, True, True])
        assert run.states() == {"engine-0": "Serving"}
        assert busy.calls[-1] == "close"


async def test_a_draining_engine_gets_no_request_and_no_weights() -> None:
    async with running(2) as run:
        leaving, staying = run.cluster.engines["engine-1"], run.cluster.engines["engine-0"]
        leaving.hold = asyncio.Event()
        run.fleet.members[0].outstanding = 99
        request = asyncio.create_task(run.fleet.generate(REQUEST, deadline_seconds=10))
        await run.until(lambda: bool(leaving.salts))
        run.keeper.want(1)
        await run.until(lambda: run.states()["engine-1"] == "Draining")
        await run.fleet.generate(REQUEST, deadline_seconds=10)
        assert (len(leaving.salts), len(staying.salts)) == (1, 1)
        assert (await sync_weights(run.fleet, run.sender, 2)).engines == 1
        assert (leaving.version, staying.version) == (1, 2)
        leaving.hold.set()
        assert await request == (answer(1),), "sampled from the weights that it had"


async def test_what_does_not_end_in_time_is_answered_by_another() -> None:
    async with running(2, drain_seconds=0.02) as run:
        hung = run.cluster.engines["engine-1"]
        hung.hold = asyncio.Event()
        run.fleet.members[0].outstanding = 99
        request = asyncio.create_task(run.fleet.generate(REQUEST, deadline_seconds=10))
        await run.until(lambda: bool(hung.salts))
        run.keeper.want(1)
        assert await request == (answer(1),)
        assert len(run.cluster.engines["engine-0"].salts) == 1
        assert run.states() == {"engine-0": "Serving"}


async def test_a_dead_engine_goes_before_one_that_serves() -> None:
    async with running(3) as run:
        run.fleet.declare_dead(run.fleet.members[0], "it hangs")
        run.keeper.want(2)
        await run.until(lambda: len(run.states()) == 2)
        assert run.states() == {"engine-1": "Serving", "engine-2": "Serving"}


async def test_an_engine_whose_process_has_ended_is_replaced() -> None:
    async with running(2) as run:
        run.cluster.hosts[1].crash.set()
        await run.until(lambda: "engine-2" in run.states())
        assert run.states() == {"engine-0": "Serving", "engine-2": "Joining"}
        assert run.cluster.hosts[1].stopped


async def test_a_start_that_fails_is_tried_again_and_the_others_serve() -> None:
    async with running(1, broken=3) as run:
        run.keeper.want(2)
        await run.until(lambda: "engine-1" in run.states())
        assert run.cluster.broken == 0
        assert run.states() == {"engine-0": "Serving", "engine-1": "Joining"}


async def test_training_goes_on_where_there_is_no_room_and_the_wish_may_be_taken_back() -> None:
    async with running(2, pods=3) as run:
        run.keeper.want(8)
        await run.until(lambda: len(run.fleet.members) == 3)
        assert [status.state for status in run.keeper.statuses()].count(EngineState.JOINING) == 6
        assert (await run.fleet.generate(REQUEST, deadline_seconds=10)) == (answer(1),)
        run.keeper.want(2)
        await run.until(lambda: run.states() == {"engine-0": "Serving", "engine-1": "Serving"})
        run.cluster.pods = 8
        run.keeper.want(3)
        await run.until(lambda: len(run.fleet.members) == 3)
        assert run.keeper.wanted == 3


async def test_a_sync_that_runs_is_ended_before_an_engine_goes() -> None:
    async with running(2) as run:
        async with run.fleet.sync_lock:
            run.keeper.want(1)
            await run.until(lambda: run.states()["engine-1"] == "Draining")
            await asyncio.sleep(0.01)
            assert len(run.fleet.members) == 2
            assert not run.cluster.hosts[1].stopped
        await run.until(lambda: run.cluster.hosts[1].stopped)


async def test_a_wish_for_none_is_a_mistake_of_the_caller() -> None:
    async with running(1) as run:
        with pytest.raises(AssertionError, match="without engines"):
            run.keeper.want(0)
