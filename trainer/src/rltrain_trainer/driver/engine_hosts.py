"""Inference engines as processes on the inference pods, each held by a small Ray actor.

The engine is a server of its own (as vLLM and SGLang are), so that a crash of it is a process exit and never a crash
of Ray's worker. The actor's death takes the server with it: an orphan would keep its GPU.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any

import ray

from rltrain_api.config import SkyRLTrainConfig
from rltrain_trainer.driver.failures import DriverFailureError
from rltrain_trainer.driver.ranks import free_port, node_address

PR_SET_PDEATHSIG = 1
PROBE_SECONDS = 0.5
LOG_TAIL_BYTES = 2000


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies (prctl(2); runs between fork and exec)."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def builtin_command(config: SkyRLTrainConfig, host: str, port: int) -> list[str]:
    """The command line of the builtin engine for one job's configuration."""
    engine = config.generator.inference_engine
    sampling = config.generator.sampling_params
    assert config.generator.max_input_length is not None, "resolve() sets max_input_length"
    longest = config.generator.max_input_length + sampling.max_generate_length
    return [
        *(sys.executable, "-m", "rltrain_trainer.engines.builtin"),
        *("--model", str(config.trainer.policy.model.path)),
        *("--host", host),
        *("--port", str(port)),
        *("--dtype", engine.model_dtype),
        *("--weight-transfer-config", json.dumps({"backend": engine.weight_sync_backend})),
        *("--max-model-len", str(longest)),
    ]


class EngineHost:
    """Starts one engine server on its node and tells whether it still runs."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._config = SkyRLTrainConfig.model_validate(config)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, deadline_seconds: float) -> str:
        """Start the server and wait until it answers /health; returns its URL."""
        host = node_address()
        port = free_port()
        command = builtin_command(self._config, host, port)
        self._process = subprocess.Popen(command, preexec_fn=die_with_parent)
        url = f"http://{host}:{port}"
        deadline = time.monotonic() + deadline_seconds
        while time.monotonic() < deadline:
            if (code := self._process.poll()) is not None:
                raise RuntimeError(f"the engine ended with exit code {code} before it was ready: {' '.join(command)}")
            if answers(f"{url}/health"):
                return url
            time.sleep(PROBE_SECONDS)
        raise TimeoutError(f"the engine at {url} did not answer /health within {deadline_seconds:.0f} s")

    def stop(self) -> None:
        """End the server."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self._process.kill()


_as_actor: Any = ray.remote  # Any: the number of GPUs and resources is known only to the job
EngineHostActor = _as_actor(num_cpus=0, max_restarts=0)(EngineHost)


def answers(url: str) -> bool:
    """Whether an HTTP GET of `url` gives 200 within two seconds."""
    try:
        with urllib.request.urlopen(url, timeout=2) as response:  # noqa: S310 - http:// to our own engine
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


async def start_engines(config: SkyRLTrainConfig, *, deadline_seconds: float) -> tuple[Sequence[Any], list[str]]:
    """Start all engines of the job side by side; returns their hosts (to be kept alive) and their URLs."""
    engine = config.generator.inference_engine
    gpus = engine.tensor_parallel_size * engine.pipeline_parallel_size * engine.data_parallel_size
    document = config.model_dump(mode="json")
    hosts = [
        EngineHostActor.options(num_gpus=gpus, resources={"inference": gpus}).remote(document)
        for _ in range(engine.num_engines)
    ]
    try:
        async with asyncio.timeout(deadline_seconds):
            urls: list[str] = await asyncio.gather(*(host.start.remote(deadline_seconds) for host in hosts))
    except (TimeoutError, ray.exceptions.RayError) as error:
        raise DriverFailureError(
            "EnginesNotReady",
            f"{engine.num_engines} inference engines were not ready within {deadline_seconds:.0f} s: {error}",
            remedy="look at the inference pods: not enough GPUs, a model that does not load, or memory",
            role="inference",
        ) from error
    return hosts, urls
