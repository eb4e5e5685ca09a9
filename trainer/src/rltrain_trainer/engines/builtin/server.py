"""HTTP routes of the builtin engine: vLLM's paths and bodies (0.33) in front of the worker and the weights.

Handlers only translate; nothing in here computes, and nothing that blocks runs on the event loop, so /health answers
while a transfer waits. Routes carry no credentials: the network must admit the trainer alone (NetworkPolicy). It must
not know the model's internals.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import torch
from aiohttp import web

from rltrain_trainer.engines.builtin.protocol import Model, generate_choice, make_sequences, parse_sampling, usage
from rltrain_trainer.engines.builtin.sequences import Sequence
from rltrain_trainer.engines.builtin.weights import WeightReceiver, WrongStateError
from rltrain_trainer.engines.builtin.worker import EngineStoppedError, GenerationPausedError, Worker
from rltrain_trainer.engines.contract import PauseMode, TokenSampling
from rltrain_trainer.weight_sync.buckets import Bucket
from rltrain_trainer.weight_sync.group import TransferError

MAX_BODY_BYTES = 64 * 1024 * 1024
SOFTWARE = f"rltrain-builtin (torch {torch.__version__})"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

STATUS_OF_ERROR: tuple[tuple[type[Exception], int], ...] = (
    (GenerationPausedError, 503),
    (WrongStateError, 409),
    (TransferError, 500),
    (EngineStoppedError, 500),
    (ValueError, 400),
)


class Generation:
    """Requests in progress: hands their sequences to the worker, and finished ones back to whoever waits."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._worker: Worker | None = None
        self._waiting: dict[Sequence, tuple[list[Sequence], asyncio.Future[None]]] = {}

    def attach(self, worker: Worker) -> None:
        """Use this worker (which itself needs `on_finish`)."""
        self._worker = worker

    def on_finish(self, sequences: list[Sequence]) -> None:
        """Called by the worker's thread."""
        if sequences and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._finish, sequences)

    async def run(self, sequences: list[Sequence]) -> list[Sequence]:
        """Wait until all sequences of one request are finished. When the caller goes away they are aborted."""
        assert self._worker is not None, "attach() comes first"
        done: asyncio.Future[None] = self._loop.create_future()
        for sequence in sequences:
            self._waiting[sequence] = (sequences, done)
        try:
            await asyncio.wrap_future(self._worker.add(sequences))
            await done
        finally:
            for sequence in sequences:
                self._waiting.pop(sequence, None)
            if not done.done() or done.cancelled():
                # These very sequences: the client may have sent the request again under the same id.
                self._worker.abort(frozenset(sequences).__contains__)
        return sequences

    def _finish(self, sequences: list[Sequence]) -> None:
        for sequence in sequences:
            request, done = self._waiting.pop(sequence, ([], None))
            if done is not None and not done.done() and all(other.finish_reason is not None for other in request):
                done.set_result(None)


class EngineServer:
    """The routes, over one worker, its weights and its model."""

    def __init__(self, model: Model, worker: Worker, weights: WeightReceiver, generation: Generation) -> None:
        self.model = model
        self.generation = generation
        self._worker = worker
        self._weights = weights

    def application(self) -> web.Application:
        """The aiohttp application."""
        application = web.Application(middlewares=[errors_as_json], client_max_size=MAX_BODY_BYTES)
        application.add_routes(
            [
                web.get("/health", self.health),
                web.get("/version", self.version),
                web.get("/v1/models", self.models),
                web.get("/load", self.load),
                web.post("/inference/v1/generate", self.generate),
                web.post("/pause", self.pause),
                web.post("/resume", self.resume),
                web.get("/is_paused", self.is_paused),
                web.post("/abort_requests", self.abort_requests),
                web.post("/init_weight_transfer_engine", self.init_weight_transfer_engine),
                web.post("/shutdown_weight_transfer_engine", self.shutdown_weight_transfer_engine),
                web.post("/start_weight_update", self.start_weight_update),
                web.post("/update_weights", self.update_weights),
                web.post("/finish_weight_update", self.finish_weight_update),
                web.get("/weight_info", self.weight_info),
                web.post("/weight_checker", self.weight_checker),
                web.get("/get_world_size", self.get_world_size),
            ]
        )
        return application

    async def health(self, request: web.Request) -> web.Response:
        """200 while the working thread lives: paused, idle, or in the middle of a transfer."""
        return web.json_response({}, status=200 if self._worker.is_alive else 503)

    async def version(self, request: web.Request) -> web.Response:
        """Which engine this is."""
        return web.json_response({"version": SOFTWARE})

    async def models(self, request: web.Request) -> web.Response:
        """The one served model."""
        entry = {"id": self.model.name, "object": "model", "max_model_len": self.model.max_length}
        return web.json_response({"object": "list", "data": [entry]})

    async def load(self, request: web.Request) -> web.Response:
        """Sequences that run and wait."""
        running, waiting = self._worker.counts()
        return web.json_response({"server_load": running + waiting, "running": running, "waiting": waiting})

    async def generate(self, request: web.Request) -> web.Response:
        """Token ids in, token ids and log-probabilities out."""
        body = await json_object(request)
        refuse_fields(body, {"stream": False, "output_mode": "tokens"})
        sampling, samples = parse_sampling(body.get("sampling_params") or {})
        request_id = str(body.get("request_id") or uuid.uuid4())
        sequences = await self.sample(request_id, body.get("token_ids"), sampling, samples)
        choices = [generate_choice(index, sequence) for index, sequence in enumerate(sequences)]
        return web.json_response({"request_id": request_id, "choices": choices, "usage": usage(sequences)})

    async def sample(self, request_id: str, token_ids: object, sampling: TokenSampling, samples: int) -> list[Sequence]:
        """Run one request to its end."""
        if not isinstance(token_ids, list) or not all(isinstance(token, int) for token in token_ids):
            raise ValueError("token_ids must be a list of whole numbers")
        return await self.generation.run(make_sequences(self.model, request_id, token_ids, sampling, samples))

    async def pause(self, request: web.Request) -> web.Response:
        """Stop generating; ?mode=abort|wait|keep&clear_cache=true|false."""
        try:
            mode = PauseMode(request.query.get("mode", "abort"))
        except ValueError as error:
            raise ValueError(f"{error}; mode is one of {', '.join(PauseMode)}") from error
        clear_cache = request.query.get("clear_cache", "true").lower() == "true"
        await asyncio.wrap_future(self._worker.pause(mode, clear_cache=clear_cache))
        return web.json_response({"status": "paused"})

    async def resume(self, request: web.Request) -> web.Response:
        """Go on generating; 409 unless the weights are whole."""
        await asyncio.wrap_future(self._worker.resume())
        return web.json_response({"status": "resumed"})

    async def is_paused(self, request: web.Request) -> web.Response:
        """Whether generation is paused."""
        return web.json_response({"is_paused": self._worker.is_paused})

    async def abort_requests(self, request: web.Request) -> web.Response:
        """End the requests of `request_ids`, or all."""
        ids = (await json_object(request)).get("request_ids")
        wanted = None if ids is None else frozenset(map(str, ids))
        order = self._worker.abort(lambda sequence: wanted is None or sequence.request_id in wanted)
        await asyncio.wrap_future(order)
        return web.json_response({"status": "aborted"})

    async def init_weight_transfer_engine(self, request: web.Request) -> web.Response:
        """Enter a transfer group; answers when all its ranks have come."""
        info = (await json_object(request)).get("init_info")
        if not isinstance(info, dict):
            raise ValueError("init_info must be an object")
        await asyncio.to_thread(self._weights.join, info)
        return web.json_response({"message": "Weight transfer initialized"})

    async def shutdown_weight_transfer_engine(self, request: web.Request) -> web.Response:
        """Give up the transfer group and with it an open update."""
        self._weights.leave()
        return web.json_response({"message": "Weight transfer shut down"})

    async def start_weight_update(self, request: web.Request) -> web.Response:
        """Open an update."""
        await asyncio.wrap_future(self._worker.begin_update())
        return web.json_response({"message": "Weight update started"})

    async def update_weights(self, request: web.Request) -> web.Response:
        """Receive one bucket."""
        info = (await json_object(request)).get("update_info")
        if isinstance(info, list) and len(info) == 1:
            info = info[0]  # vLLM's form with one entry per worker
        if not isinstance(info, dict) or not all(isinstance(info.get(key), list) for key in UPDATE_LISTS):
            raise ValueError(f"update_info must be an object with the lists {', '.join(UPDATE_LISTS)}")
        bucket = Bucket.from_wire(0, *(info[key] for key in UPDATE_LISTS))
        await asyncio.to_thread(self._weights.receive, bucket)
        return web.json_response({"message": "Weights updated"})

    async def finish_weight_update(self, request: web.Request) -> web.Response:
        """Close the update, under `weight_version` when there is one."""
        body = await json_object(request) if request.can_read_body else {}
        version = body.get("weight_version")
        self._weights.commit(None if version is None else str(version))
        return web.json_response({"message": "Weight update finished"})

    async def weight_info(self, request: web.Request) -> web.Response:
        """Version and state of the weights."""
        return web.json_response({"weight_version": self._weights.version, "weight_state": self._weights.state.value})

    async def weight_checker(self, request: web.Request) -> web.Response:
        """SHA-256 of every parameter."""
        action = (await json_object(request)).get("action", "checksum")
        if action != "checksum":
            raise ValueError(f"action {action!r} is not supported by the builtin engine; use checksum")
        return web.json_response({"checksums": await asyncio.to_thread(self._weights.checksums)})

    async def get_world_size(self, request: web.Request) -> web.Response:
        """Ranks in a transfer group."""
        return web.json_response({"world_size": 1})


UPDATE_LISTS = ("names", "dtype_names", "shapes")


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn the errors that handlers raise into a status and an OpenAI-shaped body."""
    kinds = tuple(kind for kind, _ in STATUS_OF_ERROR)
    try:
        return await handler(request)
    except kinds as error:
        status = next(status for kind, status in STATUS_OF_ERROR if isinstance(error, kind))
        body = {"error": {"message": str(error), "type": type(error).__name__, "code": status}}
        return web.json_response(body, status=status)


async def json_object(request: web.Request) -> dict[str, Any]:
    """The body as an object; ValueError otherwise (json's own errors are ValueErrors)."""
    body = await request.json()
    if not isinstance(body, dict):
        raise ValueError("the body must be a JSON object")
    return body


def refuse_fields(body: dict[str, Any], only: dict[str, Any]) -> None:
    """ValueError for fields that have another value than the one this engine can do."""
    for name, value in only.items():
        if body.get(name) not in (None, value):
            raise ValueError(f"{name}={body[name]!r} is not supported by the builtin engine; use {value!r}")
