"""Kopf, and nothing but: it lists and watches a handful of kinds and tells the caches and the queue what it saw.

Only low-level `on.event` handlers: they neither write to the objects nor keep state in them, return in microseconds and
never raise. Peering, finalizers, annotations, Events and handler retries of kopf's are switched off; leadership,
retries and status are ours.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import kopf

from rltrain_operator.cache import OPTIONAL_CHILDREN, WATCHED_CHILDREN, Cache, Key, selector_of
from rltrain_operator.kube import Body, Connection, Resource
from rltrain_operator.queue import WorkQueue


class NoDiffBase(kopf.DiffBaseStorage):
    """Keeps nothing: kopf otherwise copies every object it sees, handlers or not, at four fifths of its CPU time."""

    def build(self, *, body: kopf.Body, extra_fields: Any = None) -> kopf.BodyEssence:
        """Nothing of the object matters to kopf."""
        return kopf.BodyEssence({})

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:
        """Nothing was kept."""
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        """Keep nothing."""


class NoProgress(kopf.ProgressStorage):
    """Keeps nothing: there are no handlers whose progress could be kept."""

    def fetch(self, *, key: Any, body: kopf.Body) -> Any:
        """Nothing was kept."""
        return None

    def store(self, *, key: Any, record: Any, body: kopf.Body, patch: kopf.Patch) -> None:
        """Keep nothing."""

    def purge(self, *, key: Any, body: kopf.Body, patch: kopf.Patch) -> None:
        """Nothing was kept."""

    def touch(self, *, body: kopf.Body, patch: kopf.Patch, value: str | None) -> None:
        """Keep nothing."""

    def clear(self, *, essence: kopf.BodyEssence) -> kopf.BodyEssence:
        """There is nothing of ours in the object."""
        return essence


def make_settings() -> kopf.OperatorSettings:
    """Kopf as an event pump. The numbers ride out two and a half minutes of an API server that answers with errors."""
    settings = kopf.OperatorSettings()
    settings.peering.standalone = True
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.watching.chunk_size = 500
    settings.watching.server_timeout = 300
    settings.watching.connect_timeout = 10
    for resource in (*WATCHED_CHILDREN, *OPTIONAL_CHILDREN):
        settings.watching.label_selectors[resource.plural] = selector_of(resource)
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 5
    settings.networking.error_backoffs = (1, 1, 2, 3, 5, 8, 13, 21, 30, 30, 30)
    settings.networking.enforce_retry_after = True
    settings.queueing.idle_timeout = 1.0
    settings.persistence.diffbase_storage = NoDiffBase()
    settings.persistence.progress_storage = NoProgress()
    settings.process.ultimate_exiting_timeout = 60
    return settings


def make_registry(
    cache: Cache,
    queue: WorkQueue[Key],
    login: Callable[[], kopf.ConnectionInfo],
    stop: Callable[[], Awaitable[None]],
    kinds: Sequence[Resource],
) -> kopf.OperatorRegistry:
    """One handler for each of `kinds`, a login, and `stop`, which runs before kopf cancels what is left."""
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    def log_in(**_: Any) -> kopf.ConnectionInfo:
        return login()

    @kopf.on.cleanup(registry=registry)
    async def clean_up(**_: Any) -> None:
        await stop()

    for resource in kinds:
        _watch(registry, resource, cache, queue)
    return registry


def _watch(registry: kopf.OperatorRegistry, resource: Resource, cache: Cache, queue: WorkQueue[Key]) -> None:
    group, _, version = resource.api_version.rpartition("/")

    async def note(*, event: kopf.RawEvent, **_: Any) -> None:
        body: Body = dict(event["object"])
        gone = event["type"] == "DELETED"
        key = cache.remove(resource, body) if gone else cache.upsert(resource, body)
        if key is not None:
            queue.add(key)

    kopf.on.event(group, version, resource.plural, registry=registry, id=f"note-{resource.plural}")(note)


def connection_info(connection: Connection) -> kopf.ConnectionInfo:
    """Our connection in kopf's words; on a 401 kopf asks for it again, which is when a rotated token is read."""
    token = connection.token_file.read_text().strip() if connection.token_file else connection.token
    return kopf.ConnectionInfo(
        server=connection.server,
        ca_data=connection.ca_data,
        insecure=not connection.verify,
        token=token,
        certificate_data=connection.certificate_data,
        private_key_data=connection.key_data,
    )


async def watch(
    cache: Cache,
    queue: WorkQueue[Key],
    *,
    connection: Connection,
    namespaces: Sequence[str],
    kinds: Sequence[Resource],
    stop_flag: asyncio.Event,
    listen_for_signals: Callable[[], None],
    stop: Callable[[], Awaitable[None]],
) -> None:
    """Run kopf until `stop_flag` is set or a watch fails for good; `namespaces` empty means the whole cluster."""
    ours = asyncio.all_tasks()
    tasks = await kopf.spawn_tasks(
        registry=make_registry(cache, queue, lambda: connection_info(connection), stop, kinds),
        settings=make_settings(),
        clusterwide=not namespaces,
        namespaces=namespaces,
        stop_flag=stop_flag,
    )
    # Kopf has just put its own signal handlers in place of ours; with those it takes 5 s longer to stop.
    listen_for_signals()
    await kopf.run_tasks(tasks, ignored=ours)
