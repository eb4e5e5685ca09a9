"""The workers that take keys from the queue and reconcile them, and the resync that feeds it."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Sequence
from datetime import UTC, datetime

from pydantic import ValidationError

from rltrain_operator import logs
from rltrain_operator.cache import Cache, Key
from rltrain_operator.driver_client import DriverUnavailableError
from rltrain_operator.kube import ApiError, ConflictError, Resource, TooManyRequestsError
from rltrain_operator.metrics import Metrics
from rltrain_operator.queue import WorkQueue
from rltrain_operator.rayjobs import RayUnavailableError
from rltrain_operator.reconcile.controller import Controller
from rltrain_operator.resync import RESYNC_SECONDS, Lister, resync

logger = logging.getLogger(__name__)

WORKERS = 16
STUCK_SECONDS = 120.0
CONFLICT_RETRY_SECONDS = 0.2
# A driver that is polled answers slowly to many at once when all polls fall on the same second.
REQUEUE_JITTER = 0.1


class Workers:
    """Start after the caches are filled; `stop` waits for the passes that are under way."""

    def __init__(
        self,
        queue: WorkQueue[Key],
        controller: Controller,
        cache: Cache,
        lister: Lister,
        namespaces: Sequence[str | None],
        metrics: Metrics,
    ) -> None:
        self._queue = queue
        self._controller = controller
        self._cache = cache
        self._lister = lister
        self._namespaces = namespaces
        self._metrics = metrics
        self._tasks: list[asyncio.Task[None]] = []
        self._busy = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._stopping = False
        self._ended_a_pass = time.monotonic()

    async def fill_caches(self) -> tuple[Resource, ...]:
        """List everything before the first decision: a child not seen yet must not look like a missing one.

        Returns the kinds that the API server serves.
        """
        return await resync(self._lister, self._cache, self._namespaces, lambda _resource, key: self._queue.add(key))

    def start(self) -> None:
        """Begin to work."""
        self._ended_a_pass = time.monotonic()
        self._tasks = [asyncio.create_task(self._work(), name=f"worker-{number}") for number in range(WORKERS)]
        self._tasks.append(asyncio.create_task(self._resync_forever(), name="resync"))

    async def stop(self, grace: float = 10.0) -> None:
        """Take no more keys, wait at most `grace` seconds for passes under way, then end."""
        self._stopping = True
        try:
            await asyncio.wait_for(self._idle.wait(), grace)
        except TimeoutError:
            logger.warning("passes cut short", extra={"passes": self._busy})
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def trouble(self) -> str | None:
        """What is wrong with the workers, or None: the liveness signal."""
        dead = [task.get_name() for task in self._tasks if task.done() and not self._stopping]
        if dead:
            return f"ended unexpectedly: {', '.join(dead)}"
        waited, idle = self._queue.oldest_wait(), time.monotonic() - self._ended_a_pass
        if min(waited, idle) <= STUCK_SECONDS:
            return None  # a long queue alone is no reason to restart: it would be just as long after it
        return f"a job has waited {waited:.0f} s for a worker, and no pass has ended for {idle:.0f} s"

    def refresh_metrics(self) -> None:
        """Bring the gauges up to date."""
        self._metrics.queue_depth.set(len(self._queue))
        self._metrics.queue_oldest_seconds.set(self._queue.oldest_wait())
        self._metrics.count_jobs(self._cache.jobs())
        self._metrics.observe_clusters(self._cache.jobs(), datetime.now(UTC))

    async def _work(self) -> None:
        while True:
            key = await self._queue.get()
            if self._stopping:
                return
            self._busy += 1
            self._idle.clear()
            started = time.monotonic()
            try:
                with logs.about("/".join(key)):
                    await self._pass(key)
            finally:
                self._ended_a_pass = time.monotonic()
                self._metrics.reconcile_seconds.observe(self._ended_a_pass - started)
                self._busy -= 1
                if not self._busy:
                    self._idle.set()
                self._queue.done(key)

    async def _pass(self, key: Key) -> None:
        job = "/".join(key)
        try:
            again = await self._controller.reconcile(key)
        except ConflictError as error:
            # Somebody changed the job since our copy; the watch brings the new one in a moment.
            self._metrics.reconcile_failures.labels("Conflict").inc()
            logger.info("conflict", extra={"job": job, "error": error.message})
            self._queue.retry(key, at_least=CONFLICT_RETRY_SECONDS)
        except (ApiError, RayUnavailableError, DriverUnavailableError) as error:
            self._metrics.reconcile_failures.labels(type(error).__name__).inc()
            at_least = error.retry_after or 0.0 if isinstance(error, TooManyRequestsError) else 0.0
            delay = self._queue.retry(key, at_least=at_least)
            logger.warning("retrying", extra={"job": job, "error": str(error), "seconds": round(delay, 1)})
        except (AssertionError, KeyError, TypeError, ValueError, ValidationError):
            # A defect of ours, or data nobody foresaw: this one job backs off, the others go on.
            self._metrics.reconcile_failures.labels("Defect").inc()
            delay = self._queue.retry(key, at_least=10.0)
            logger.exception("defect", extra={"job": job, "seconds": round(delay, 1)})
        else:
            self._queue.forget(key)
            if again is not None:
                spread = 1.0 + random.uniform(-REQUEUE_JITTER, REQUEUE_JITTER)  # noqa: S311 - spreads load only
                self._queue.add_after(key, again * spread)

    async def _resync_forever(self) -> None:
        while True:
            await asyncio.sleep(RESYNC_SECONDS * random.uniform(0.8, 1.2))  # noqa: S311 - spreads load only
            try:
                await resync(self._lister, self._cache, self._namespaces, self._drifted)
            except ApiError as error:
                logger.warning("resync failed", extra={"error": error.message})

    def _drifted(self, resource: Resource, key: Key) -> None:
        self._metrics.drift.labels(resource.plural).inc()
        self._queue.add(key)
