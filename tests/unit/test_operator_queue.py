"""The work queue and the token bucket, with a clock that only the test moves."""

from __future__ import annotations

import asyncio

import pytest

from rltrain_operator.kube import TokenBucket
from rltrain_operator.queue import WorkQueue


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def queue(clock: Clock) -> WorkQueue[str]:
    return WorkQueue[str](base=1.0, cap=8.0, clock=clock, jitter=lambda: 1.0)


async def ready(work: WorkQueue[str]) -> str | None:
    """The next key that is ready now, or None."""
    try:
        return await asyncio.wait_for(work.get(), 0.01)
    except TimeoutError:
        return None


async def test_a_key_waits_once_however_often_it_is_added() -> None:
    work = queue(Clock())
    for _ in range(3):
        work.add("a")
    assert await ready(work) == "a"
    assert await ready(work) is None


async def test_a_key_that_runs_is_run_again_afterwards_and_never_twice_at_once() -> None:
    work = queue(Clock())
    work.add("a")
    assert await ready(work) == "a"
    work.add("a")
    work.add("b")
    assert await ready(work) == "b"
    assert await ready(work) is None
    work.done("a")
    assert await ready(work) == "a"


async def test_a_delay_is_kept_and_the_earliest_wins() -> None:
    clock = Clock()
    work = queue(clock)
    work.add_after("a", 10)
    work.add_after("a", 5)
    work.add_after("a", 7)
    assert await ready(work) is None
    clock.now = 5.0
    assert await ready(work) == "a"
    work.done("a")
    clock.now = 20.0
    assert await ready(work) is None


async def test_failures_back_off_to_a_bound_and_success_forgets_them() -> None:
    work = queue(Clock())
    assert [work.retry("a") for _ in range(5)] == [1.0, 2.0, 4.0, 8.0, 8.0]
    work.forget("a")
    assert work.retry("a") == 1.0
    assert work.retry("b", at_least=30.0) == 30.0


async def test_many_failures_do_not_overflow() -> None:
    work = queue(Clock())
    assert [work.retry("a") for _ in range(2000)][-1] == 8.0


async def test_the_oldest_wait_is_that_of_a_ready_key_not_of_a_delayed_one() -> None:
    clock = Clock()
    work = queue(clock)
    work.add_after("delayed", 1000)
    work.add("waiting")
    clock.now = 30.0
    assert work.oldest_wait() == 30.0
    assert await ready(work) == "waiting"
    assert work.oldest_wait() == 0.0


async def test_a_waiting_worker_wakes_for_a_new_key() -> None:
    work = WorkQueue[str]()
    worker = asyncio.create_task(work.get())
    await asyncio.sleep(0)
    work.add("a")
    assert await asyncio.wait_for(worker, 5) == "a"


class Sleeps:
    """Sleeping moves the clock."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.taken: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.taken.append(round(seconds, 6))
        self.clock.now += seconds


async def test_the_bucket_gives_its_burst_at_once_and_then_its_rate() -> None:
    clock = Clock()
    sleeps = Sleeps(clock)
    bucket = TokenBucket(2.0, 3, clock=clock, sleep=sleeps)
    for _ in range(3):
        await bucket.take()
    assert sleeps.taken == []
    await bucket.take()
    await bucket.take()
    assert sleeps.taken == [0.5, 0.5]


async def test_a_pause_holds_everybody_back() -> None:
    clock = Clock()
    sleeps = Sleeps(clock)
    bucket = TokenBucket(100.0, 100, clock=clock, sleep=sleeps)
    bucket.pause(7.0)
    await bucket.take()
    assert sleeps.taken == [7.0]


@pytest.mark.parametrize("idle", [10.0, 10_000.0])
async def test_an_idle_bucket_never_holds_more_than_its_burst(idle: float) -> None:
    clock = Clock()
    sleeps = Sleeps(clock)
    bucket = TokenBucket(1.0, 2, clock=clock, sleep=sleeps)
    await bucket.take()
    clock.now = idle
    for _ in range(3):
        await bucket.take()
    assert sleeps.taken == [1.0]
