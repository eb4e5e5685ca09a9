"""One operator at a time, by a coordination.k8s.io Lease.

Semantics of client-go: another's lease counts as expired when its record has not changed for its duration on OUR clock;
clocks of different machines are never compared. The holder stops working before its lease can be taken: a holder that
could not renew for `renew_deadline` (less than the duration) returns from `hold`, and the process ends.

A standby looks at the lease more often than its holder renews it, because how late it sees the last renewal and how
late it sees that the lease has run out both add to the time without a leader: 14 s and twice the interval after a
crash, once the interval after a holder that let it go.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime

from rltrain_operator.kube import ApiError, Body, ConflictError, KubeClient, NotFoundError
from rltrain_operator.kube.resources import LEASES

logger = logging.getLogger(__name__)


def _timestamp() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def renewed(lease: Body, identity: str, duration: float, timestamp: str) -> Body:
    """The lease with this identity as its holder, transitions counted."""
    spec = dict(lease.get("spec") or {})
    if spec.get("holderIdentity") != identity:
        spec["leaseTransitions"] = int(spec.get("leaseTransitions") or 0) + 1
        spec["acquireTime"] = timestamp
    spec |= {"holderIdentity": identity, "leaseDurationSeconds": int(duration), "renewTime": timestamp}
    return {**lease, "spec": spec}


class Observation:
    """What this process has seen of the lease: a record, and since when it has not changed on our own clock."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._record: tuple[object, object] | None = None
        self._since = 0.0

    def free_for(self, lease: Body, identity: str) -> bool:
        """Whether this identity may take the lease now."""
        spec = lease.get("spec") or {}
        record = (spec.get("holderIdentity"), spec.get("renewTime"))
        if record != self._record:
            self._record, self._since = record, self._clock()
        if spec.get("holderIdentity") in (identity, "", None):
            return True
        return self._clock() - self._since >= float(spec.get("leaseDurationSeconds") or 0)


class LeaderElector:
    """Times are seconds. `acquire` waits its turn without limit: that is what a standby is for."""

    def __init__(
        self,
        kube: KubeClient,
        *,
        namespace: str,
        name: str,
        identity: str,
        duration: float = 14.0,
        renew_deadline: float = 10.0,
        retry: float = 2.0,
        standby_interval: float = 0.3,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        assert retry < renew_deadline < duration, "the holder must stop before another may begin"
        self._kube = kube
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._duration = duration
        self._renew_deadline = renew_deadline
        self._retry = retry
        self._standby_interval = standby_interval
        self._clock = clock
        self._renewed_at: float | None = None
        self._other_seen_at: float | None = None
        self._observation = Observation(clock)

    async def acquire(self) -> None:
        """Return once the lease is ours."""
        logger.info("waiting for the lease", extra={"lease": f"{self._namespace}/{self._name}"})
        while not await self._try(self._renew_deadline / 2):  # noqa: ASYNC110 - waits for another process
            await asyncio.sleep(self._standby_interval * random.uniform(1.0, 1.2))  # noqa: S311 - spreads load only
        logger.info("leading", extra={"identity": self._identity})

    async def hold(self) -> None:
        """Renew; return when the lease is lost."""
        while (left := self._time_left()) > 0:
            await asyncio.sleep(min(self._retry, left))
            left = self._time_left()
            if left <= 0 or (not await self._try(min(left, self._renew_deadline / 2)) and self._other_seen_at):
                return

    def stands_by(self) -> bool:
        """Whether the API server said a moment ago that another holds the lease: this process can take over."""
        seen = self._other_seen_at
        return seen is not None and self._clock() - seen < self._renew_deadline

    def holds(self) -> bool:
        """Whether the lease is ours and was renewed in time."""
        return self._time_left() > 0

    def _time_left(self) -> float:
        """For how long the holder may go on without another renewal, in seconds."""
        return 0.0 if self._renewed_at is None else self._renewed_at + self._renew_deadline - self._clock()

    async def release(self) -> None:
        """Hand the lease over at once instead of letting it run out; failing to is harmless."""
        try:
            lease = await self._kube.get(LEASES, self._namespace, self._name)
            if (lease.get("spec") or {}).get("holderIdentity") == self._identity:
                lease["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1}
                await self._kube.replace(lease)
        except ApiError as error:
            logger.warning("lease not released", extra={"error": error.message})

    async def _try(self, limit: float) -> bool:
        """One try to take or to renew. False when another holds it or the API server does not help within `limit`."""
        started = self._clock()
        try:
            async with asyncio.timeout(limit):
                taken = await self._take()
        except ConflictError:
            return False
        except (ApiError, TimeoutError) as error:
            logger.warning("lease not renewed", extra={"error": str(error)})
            return False
        # Others may count from when the request was made, so that is when this process counts from too.
        self._renewed_at, self._other_seen_at = (started, None) if taken else (None, self._clock())
        return taken

    async def _take(self) -> bool:
        try:
            lease = await self._kube.get(LEASES, self._namespace, self._name)
        except NotFoundError:
            fresh: Body = {
                "apiVersion": LEASES.api_version,
                "kind": LEASES.kind,
                "metadata": {"name": self._name, "namespace": self._namespace},
            }
            await self._kube.create(renewed(fresh, self._identity, self._duration, _timestamp()))
            return True
        if not self._observation.free_for(lease, self._identity):
            return False
        # The resourceVersion that was read goes back with it: of two that try at once, one gets a conflict.
        await self._kube.replace(renewed(lease, self._identity, self._duration, _timestamp()))
        return True
