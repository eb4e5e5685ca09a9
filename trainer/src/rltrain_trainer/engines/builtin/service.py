"""One builtin engine put together and served: model, scheduler, worker, weights, routes, listening socket.

It must not know the command line nor signals.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import torch
from aiohttp import web
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rltrain_trainer.engines.builtin.completions import CompletionRoutes
from rltrain_trainer.engines.builtin.protocol import Model
from rltrain_trainer.engines.builtin.runner import ModelRunner
from rltrain_trainer.engines.builtin.scheduler import Scheduler
from rltrain_trainer.engines.builtin.server import EngineServer, Generation
from rltrain_trainer.engines.builtin.weights import WeightReceiver
from rltrain_trainer.engines.builtin.worker import Worker
from rltrain_trainer.models.load import NO_OVERRIDES, ModelOverrides, load_causal_lm, load_tokenizer
from rltrain_trainer.weight_sync.buckets import DTYPES

SHUTDOWN_SECONDS = 5.0
DEFAULT_CACHE_BYTES = 4 * 1024**3


@dataclass(frozen=True)
class Settings:
    """What an engine is started with."""

    model: str  # directory or hub name
    overrides: ModelOverrides = NO_OVERRIDES
    host: str = "127.0.0.1"
    port: int = 0  # 0: any free one
    dtype: str = "bfloat16"
    device: str = "cpu"
    max_num_seqs: int = 256
    max_model_len: int = 2048
    served_model_name: str | None = None
    kv_cache_memory_bytes: int = DEFAULT_CACHE_BYTES
    transfer_backend: str = "gloo"
    transfer_timeout_seconds: float = 60.0


@dataclass(frozen=True)
class ServedEngine:
    """An engine that listens."""

    url: str
    model: str
    slots: int
    max_length: int


@asynccontextmanager
async def served(settings: Settings) -> AsyncIterator[ServedEngine]:
    """Load the model and serve it until the context ends. ValueError when it cannot be loaded or served."""
    device = torch.device(settings.device)
    model = await asyncio.to_thread(load_causal_lm, settings.model, DTYPES[settings.dtype], settings.overrides)
    torch.nn.Module.to(model, device)
    tokenizer = load_tokenizer(settings.model)
    runner = ModelRunner(
        model,
        max_sequences=settings.max_num_seqs,
        max_length=settings.max_model_len,
        cache_bytes=settings.kv_cache_memory_bytes,
        device=device,
    )
    weights = WeightReceiver(
        model, device=device, backend=settings.transfer_backend, timeout_seconds=settings.transfer_timeout_seconds
    )
    generation = Generation()
    worker = Worker(Scheduler(runner, weights.version), weights, generation.on_finish)
    generation.attach(worker)
    described = Model(
        name=settings.served_model_name or settings.model,
        tokenizer=tokenizer,
        eos_token_ids=eos_token_ids(model, tokenizer),
        vocabulary_size=runner.vocabulary_size,
        max_length=settings.max_model_len,
    )
    server = EngineServer(described, worker, weights, generation)
    application = server.application()
    application.add_routes(CompletionRoutes(server).routes())
    # handler_cancellation: a client that gives up must not leave its sequences running.
    web_runner = web.AppRunner(
        application, handler_cancellation=True, shutdown_timeout=SHUTDOWN_SECONDS, access_log=None
    )
    worker.start()
    try:
        await web_runner.setup()
        await web.TCPSite(web_runner, settings.host, settings.port).start()
        host, port = web_runner.addresses[0][:2]
        yield ServedEngine(f"http://{host}:{port}", described.name, runner.slots, runner.max_length)
    finally:
        weights.leave()
        await asyncio.to_thread(worker.stop)
        await web_runner.cleanup()


def eos_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """All tokens that end a response: those of the generation config and the tokenizer's own."""
    configured: Any = model.generation_config.eos_token_id if model.generation_config is not None else None
    listed = configured if isinstance(configured, list) else [configured]
    return frozenset(int(token) for token in [*listed, tokenizer.eos_token_id] if token is not None)
