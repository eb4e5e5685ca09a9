"""Whether the nodes that there are can ever hold a job's pods: asked while its cluster is not ready.

The nodes are listed at most once a minute for all jobs together, and not watched: they matter only while somebody
waits, and a cluster of thousands tells of each of them all the time. An operator that may not list nodes (because it
is confined to namespaces) says nothing about them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace

from rltrain_api.job import RLTrainingJob
from rltrain_operator.kube import ApiError, ForbiddenError
from rltrain_operator.kube.resources import NODES
from rltrain_operator.plan import cluster_hash, plan_ray_cluster
from rltrain_operator.plan.capacity import Node, read_node, shortfalls, wanted_pods
from rltrain_operator.reconcile.state import Observed, Subject
from rltrain_operator.resync import Lister

logger = logging.getLogger(__name__)

FRESH_SECONDS = 60.0


class NodeWatch:
    """The nodes of the cluster as they were at most a minute ago; `clock` counts seconds."""

    def __init__(self, lister: Lister, clock: Callable[[], float] = time.monotonic) -> None:
        self._lister = lister
        self._clock = clock
        self._lock = asyncio.Lock()
        self._nodes: list[Node] | None = None
        self._due: float | None = None
        self._shortfalls: dict[tuple[str, int], tuple[str, ...]] = {}

    async def nodes(self) -> list[Node] | None:
        """All nodes, or None where they cannot be had."""
        async with self._lock:
            if self._due is None or self._clock() >= self._due:
                self._nodes = await self._list()
                self._due = self._clock() + FRESH_SECONDS
                self._shortfalls.clear()
            return self._nodes

    async def shortfalls(self, job: RLTrainingJob) -> tuple[str, ...]:
        """What of the job's pods those nodes can never hold; nothing where they cannot be had."""
        nodes, key = await self.nodes(), (job.metadata.uid, job.metadata.generation)
        if nodes is None:
            return ()
        if key not in self._shortfalls:
            self._shortfalls[key] = tuple(shortfalls(wanted_pods(plan_ray_cluster(job)), nodes))
        return self._shortfalls[key]

    async def _list(self) -> list[Node] | None:
        try:
            return [read_node(body) async for body in self._lister.list_objects(NODES, None)]
        except ForbiddenError:
            logger.debug("nodes may not be listed; whether pods can ever fit is not judged")
        except ApiError as error:
            logger.info("nodes not listed", extra={"error": error.message})
        return None


async def with_shortfalls(observed: Observed, subject: Subject, watch: NodeWatch) -> Observed:
    """The same, with what can never fit the nodes; nothing while the cluster is ready, held back or another's plan."""
    cluster, job = observed.cluster, subject.job
    if cluster is None or job is None or cluster.ready or cluster.deleting or cluster.spec_hash != cluster_hash(job):
        return observed
    return replace(observed, shortfalls=await watch.shortfalls(job))
