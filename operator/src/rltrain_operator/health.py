"""/healthz, /readyz and /metrics over HTTP.

Healthy: the event loop answers, the workers run, and no job waits while nothing is done; else the container is to be
restarted. Ready: this process does its part. As a leader, its caches are filled, its workers run and its lease is
renewed in time; as a standby, the API server answers it and it can take over. Neither is ready while it stops.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest


@dataclass(frozen=True)
class Readiness:
    """Whether this process does its part, and in words why or why not."""

    ready: bool
    words: str


def readiness(*, stopping: bool, working: bool, holds: bool, stands_by: bool) -> Readiness:
    """What /readyz says.

    Args:
        stopping: The process was told to end.
        working: The caches are filled and the workers run.
        holds: The lease is this process's and was renewed in time.
        stands_by: Another was seen to hold it a moment ago.
    """
    if stopping:
        return Readiness(False, "stopping")
    if working:
        return Readiness(holds, "leading" if holds else "the lease was not renewed in time")
    if holds:
        return Readiness(False, "leading, and filling its caches")
    return Readiness(stands_by, "standing by" if stands_by else "the API server has not said who leads")


def make_health_app(healthy: Callable[[], str | None], ready: Callable[[], Readiness]) -> web.Application:
    """`healthy` returns what is wrong, or None."""

    async def healthz(_: web.Request) -> web.Response:
        wrong = healthy()
        return web.Response(text=wrong or "ok", status=503 if wrong else 200)

    async def readyz(_: web.Request) -> web.Response:
        found = ready()
        return web.Response(text=found.words, status=200 if found.ready else 503)

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz)])
    return app


def make_metrics_app(registry: CollectorRegistry, refresh: Callable[[], None]) -> web.Application:
    """`refresh` brings gauges up to date just before they are read."""

    async def metrics(_: web.Request) -> web.Response:
        refresh()
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes([web.get("/metrics", metrics)])
    return app


async def serve(app: web.Application, port: int) -> web.AppRunner:
    """Listen on all addresses; the caller cleans the runner up."""
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "0.0.0.0", port).start()  # noqa: S104 - probes and Prometheus come from other addresses
    return runner
