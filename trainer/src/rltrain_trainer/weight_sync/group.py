"""A process group of its own for weights: the sender is rank 0, engines are the ranks behind it.

It is independent of torch's default group, so that trainer ranks keep theirs, engines need none, and a group with a
dead member can be thrown away and built anew. Every wait has a deadline. It must not know what the bytes mean.
"""

from __future__ import annotations

import socket
import time
from datetime import timedelta
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

STORE_PREFIX = "rltrain-weights"
POLL_SECONDS = 0.0005


class TransferError(RuntimeError):
    """A transfer group could not be formed, or a transfer in it failed; the group is of no further use."""


class _Work(Protocol):
    """The part of torch's Work handle that is used here (torch does not type it)."""

    def wait(self, timeout: timedelta = ...) -> bool: ...
    def is_completed(self) -> bool: ...


class TransferGroup:
    """One rank's end of a transfer group."""

    def __init__(self, backend: str, group: Any, store: Store, timeout_seconds: float) -> None:
        self._backend = backend
        self._group: Any | None = group
        self._store = store  # rank 0 serves it: it must live as long as the group
        self._timeout_seconds = timeout_seconds

    @classmethod
    def join(
        cls, address: str, port: int, *, rank: int, world_size: int, backend: str, timeout_seconds: float
    ) -> TransferGroup:
        """Meet the other ranks at `address:port` (rank 0 listens there) and form the group.

        Raises TransferError when not all `world_size` ranks have come within `timeout_seconds`.
        """
        timeout = timedelta(seconds=timeout_seconds)
        try:
            tcp_store = TCPStore(
                address, port, world_size, is_master=rank == 0, timeout=timeout, wait_for_workers=False
            )
            store = PrefixStore(STORE_PREFIX, tcp_store)
            group = _make_group(backend, store, address, rank, world_size, timeout)
            joined = cls(backend, group, tcp_store, timeout_seconds)
            joined._warm_up()
        except RuntimeError as error:  # torch's DistError family
            raise TransferError(
                f"rank {rank} of {world_size} could not form the {backend} transfer group at {address}:{port} within "
                f"{timeout_seconds:.0f} s: {error}"
            ) from error
        return joined

    def broadcast(self, buffer: torch.Tensor) -> None:
        """Send `buffer` from rank 0 to all others (in place); returns when this rank's part is done.

        After a failure the group is aborted, which makes the ranks behind this one fail too instead of waiting.
        """
        group = self._group
        if group is None:
            raise TransferError("the transfer group was left before this broadcast")
        cause = None
        try:
            self._wait(group.broadcast(buffer, root=0))
        except RuntimeError as error:
            cause = str(error)  # not the exception: its traceback would keep the group, and so its sockets, alive
        if cause is not None:
            del group
            self.abort()
            raise TransferError(f"a broadcast of {buffer.numel() * buffer.element_size()} bytes failed: {cause}")

    def abort(self) -> None:
        """End the group at once; may be called twice.

        NCCL fails every collective that waits in it. Gloo ends with its last reference: a rank that waits for this one
        fails when this one's sockets close; a broadcast that waits here keeps them open until its own time-out.
        """
        group, self._group = self._group, None
        if group is not None:
            group.abort()

    def _warm_up(self) -> None:
        """NCCL connects at the first collective: do it now, so that a missing rank shows while joining."""
        if self._backend == "nccl" and self._group is not None:
            self._wait(self._group.allreduce(torch.zeros(1, device="cuda")))

    def _wait(self, work: _Work) -> None:
        if self._backend == "gloo":
            work.wait(timedelta(seconds=self._timeout_seconds))
            return
        # NCCL's wait() only orders streams; a host-side deadline needs polling.
        deadline = time.monotonic() + self._timeout_seconds
        while not work.is_completed():
            if time.monotonic() > deadline:
                raise TransferError(f"no completion within {self._timeout_seconds:.0f} s; a member hangs")
            time.sleep(POLL_SECONDS)


def _make_group(backend: str, store: Store, address: str, rank: int, world_size: int, timeout: timedelta) -> Any:
    """A bare process group of torch on `store`."""
    if backend == "gloo":
        options = dist.ProcessGroupGloo._Options()  # type: ignore[attr-defined]  # missing in torch's stubs
        options._timeout = timeout
        options._devices = [dist.ProcessGroupGloo.create_device(hostname=_own_address(address))]
        return dist.ProcessGroupGloo(store, rank, world_size, options)
    if backend == "nccl":
        options = dist.ProcessGroupNCCL.Options()
        options._timeout = timeout
        return dist.ProcessGroupNCCL(store, rank, world_size, options)
    raise ValueError(f"weight transfer backend {backend!r} is not known; use gloo or nccl")


def _own_address(peer: str) -> str:
    """The address of this machine on the way to `peer` (no packet is sent): what other ranks can reach us at."""
    family = socket.getaddrinfo(peer, None, type=socket.SOCK_DGRAM)[0][0]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((peer, 9))
        return str(probe.getsockname()[0])
