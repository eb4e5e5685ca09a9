"""Inference engines as processes on the inference pods, each held by a small Ray actor.

The engine is a server of its own (as vLLM and SGLang are), so that a crash of it is a process exit and never a crash
of Ray's worker. The actor's death takes the server with it: an orphan would keep its GPU.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

import ray

from rltrain_api.config import SkyRLTrainConfig
from rltrain_trainer.driver.failures import DriverFailureError
from rltrain_trainer.driver.rank_actor import free_port, node_address
from rltrain_trainer.engines.keeper import EngineStartError

log = logging.getLogger(__name__)

PR_SET_PDEATHSIG = 1
PROBE_SECONDS = 0.5
WATCH_SECONDS = 2.0
STOP_SECONDS = 15.0
POD_NAME_ENV = "RAY_CLOUD_INSTANCE_ID"  # KubeRay gives it to every pod of a RayCluster


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
        *("--hf-overrides", json.dumps(model_overrides(config))),
    ]


def model_overrides(config: SkyRLTrainConfig) -> dict[str, Any]:
    """What the run says of the policy's configuration instead of the model's own: engines compute the same model."""
    trainer = config.trainer
    rope = {"rope_scaling": trainer.rope_scaling, "rope_theta": trainer.rope_theta}
    return {**trainer.policy.model_config_kwargs, **{name: value for name, value in rope.items() if value is not None}}


class EngineHost:
    """Starts one engine server on its node and tells whether it still runs."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._config = SkyRLTrainConfig.model_validate(config)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, deadline_seconds: float) -> tuple[str, str]:
        """Start the server and wait until it answers /health; returns its URL and the name of its pod."""
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
                return url, os.environ.get(POD_NAME_ENV) or socket.gethostname()
            time.sleep(PROBE_SECONDS)
        raise TimeoutError(f"the engine at {url} did not answer /health within {deadline_seconds:.0f} s")

    def exit_code(self) -> int | None:
        """How the server has ended; None while it runs."""
        assert self._process is not None, "asked of a host that has started"
        return self._process.poll()

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


@dataclass(frozen=True)
class HostedEngine:
    """An engine that runs, and the actor that holds it: what `engines.keeper` keeps."""

    actor: Any
    url: str
    pod: str

    async def ended(self) -> str:
        """Wait until the server has ended or its pod is gone; says how it ended."""
        while True:
            try:
                code = await self.actor.exit_code.remote()
            except ray.exceptions.ActorUnavailableError:
                code = None  # Ray tries again, or finds that it has died
            except ray.exceptions.RayError as error:
                return f"its pod is gone: {error}"
            if code is not None:
                return f"its server ended with exit code {code}"
            await asyncio.sleep(WATCH_SECONDS)

    async def stop(self) -> None:
        """End the server and give its GPUs back to Ray."""
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self.actor.stop.remote()
        except (TimeoutError, ray.exceptions.RayError) as error:
            log.warning("the engine at %s did not say that it has stopped: %s", self.url, error)
        ray.kill(self.actor)


async def start_engine(config: SkyRLTrainConfig, *, deadline_seconds: float) -> HostedEngine:
    """Start one engine where Ray has room for it, and wait for that as long; EngineStartError when it does not come."""
    engine = config.generator.inference_engine
    gpus = engine.tensor_parallel_size * engine.pipeline_parallel_size * engine.data_parallel_size
    document = config.model_dump(mode="json")
    actor = EngineHostActor.options(num_gpus=gpus, resources={"inference": gpus}).remote(document)
    try:
        async with asyncio.timeout(deadline_seconds):
            url, pod = await actor.start.remote(deadline_seconds)
    except (TimeoutError, ray.exceptions.RayError) as error:
        ray.kill(actor)
        raise EngineStartError(f"not ready within {deadline_seconds:.0f} s: {error}") from error
    except asyncio.CancelledError:
        ray.kill(actor)
        raise
    return HostedEngine(actor, url, pod)


async def start_engines(config: SkyRLTrainConfig, *, deadline_seconds: float) -> list[HostedEngine]:
    """Start all engines of the job side by side; DriverFailureError when one of them does not come."""
    count = config.generator.inference_engine.num_engines
    try:
        return await asyncio.gather(*(start_engine(config, deadline_seconds=deadline_seconds) for _ in range(count)))
    except EngineStartError as error:
        raise DriverFailureError(
            "EnginesNotReady",
            f"{count} inference engines were not ready within {deadline_seconds:.0f} s: {error}",
            remedy="look at the inference pods: not enough GPUs, a model that does not load, or memory",
            role="inference",
        ) from error
