"""The trainer ranks as Ray actors, and the group of them that the loop talks to.

Actors are made first and numbered afterwards, sorted by node, so that ranks of one node are neighbours whatever Ray's
scheduler did (SkyRL #1308 is the bug that this order prevents).
"""

from __future__ import annotations

import asyncio
import collections
import os
import socket
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import ray
import torch
import torch.distributed as dist

from rltrain_api.config import SkyRLTrainConfig
from rltrain_trainer.data.batch import TrainBatch
from rltrain_trainer.driver.failures import DriverFailureError
from rltrain_trainer.fsdp.policy import PolicyRank
from rltrain_trainer.weight_sync.buckets import Bucket
from rltrain_trainer.weight_sync.sender import WeightSender

COLLECTIVE_TIMEOUT = timedelta(seconds=600)
POLICY_DIRECTORY = "policy"


def free_port() -> int:
    """A TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def node_address() -> str:
    """The address of this node in the Ray cluster."""
    address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]  # Ray leaves it unannotated
    return address


class Rank:
    """One trainer rank: PolicyRank on its device, WeightSender on rank 0. Lives in a Ray actor."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._config = SkyRLTrainConfig.model_validate(config)
        self._policy: PolicyRank | None = None
        self._sender: WeightSender | None = None

    def place(self) -> tuple[str, str, list[int]]:
        """(node id, address, accelerator ids): what ranks are ordered by."""
        context = ray.get_runtime_context()
        accelerators = [int(index) for index in context.get_accelerator_ids().get("GPU", [])]
        return context.get_node_id(), node_address(), accelerators

    def free_port(self) -> int:
        """A port for the rendezvous of the ranks, on this rank's node."""
        return free_port()

    def join(self, rank: int, world_size: int, address: str, port: int) -> None:
        """Form the default process group with the other ranks."""
        os.environ.update(MASTER_ADDR=address, MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(world_size))
        if torch.cuda.is_available():
            torch.cuda.set_device(0)  # Ray shows each rank its own GPU only
            backend = "cpu:gloo,cuda:nccl"
        else:
            torch.set_num_threads(1)  # ranks and engines share the cores of a node
            backend = "gloo"
        dist.init_process_group(backend, rank=rank, world_size=world_size, timeout=COLLECTIVE_TIMEOUT)
        if rank == 0:
            self._sender = WeightSender(backend=self._transfer_backend())

    def _transfer_backend(self) -> str:
        wanted = self._config.generator.inference_engine.weight_sync_backend
        if wanted == "nccl" and not torch.cuda.is_available():
            raise ValueError(
                "generator.inference_engine.weight_sync_backend: nccl needs GPUs, and this trainer has none; "
                "set it to gloo"
            )
        return wanted

    def load(self, total_steps: int, checkpoint: str | None) -> None:
        """Load the model, then the checkpoint if there is one."""
        self._policy = PolicyRank(self._config, total_steps=total_steps)
        if checkpoint is not None:
            self._policy.load(Path(checkpoint) / POLICY_DIRECTORY)

    @property
    def policy(self) -> PolicyRank:
        """The loaded policy."""
        assert self._policy is not None, "load() comes before everything that needs the model"
        return self._policy

    @property
    def sender(self) -> WeightSender:
        """Rank 0's end of the weight sync."""
        assert self._sender is not None, "only rank 0 sends weights"
        return self._sender

    def logprobs(self, batch: TrainBatch) -> torch.Tensor:
        """Log-probabilities of this rank's rows, `[batch / world size, response]`."""
        return self.policy.logprobs(batch.shard(dist.get_rank(), dist.get_world_size()))

    def update(self, batch: TrainBatch) -> dict[str, float]:
        """Train on the whole batch; every rank takes its own shard and returns the same metrics."""
        return self.policy.update(batch)

    def save(self, directory: str) -> None:
        """Write this rank's shards below `directory`."""
        self.policy.save(Path(directory) / POLICY_DIRECTORY)

    def join_engines(self, address: str, port: int, world_size: int, timeout_seconds: float) -> None:
        """Rank 0 only: form the transfer group with the engines."""
        self.sender.join(address, port, world_size, timeout_seconds)

    @ray.method(concurrency_group="control")
    def leave_engines(self) -> None:
        """Rank 0 only: leave the transfer group."""
        self.sender.leave()

    def stage(self) -> list[Bucket]:
        """Gather the full parameters (all ranks) and pack them into buckets (rank 0, which returns them)."""
        parameters = self.policy.gather_parameters()
        if self._sender is not None:
            return self._sender.stage(parameters)
        collections.deque(parameters, maxlen=0)  # a gather is a collective: every rank takes part, rank 0 keeps it
        return []

    def broadcast(self, bucket_index: int) -> None:
        """Rank 0 only: send one staged bucket to the engines."""
        self.sender.broadcast(bucket_index)


# Calls run one after the other on one thread; leave_engines has a thread of its own, because it must end a broadcast
# that hangs on the first. (Any: Ray's annotations do not know concurrency groups.)
_as_actor: Any = ray.remote
RankActor = _as_actor(
    num_cpus=0, num_gpus=1, resources={"trainer": 1}, max_restarts=0, concurrency_groups={"control": 1}
)(Rank)


class RankGroup:
    """All trainer ranks of one attempt, driven together: the loop's Policy and the weight sync's SenderHandle."""

    def __init__(self, actors: Sequence[Any]) -> None:
        self._actors = list(actors)
        self._buckets: list[Bucket] = []

    @classmethod
    async def start(cls, config: SkyRLTrainConfig, *, deadline_seconds: float) -> RankGroup:
        """Make the actors, number them, form the process group."""
        placement = config.trainer.placement
        world_size = placement.policy_num_nodes * placement.policy_num_gpus_per_node
        document = config.model_dump(mode="json")
        actors = [RankActor.remote(document) for _ in range(world_size)]
        try:
            async with asyncio.timeout(deadline_seconds):
                places = await asyncio.gather(*(actor.place.remote() for actor in actors))
                order = sorted(range(world_size), key=lambda index: (places[index][0], places[index][2], index))
                ranked = [actors[index] for index in order]
                address = places[order[0]][1]
                port = await ranked[0].free_port.remote()
                await asyncio.gather(
                    *(actor.join.remote(rank, world_size, address, port) for rank, actor in enumerate(ranked))
                )
        except TimeoutError as error:
            raise DriverFailureError(
                "RanksNotPlaced",
                f"{world_size} trainer ranks did not start within {deadline_seconds:.0f} s",
                remedy="check that the trainer pods offer that many GPUs and are Ready",
                role="trainer",
            ) from error
        return cls(ranked)

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return len(self._actors)

    async def _all(self, method: str, *arguments: Any) -> list[Any]:
        """Call `method` on every rank; the first failure is raised at once, not after the others' time-outs."""
        return list(await asyncio.gather(*(getattr(actor, method).remote(*arguments) for actor in self._actors)))

    async def load(self, total_steps: int, checkpoint: Path | None) -> None:
        """Load model and checkpoint on every rank."""
        await self._all("load", total_steps, None if checkpoint is None else str(checkpoint))

    async def logprobs(self, batch: TrainBatch) -> torch.Tensor:
        """Log-probabilities of every response token under the policy, `[batch, response]`."""
        shards: list[torch.Tensor] = await self._all("logprobs", ray.put(batch))
        return torch.cat(shards)

    async def update(self, batch: TrainBatch) -> dict[str, float]:
        """One training step over the whole batch."""
        metrics: list[dict[str, float]] = await self._all("update", ray.put(batch))
        return metrics[0]

    async def save(self, directory: Path) -> None:
        """Write the shards of all ranks below `directory`, a path that all ranks share."""
        await self._all("save", str(directory))

    @property
    def buckets(self) -> list[Bucket]:
        """What the newest `stage` packed."""
        return self._buckets

    async def stage(self) -> None:
        """Gather and pack the current weights on rank 0."""
        packed: list[list[Bucket]] = await self._all("stage")
        self._buckets = packed[0]

    async def broadcast(self, bucket_index: int) -> None:
        """Send one staged bucket to every engine of the transfer group."""
        await self._actors[0].broadcast.remote(bucket_index)

    async def address(self) -> str:
        """Where rank 0 can be reached by the engines."""
        place: tuple[str, str, list[int]] = await self._actors[0].place.remote()
        return place[1]

    async def free_port(self) -> int:
        """A port on rank 0's node for a rendezvous with the engines."""
        port: int = await self._actors[0].free_port.remote()
        return port

    async def join_engines(self, address: str, port: int, world_size: int, timeout_seconds: float) -> None:
        """Form the transfer group: rank 0 and all engines."""
        await self._actors[0].join_engines.remote(address, port, world_size, timeout_seconds)

    async def leave_engines(self) -> None:
        """Leave the transfer group."""
        await self._actors[0].leave_engines.remote()
