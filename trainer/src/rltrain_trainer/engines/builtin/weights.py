"""The engine's end of a weight update: receive buckets from a transfer group straight into the model's parameters.

    WHOLE ──begin──► OPEN ──commit (every parameter came)──► WHOLE
              ▲        │ failed receive, left group, parameters missing at commit
              └────── TORN   (never sampled from: it ends with another begin and a whole update)

It must not know requests nor the scheduler; whoever calls it sees to it that nothing is sampled meanwhile.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import torch
from transformers import PreTrainedModel

from rltrain_trainer.weight_sync.buckets import Bucket, checksums, unpack
from rltrain_trainer.weight_sync.group import TransferError, TransferGroup

INITIAL_VERSION = "default"
"""The version of the weights that came with the model's directory (vLLM's word)."""

MAX_NAMES_IN_ERROR = 5


class WeightState(StrEnum):
    """Whether the parameters are those of one version."""

    WHOLE = "whole"
    OPEN = "open"
    TORN = "torn"


class WrongStateError(Exception):
    """The call does not fit the state of the weights; the message says what must come first."""


class WeightReceiver:
    """Parameters of one model and the updates to them. Calls may come from any thread; updates exclude each other."""

    def __init__(self, model: PreTrainedModel, *, device: torch.device, backend: str, timeout_seconds: float) -> None:
        self._parameters = dict(model.named_parameters(remove_duplicate=False))
        self._device = device
        self._backend = backend
        self._timeout_seconds = timeout_seconds
        self._group: TransferGroup | None = None
        self._missing: set[int] = set()  # ids of parameters that the open update has not brought yet
        self._transfer = threading.Lock()
        self.state = WeightState.WHOLE
        self.version = INITIAL_VERSION

    def join(self, init_info: Mapping[str, Any]) -> None:
        """Leave an older transfer group and enter the one `init_info` (vLLM's NCCLWeightTransferInitInfo) describes."""
        try:
            address, port = str(init_info["master_address"]), int(init_info["master_port"])
            rank, world_size = int(init_info["rank_offset"]), int(init_info["world_size"])
        except KeyError as error:
            raise ValueError(
                f"init_info has no {error}; it needs master_address, master_port, rank_offset, world_size"
            ) from error
        self.leave()
        with self._transfer:
            self._group = TransferGroup.join(
                address,
                port,
                rank=rank,
                world_size=world_size,
                backend=self._backend,
                timeout_seconds=self._timeout_seconds,
            )

    def leave(self) -> None:
        """Give up the group; an open update is lost. Does not wait for a transfer that is under way: it will fail."""
        group, self._group = self._group, None
        if group is not None:
            group.abort()
        if self.state == WeightState.OPEN:
            self.state = WeightState.TORN

    def begin(self) -> None:
        """Open an update."""
        if self.state == WeightState.OPEN:
            raise WrongStateError(
                "a weight update is open already; finish it, or give it up by leaving the transfer group"
            )
        if self._group is None:
            raise WrongStateError("there is no transfer group; call /init_weight_transfer_engine first")
        self._missing = {id(parameter) for parameter in self._parameters.values()}
        self.state = WeightState.OPEN

    @torch.no_grad()
    def receive(self, bucket: Bucket) -> None:
        """Receive one bucket into the parameters, in place. A failure tears the update."""
        with self._transfer:
            group = self._group
            if self.state != WeightState.OPEN or group is None:
                raise WrongStateError(
                    f"no weight update is open (the weights are {self.state}); call /start_weight_update first"
                )
            try:
                self._check(bucket)
                buffer = torch.empty(bucket.nbytes, dtype=torch.uint8, device=self._device)
                group.broadcast(buffer)
                for name, tensor in unpack(bucket, buffer):
                    parameter = self._parameters[name]
                    parameter.copy_(tensor)
                    self._missing.discard(id(parameter))
            except (ValueError, TransferError):
                self.state = WeightState.TORN
                raise

    def commit(self, version: str | None) -> None:
        """Close the update. ValueError, and torn weights, when not every parameter came."""
        if self.state != WeightState.OPEN:
            raise WrongStateError(
                f"no weight update is open (the weights are {self.state}); call /start_weight_update first"
            )
        missing = sorted(name for name, parameter in self._parameters.items() if id(parameter) in self._missing)
        if missing:
            self.state = WeightState.TORN
            shown = ", ".join(missing[:MAX_NAMES_IN_ERROR])
            raise ValueError(f"the update brought no values for {len(missing)} parameters ({shown}); send all of them")
        self.state = WeightState.WHOLE
        if version is not None:
            self.version = version

    def checksums(self) -> dict[str, str]:
        """SHA-256 of every parameter; tied ones appear under each of their names."""
        return checksums(self._parameters.items())

    def _check(self, bucket: Bucket) -> None:
        """Refuse a bucket before it is received: afterwards it would be half-way into the model."""
        for spec in bucket.parameters:
            parameter = self._parameters.get(spec.name)
            if parameter is None:
                raise ValueError(f"the model has no parameter {spec.name!r}")
            if tuple(parameter.shape) != spec.shape:
                raise ValueError(
                    f"parameter {spec.name}: the model has shape {tuple(parameter.shape)}, the update {spec.shape}"
                )
