"""The trainer ranks of a run as the loop sees them: one object for all pools of ranks.

Actors are made first and numbered afterwards, sorted by node, so that ranks of one node are neighbours whatever Ray's
scheduler did (SkyRL #1308 is the bug that this order prevents).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import ray
import torch

from rltrain_api.config import SkyRLTrainConfig
from rltrain_trainer.checkpoint.manifest import FileRecord
from rltrain_trainer.data.batch import TrainBatch
from rltrain_trainer.driver.failures import DriverFailureError
from rltrain_trainer.driver.rank_actor import RankActor
from rltrain_trainer.driver.rank_pools import CRITIC, POLICY, REFERENCE, RankPool, rank_pools
from rltrain_trainer.fsdp.minibatches import reference_is_the_policy
from rltrain_trainer.weight_sync.buckets import Bucket


class PoolRanks:
    """The ranks of one pool, in the order of their numbers."""

    def __init__(self, pool: RankPool, actors: Sequence[Any]) -> None:
        self.pool = pool
        self.actors = list(actors)

    @classmethod
    async def start(
        cls, pool: RankPool, config: SkyRLTrainConfig, *, deadline_seconds: float, modules: Sequence[str]
    ) -> PoolRanks:
        """Make the actors, number them, form their process group."""
        document = config.model_dump(mode="json")
        placed = RankActor.options(resources={pool.resource: 1})
        actors = [placed.remote(document, pool.models, modules) for _ in range(pool.ranks)]
        try:
            async with asyncio.timeout(deadline_seconds):
                places = await asyncio.gather(*(actor.place.remote() for actor in actors))
                order = sorted(range(pool.ranks), key=lambda index: (places[index][0], places[index][2], index))
                ranked = [actors[index] for index in order]
                address = places[order[0]][1]
                port = await ranked[0].free_port.remote()
                await asyncio.gather(
                    *(actor.join.remote(rank, pool.ranks, address, port) for rank, actor in enumerate(ranked))
                )
        except TimeoutError as error:
            raise DriverFailureError(
                "RanksNotPlaced",
                f"{pool.ranks} {pool.resource} ranks did not start within {deadline_seconds:.0f} s",
                remedy=f"check that the {pool.resource} pods offer that many GPUs and are Ready",
                role=pool.resource,
            ) from error
        return cls(pool, ranked)

    async def all(self, method: str, *arguments: Any) -> list[Any]:
        """Call `method` on every rank; the first failure is raised at once, not after the others' time-outs."""
        return list(await asyncio.gather(*(getattr(actor, method).remote(*arguments) for actor in self.actors)))

    async def rows(self, method: str, batch: TrainBatch) -> torch.Tensor:
        """What `method` says of the rows of each rank, put together, [batch, response]."""
        parts: list[torch.Tensor | None] = await self.all(method, ray.put(batch))
        return torch.cat([part for part in parts if part is not None])


class RankGroup:
    """All trainer ranks of one attempt, driven together: the loop's Policy and the weight sync's SenderHandle."""

    def __init__(self, config: SkyRLTrainConfig, pools: Sequence[PoolRanks]) -> None:
        self._config = config
        self._pools = list(pools)
        self._pool_of = {model: ranks for ranks in pools for model in ranks.pool.models}
        self._buckets: list[Bucket] = []

    @classmethod
    async def start(
        cls, config: SkyRLTrainConfig, *, deadline_seconds: float, modules: Sequence[str] = ()
    ) -> RankGroup:
        """Start the ranks of all pools side by side. DriverFailureError when those of one do not come."""
        starting = (
            PoolRanks.start(pool, config, deadline_seconds=deadline_seconds, modules=modules)
            for pool in rank_pools(config)
        )
        return cls(config, await asyncio.gather(*starting))

    @property
    def world_size(self) -> int:
        """Number of the policy's ranks."""
        return len(self._policy.actors)

    @property
    def _policy(self) -> PoolRanks:
        return self._pool_of[POLICY]

    async def _everywhere(self, method: str, *arguments: Any) -> list[Any]:
        """Call `method` on all ranks of all pools."""
        parts = await asyncio.gather(*(pool.all(method, *arguments) for pool in self._pools))
        return [result for part in parts for result in part]

    async def load(self, total_steps: int, checkpoint: str | None) -> None:
        """Load the models on every rank, and what `save` wrote into that directory where there is one."""
        await self._everywhere("load", total_steps, checkpoint)

    async def logprobs(self, batch: TrainBatch) -> torch.Tensor:
        """Log-probabilities of every response token under the policy, `[batch, response]`."""
        return await self._policy.rows("logprobs", batch)

    async def reference_logprobs(self, batch: TrainBatch) -> torch.Tensor:
        """The same under the frozen reference."""
        pool = self._policy if reference_is_the_policy(self._config) else self._pool_of[REFERENCE]
        return await pool.rows("reference_logprobs", batch)

    async def values(self, batch: TrainBatch) -> torch.Tensor:
        """The critic's value of every response token, `[batch, response]`."""
        return await self._pool_of[CRITIC].rows("values", batch)

    async def update(self, batch: TrainBatch) -> dict[str, float]:
        """One training step of the policy over the whole batch."""
        metrics: list[dict[str, float]] = await self._policy.all("update", ray.put(batch))
        return metrics[0]

    async def update_critic(self, batch: TrainBatch) -> dict[str, float]:
        """One training step of the critic over the whole batch, which has values and returns."""
        metrics: list[dict[str, float]] = await self._pool_of[CRITIC].all("update_critic", ray.put(batch))
        return metrics[0]

    async def refresh_reference(self) -> None:
        """Make the reference what the policy is now."""
        reference = self._pool_of[REFERENCE]
        if reference is self._policy:
            await reference.all("refresh_reference")
            return
        parameters = [actor.policy_parameters.remote() for actor in self._policy.actors]
        await reference.all("take_reference", parameters[0])
        await asyncio.gather(*parameters[1:])  # those that had a part in it; one that failed is heard

    async def export(self, directory: str) -> None:
        """Write the policy as a directory that transformers loads, at a path or a URL."""
        await self._policy.all("export", directory)

    async def export_critic(self, directory: str) -> None:
        """As `export`, the critic."""
        await self._pool_of[CRITIC].all("export_critic", directory)

    async def save(self, directory: str) -> None:
        """Copy the state of all ranks and begin to write it below `directory`, a path or URL that all ranks share."""
        await self._everywhere("save", directory)

    async def written(self) -> dict[str, FileRecord]:
        """All files of the save, by their paths below its directory, once all ranks have written."""
        records: list[dict[str, FileRecord]] = await self._everywhere("written")
        return {name: record for of_rank in records for name, record in of_rank.items()}

    @property
    def buckets(self) -> list[Bucket]:
        """What the newest `stage` packed."""
        return self._buckets

    async def stage(self) -> None:
        """Gather and pack the current weights on rank 0."""
        packed: list[list[Bucket]] = await self._policy.all("stage")
        self._buckets = packed[0]

    async def broadcast(self, bucket_index: int) -> None:
        """Send one staged bucket to every engine of the transfer group."""
        await self._policy.actors[0].broadcast.remote(bucket_index)

    async def address(self) -> str:
        """Where rank 0 can be reached by the engines."""
        place: tuple[str, str, list[int]] = await self._policy.actors[0].place.remote()
        return place[1]

    async def free_port(self) -> int:
        """A port on rank 0's node for a rendezvous with the engines."""
        port: int = await self._policy.actors[0].free_port.remote()
        return port

    async def join_engines(self, address: str, port: int, world_size: int, timeout_seconds: float) -> None:
        """Form the transfer group: rank 0 and all engines."""
        await self._policy.actors[0].join_engines.remote(address, port, world_size, timeout_seconds)

    async def leave_engines(self) -> None:
        """Leave the transfer group."""
        await self._policy.actors[0].leave_engines.remote()
