"""/healthz, /readyz and /metrics over HTTP.

Healthy: the workers run and no key has waited too long. Ready: this process leads and its caches are filled; a standby
is not ready, and needs not be: nothing is sent to it.
"""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest


def make_health_app(healthy: Callable[[], str | None], ready: Callable[[], bool]) -> web.Application:
    """`healthy` returns what is wrong, or None."""

    async def healthz(_: web.Request) -> web.Response:
        wrong = healthy()
        return web.Response(text=wrong or "ok", status=503 if wrong else 200)

    async def readyz(_: web.Request) -> web.Response:
        return web.Response(text="ok" if ready() else "standing by", status=200 if ready() else 503)

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
