"""The second source of truth: a full LIST now and then, compared with the caches.

Watches lose deletions that happen while they are disconnected, and may die silently. Before the workers start, and
every ten minutes after that, everything is listed page by page; what the caches did not know is drift, is counted,
and puts the job into the queue.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

from rltrain_operator.cache import OPTIONAL_CHILDREN, WATCHED_CHILDREN, Cache, Key, selector_of
from rltrain_operator.kube import Body, NotFoundError, Resource
from rltrain_operator.kube.resources import RL_TRAINING_JOBS

logger = logging.getLogger(__name__)

RESYNC_SECONDS = 600.0


class Lister(Protocol):
    """The listing half of the Kubernetes client."""

    def list_objects(
        self, resource: Resource, namespace: str | None, *, label_selector: str = ""
    ) -> AsyncIterator[Body]: ...


async def resync(
    lister: Lister,
    cache: Cache,
    namespaces: Sequence[str | None],
    changed: Callable[[Resource, Key], None],
) -> tuple[Resource, ...]:
    """List everything once and call `changed` for each object the cache did not know as it is.

    `namespaces` is [None] for the whole cluster. Returns the kinds that are served. ValueError names one that is not,
    and that the operator cannot do without.
    """
    served = []
    for resource in (RL_TRAINING_JOBS, *WATCHED_CHILDREN, *OPTIONAL_CHILDREN):
        selector = selector_of(resource)
        # The list is newer than this copy; an object that a watch adds in between is not in it and stays.
        missing = cache.known(resource)
        try:
            for namespace in namespaces:
                async for body in lister.list_objects(resource, namespace, label_selector=selector):
                    metadata = body["metadata"]
                    missing.pop((metadata["namespace"], metadata["name"]), None)
                    key = cache.upsert(resource, body)
                    if key is not None:
                        changed(resource, key)
        except NotFoundError as error:
            if resource in OPTIONAL_CHILDREN:
                continue
            raise ValueError(
                f"the API server does not serve {resource.plural} ({resource.api_version}): install its "
                "CustomResourceDefinition (our chart has ours, KubeRay's chart has rayclusters) and start again"
            ) from error
        served.append(resource)
        for body in missing.values():
            key = cache.remove(resource, body)
            if key is not None:
                changed(resource, key)
    return tuple(served)
