"""The HTTP server that the operator polls.

It must know neither Ray nor torch: it reads a RunState and sets requests on it.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Awaitable, Callable

from aiohttp import web
from pydantic import ValidationError

from rltrain_api.wire import CheckpointRequest, EnginesRequest, StopRequest
from rltrain_trainer.tracking.run_state import RunState

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
MAX_BODY_BYTES = 64 * 1024


def make_app(state: RunState, token: str) -> web.Application:
    """The driver contract over `state`; every route needs `Authorization: Bearer <token>`."""
    if not token:
        raise ValueError("the driver's token is empty: RLTRAIN_DRIVER_TOKEN must come from the job's Secret")

    @web.middleware
    async def authenticate(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get("Authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
            return web.json_response({"error": "a valid bearer token is needed"}, status=401)
        return await handler(request)

    async def status(_: web.Request) -> web.Response:
        return web.Response(text=state.status().model_dump_json(by_alias=True), content_type="application/json")

    async def history(_: web.Request) -> web.Response:
        return web.Response(text=state.history().model_dump_json(by_alias=True), content_type="application/json")

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(text=prometheus_text(state), content_type="text/plain")

    async def checkpoint(request: web.Request) -> web.Response:
        try:
            wanted = CheckpointRequest.model_validate_json(await request.read() or b"{}")
        except ValidationError as error:
            return web.json_response({"error": str(error)}, status=400)
        state.request_checkpoint(wanted.request)
        return web.json_response({"accepted": "a checkpoint is written at the next step boundary"}, status=202)

    async def stop(request: web.Request) -> web.Response:
        try:
            wanted = StopRequest.model_validate_json(await request.read() or b"{}")
        except ValidationError as error:
            return web.json_response({"error": str(error)}, status=400)
        state.request_stop(checkpoint=wanted.checkpoint, deadline_seconds=wanted.deadline_seconds)
        return web.json_response({"accepted": "the driver stops at the next step boundary"}, status=202)

    async def engines(request: web.Request) -> web.Response:
        try:
            wanted = EnginesRequest.model_validate_json(await request.read() or b"{}")
        except ValidationError as error:
            return web.json_response({"error": str(error)}, status=400)
        if state.engines_wanted is None:
            return web.json_response({"error": "the driver has not read its configuration yet"}, status=409)
        state.want_engines(wanted.desired)
        return web.json_response({"accepted": f"{wanted.desired} engines are kept from now on"}, status=202)

    app = web.Application(middlewares=[authenticate], client_max_size=MAX_BODY_BYTES)
    app.add_routes(
        [
            web.get("/status", status),
            web.get("/history", history),
            web.get("/metrics", metrics),
            web.post("/checkpoint", checkpoint),
            web.post("/stop", stop),
            web.put("/engines", engines),
        ]
    )
    return app


def prometheus_text(state: RunState) -> str:
    """The newest metrics as gauges, `reward/avg_raw_reward` becoming `rltrain_reward_avg_raw_reward`."""
    status = state.status()
    gauges: dict[str, float] = {
        "step": status.step,
        "weight_version": status.weight_version,
        "attempt": status.attempt,
        **{f"seconds_{name}": seconds for name, seconds in status.durations.items()},
        **state.metrics,
    }
    lines: list[str] = []
    for name, value in sorted(gauges.items()):
        metric = "rltrain_" + re.sub(r"[^a-zA-Z0-9_]", "_", name)
        lines += [f"# TYPE {metric} gauge", f"{metric} {value}"]
    return "\n".join(lines) + "\n"
