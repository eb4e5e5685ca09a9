"""The trainer's end of the weight sync, on rank 0: stage the gathered weights, then send bucket after bucket.

Staging needs no engine, so it happens before engines are paused; the pause then holds only the transfer. Staged weights
stay until the next stage: a transfer that lost an engine is repeated from them. It must not know how parameters are
gathered nor what engines do with them.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from rltrain_trainer.weight_sync.buckets import DEFAULT_BUCKET_BYTES, Bucket, ParameterSpec, group_by_bytes, pack
from rltrain_trainer.weight_sync.group import TransferError, TransferGroup


class WeightSender:
    """Rank 0 of a transfer group. One thread stages and broadcasts; `leave` may be called from any other."""

    def __init__(self, *, bucket_bytes: int = DEFAULT_BUCKET_BYTES, backend: str | None = None) -> None:
        """`backend` None: nccl where there is a GPU, else gloo."""
        self._bucket_bytes = bucket_bytes
        self._backend = backend or ("nccl" if torch.cuda.is_available() else "gloo")
        self._group: TransferGroup | None = None
        self._staged: list[tuple[Bucket, torch.Tensor]] = []

    def join(self, address: str, port: int, world_size: int, timeout_seconds: float) -> None:
        """Listen at `address:port` for the `world_size - 1` engine ranks and form the group; an older one is left."""
        self.leave()
        self._group = TransferGroup.join(
            address, port, rank=0, world_size=world_size, backend=self._backend, timeout_seconds=timeout_seconds
        )

    def stage(self, parameters: Iterator[tuple[str, torch.Tensor]]) -> list[Bucket]:
        """Pack the full parameters, as they come, into buckets; returns the buckets.

        The same as `plan_buckets` of the parameters' specs. Memory: the packed weights, plus one bucket's tensors.
        """
        buffers = {bucket: buffer for bucket, buffer in self._staged}  # same shapes every step: reuse the memory
        self._staged = []
        runs = group_by_bytes(parameters, lambda item: item[1].nbytes, self._bucket_bytes)
        for index, run in enumerate(runs):
            bucket = Bucket.of(index, (ParameterSpec.of(name, tensor) for name, tensor in run))
            buffer = buffers.pop(bucket, None)
            if buffer is None:
                buffer = torch.empty(bucket.nbytes, dtype=torch.uint8, device=run[0][1].device)
            pack(bucket, dict(run), buffer)
            self._staged.append((bucket, buffer))
        return [bucket for bucket, _ in self._staged]

    def broadcast(self, bucket_index: int) -> None:
        """Send one staged bucket to every member of the group.

        Raises TransferError when a member is lost, or when the group has been left, which another thread may do at
        any moment.
        """
        group = self._group
        if group is None:
            raise TransferError("the sender is in no transfer group: it has not joined one, or has left it")
        group.broadcast(self._staged[bucket_index][1])

    def leave(self) -> None:
        """End the group at once (its other members see their transfers fail)."""
        group, self._group = self._group, None
        if group is not None:
            group.abort()
