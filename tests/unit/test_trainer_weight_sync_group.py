"""Transfer groups: bytes arrive, and whoever waits for a lost rank fails instead of waiting for ever."""

from __future__ import annotations

import asyncio
import socket
import sys
import time

import pytest
import torch

from rltrain_trainer.weight_sync.group import TransferError, TransferGroup
from rltrain_trainer.weight_sync.sender import WeightSender

RANK_THAT_IS_KILLED = """
import os, signal, sys
from rltrain_trainer.weight_sync.group import TransferGroup
group = TransferGroup.join("127.0.0.1", int(sys.argv[1]), rank=1, world_size=3, backend="gloo", timeout_seconds=30)
os.kill(os.getpid(), signal.SIGKILL)
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def join(port: int, rank: int, world_size: int, timeout_seconds: float = 30) -> TransferGroup:
    return await asyncio.to_thread(
        TransferGroup.join,
        "127.0.0.1",
        port,
        rank=rank,
        world_size=world_size,
        backend="gloo",
        timeout_seconds=timeout_seconds,
    )


async def test_staged_buckets_arrive_at_every_rank() -> None:
    port = free_port()
    sender = WeightSender(bucket_bytes=64, backend="gloo")
    weights = {f"w{index}": torch.randn(4, 3) for index in range(3)}
    buckets = sender.stage(iter(weights.items()))
    assert len(buckets) == 3
    first, second, _ = await asyncio.gather(
        join(port, 1, 3), join(port, 2, 3), asyncio.to_thread(sender.join, "127.0.0.1", port, 3, 30)
    )
    for bucket in buckets:
        received = [torch.empty(bucket.nbytes, dtype=torch.uint8) for _ in range(2)]
        await asyncio.gather(
            asyncio.to_thread(sender.broadcast, bucket.index),
            asyncio.to_thread(first.broadcast, received[0]),
            asyncio.to_thread(second.broadcast, received[1]),
        )
        for buffer in received:
            assert torch.equal(buffer.view(torch.float32).view(4, 3), weights[bucket.parameters[0].name])
    sender.leave()
    with pytest.raises(TransferError, match="in no transfer group"):
        sender.broadcast(0)


async def test_a_missing_rank_is_named_by_the_deadline() -> None:
    with pytest.raises(TransferError, match="rank 0 of 2 could not form the gloo transfer group at 127"):
        await join(free_port(), 0, 2, timeout_seconds=0.5)


async def test_leaving_frees_a_rank_that_waits() -> None:
    port = free_port()
    root, other = await asyncio.gather(join(port, 0, 2, 60), join(port, 1, 2, 60))
    waiting = asyncio.create_task(asyncio.to_thread(other.broadcast, torch.empty(8, dtype=torch.uint8)))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    root.abort()
    root.abort()  # a second time is no error
    with pytest.raises(TransferError, match="broadcast of 8 bytes failed"):
        await asyncio.wait_for(waiting, 20)
    with pytest.raises(TransferError, match="was left before"):
        root.broadcast(torch.empty(8, dtype=torch.uint8))


async def test_a_killed_rank_fails_the_others_long_before_their_time_out(python_environment: dict[str, str]) -> None:
    port = free_port()
    victim = await asyncio.create_subprocess_exec(
        sys.executable, "-c", RANK_THAT_IS_KILLED, str(port), env=python_environment
    )
    root, survivor = await asyncio.gather(join(port, 0, 3, 60), join(port, 2, 3, 60))
    await asyncio.wait_for(victim.wait(), 30)
    started = time.monotonic()
    size = 4 * 1024 * 1024  # more than sockets buffer
    outcomes = await asyncio.gather(
        *(asyncio.to_thread(group.broadcast, torch.empty(size, dtype=torch.uint8)) for group in (root, survivor)),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [TransferError, TransferError]
    assert time.monotonic() - started < 30  # the groups' own time-out is 60 s
