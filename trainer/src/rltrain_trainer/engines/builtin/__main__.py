"""`python -m rltrain_trainer.engines.builtin --model PATH …`: serve a model, end cleanly on SIGTERM.

Prints one line when it is ready: `rltrain builtin engine ready at http://HOST:PORT …`. On a CPU it computes with
OMP_NUM_THREADS threads, one if that is not set: engines and trainer ranks usually share a node's cores.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys

import torch
from transformers.utils.logging import disable_progress_bar

from rltrain_trainer.engines.builtin.service import DEFAULT_CACHE_BYTES, Settings, served
from rltrain_trainer.models.load import ModelOverrides
from rltrain_trainer.weight_sync.buckets import DTYPES


def parse_arguments(arguments: list[str] | None = None) -> Settings:
    """Flags are vLLM's where vLLM has them."""
    parser = argparse.ArgumentParser(prog="rltrain-builtin-engine", description=__doc__)
    parser.add_argument("--model", required=True, help="directory or hub name of the model")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0: any free port, see the readiness line")
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="bfloat16")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--max-num-seqs", type=int, default=256, help="sequences that run at once")
    parser.add_argument("--max-model-len", type=int, default=2048, help="tokens of prompt and response together")
    parser.add_argument("--served-model-name", help="the name in /v1/models; --model if not given")
    parser.add_argument("--kv-cache-memory-bytes", type=int, default=DEFAULT_CACHE_BYTES)
    parser.add_argument("--hf-overrides", type=json.loads, default={}, help="JSON, of the model's configuration")
    parser.add_argument("--weight-transfer-config", type=json.loads, default={}, help='for example {"backend": "gloo"}')
    parser.add_argument("--weight-transfer-timeout-seconds", type=float, default=60)
    parsed = parser.parse_args(arguments)
    default_backend = "nccl" if parsed.device == "cuda" else "gloo"
    return Settings(
        model=parsed.model,
        overrides=ModelOverrides(parsed.hf_overrides),
        host=parsed.host,
        port=parsed.port,
        dtype=parsed.dtype,
        device=parsed.device,
        max_num_seqs=parsed.max_num_seqs,
        max_model_len=parsed.max_model_len,
        served_model_name=parsed.served_model_name,
        kv_cache_memory_bytes=parsed.kv_cache_memory_bytes,
        transfer_backend=parsed.weight_transfer_config.get("backend", default_backend),
        transfer_timeout_seconds=parsed.weight_transfer_timeout_seconds,
    )


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with served(settings) as engine:
        print(
            f"rltrain builtin engine ready at {engine.url} model={engine.model} dtype={settings.dtype} "
            f"device={settings.device} sequences={engine.slots} length={engine.max_length}",
            flush=True,
        )
        await stop.wait()


def main(arguments: list[str] | None = None) -> None:
    """Entry point."""
    settings = parse_arguments(arguments)
    # Bars of carriage returns make a pod's log unreadable.
    disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers ships no type for it
    if settings.device == "cpu":
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    try:
        asyncio.run(serve(settings))
    except ValueError as error:  # the model or a flag: a person's mistake, not a traceback's business
        sys.exit(f"rltrain builtin engine: {error}")


if __name__ == "__main__":
    main()
