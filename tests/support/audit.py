"""What the API server itself says was ever made in a namespace: watches from before the first object to the last.

An object that was made twice has two uids under one name, whoever made it. This module must not know what is expected.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rltrain_cluster.kubernetes_api import Event, KubernetesApi
from rltrain_operator.kube import Resource

Object = dict[str, Any]
Hear = Callable[[str, Resource, Object], None]


@dataclass
class Audit:
    """By kind (as in URLs) and name, the uids that objects have had, and the objects that are there now."""

    uids: dict[tuple[str, str], set[str]] = field(default_factory=lambda: defaultdict(set))
    present: dict[tuple[str, str], Object] = field(default_factory=dict)

    def note(self, resource: Resource, event: Event) -> None:
        """Enter what a watch told."""
        metadata = event.object["metadata"]
        key = (resource.plural, metadata["name"])
        self.uids[key].add(metadata["uid"])
        if event.kind == "DELETED":
            self.present.pop(key, None)
        else:
            self.present[key] = event.object

    def made(self, prefix: str) -> Mapping[tuple[str, str], int]:
        """How often each object whose name begins so was made, by kind and the rest of its name."""
        return {
            (plural, name.removeprefix(prefix)): len(uids)
            for (plural, name), uids in self.uids.items()
            if name.startswith(prefix)
        }

    def left(self, prefix: str) -> set[tuple[str, str]]:
        """What is there now of all that."""
        return {(plural, name.removeprefix(prefix)) for plural, name in self.present if name.startswith(prefix)}


@contextlib.asynccontextmanager
async def audited(
    api: KubernetesApi, namespace: str, kinds: Iterable[Resource], hear: Hear | None = None
) -> AsyncIterator[Audit]:
    """An audit of these kinds while the block runs; `hear` is told of each event as well."""
    audit = Audit()

    async def follow(resource: Resource) -> None:
        async for event in api.watch(resource.path(namespace)):
            event.object.setdefault("apiVersion", resource.api_version)
            event.object.setdefault("kind", resource.kind)
            audit.note(resource, event)
            if hear is not None:
                hear(event.kind, resource, event.object)

    tasks = [asyncio.create_task(follow(resource), name=resource.plural) for resource in kinds]
    try:
        yield audit
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
