"""RLTrain's training loop on the toy, a step at a time: the loop, rollouts, rank and engine of a job, without Ray.

Two sides: the engine in this process on the same threads, which is what TRL's generation is; and an engine process
reached over HTTP with weights sent by gloo, which is what a job has.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from in_process import InProcessEngine, InProcessPolicy, InProcessSender, make_loop
from toy import ENVIRONMENT, Shape, prompts
from transformers import PreTrainedTokenizerBase

from rltrain_api.config import SamplingParams, SkyRLTrainConfig
from rltrain_api.resolve import resolve
from rltrain_trainer.data.loader import PromptLoader
from rltrain_trainer.data.rows import PromptRow
from rltrain_trainer.driver.training import TrainingLoop
from rltrain_trainer.engines.fleet import Fleet
from rltrain_trainer.engines.http_engine import HttpEngine
from rltrain_trainer.engines.sync import sync_weights
from rltrain_trainer.rollout.agent_loop import RolloutGenerator
from rltrain_trainer.rollout.trajectory import Trajectory

ENDLESS = 1_000_000
READY = "ready at "
START_SECONDS = 600.0  # a machine whose cores are all taken loads slowly


def config_of(directory: Path, shape: Shape, *, optimizer_steps: int, learning_rate: float) -> SkyRLTrainConfig:
    """A job's configuration for the toy."""
    return resolve(
        SkyRLTrainConfig.model_validate(
            {
                "trainer": {
                    "strategy": "fsdp2",
                    "bf16": False,
                    "gradient_checkpointing": False,
                    "placement": {"colocate_all": False, "policy_num_gpus_per_node": 1},
                    "policy": {"model": {"path": str(directory)}, "optimizer_config": {"lr": learning_rate}},
                    "algorithm": {"advantage_estimator": "grpo", "use_kl_loss": False},
                    "train_batch_size": shape.prompts,
                    "policy_mini_batch_size": shape.prompts // optimizer_steps,
                    "micro_train_batch_size_per_gpu": shape.sequences // optimizer_steps,
                    "micro_forward_batch_size_per_gpu": shape.sequences,
                    "max_prompt_length": shape.prompt_tokens,
                    "eval_before_train": False,
                    "eval_interval": -1,
                    "ckpt_interval": -1,
                },
                "generator": {
                    "n_samples_per_prompt": shape.samples,
                    "batched": True,  # all prompts are sampled together, as TRL does
                    "inference_engine": {
                        "backend": "builtin",
                        "model_dtype": "float32",
                        "weight_sync_backend": "gloo",
                    },
                    "sampling_params": {"max_generate_length": shape.response_tokens, "temperature": 1.0},
                },
                "environment": {"env_class": ENVIRONMENT},
            }
        )
    )


class Gate:
    """Rollouts that wait for their turn: the loop runs one step per `step()`."""

    def __init__(self, generator: RolloutGenerator) -> None:
        self._generator = generator
        self._go = asyncio.Event()
        self._at_gate = asyncio.Event()
        self.seconds = 0.0  # in rollouts

    async def generate(
        self, rows: Sequence[PromptRow], *, sampling: SamplingParams, samples_per_prompt: int, seed: int
    ) -> list[Trajectory]:
        """See `driver.sampling.Generator`."""
        self._at_gate.set()
        await self._go.wait()
        self._go.clear()
        began = time.perf_counter()
        result = await self._generator.generate(
            rows, sampling=sampling, samples_per_prompt=samples_per_prompt, seed=seed
        )
        self.seconds += time.perf_counter() - began
        return result

    async def ready(self) -> None:
        """Wait until the loop asks for rollouts."""
        await self._at_gate.wait()

    async def step(self, loop: asyncio.Task[None]) -> None:
        """Let the loop do one step."""
        await self.ready()
        self._at_gate.clear()
        self._go.set()
        gate = asyncio.create_task(self._at_gate.wait())
        await asyncio.wait({gate, loop}, return_when=asyncio.FIRST_COMPLETED)
        if loop.done():
            gate.cancel()
            loop.result()


class Side:
    """One running loop."""

    def __init__(self, loop: TrainingLoop, gate: Gate, engine: Any) -> None:
        self._state = loop.state
        self._gate = gate
        self._engine = engine  # has `seconds`
        self._task = asyncio.create_task(loop.run())

    async def step(self) -> dict[str, float]:
        """The seconds of one step by part."""
        await self._gate.ready()
        before, rollout, engine = self._durations(), self._gate.seconds, self._engine.seconds
        began, processor = time.perf_counter(), time.process_time()
        await self._gate.step(self._task)
        total, processor = time.perf_counter() - began, time.process_time() - processor
        after = self._durations()
        spent = {name: after[name] - before.get(name, 0.0) for name in after}
        generate = self._engine.seconds - engine
        parts = {
            "generate": generate,
            "reward": self._gate.seconds - rollout - generate,
            "batch": spent["convert_to_training_input"] + spent["compute_advantages_and_returns"],
            "logprobs": spent["fwd_logprobs_values_reward"],
            "update": spent["policy_train"],
            "weights": spent["sync_weights"],
        }
        return parts | {"rest": total - sum(parts.values()), "total": total, "cpu": processor}

    def _durations(self) -> dict[str, float]:
        return dict(self._state.status().durations)

    async def close(self) -> None:
        """End the loop where it stands."""
        self._task.cancel()
        await asyncio.wait({self._task})


def loop_of(config: SkyRLTrainConfig, shape: Shape, policy: Any, gate: Gate, publish: Any) -> TrainingLoop:
    """An endless loop over the toy's prompts."""
    texts = prompts(16 * shape.prompts, shape.prompt_tokens)
    rows = [
        PromptRow(uid=str(index), messages=({"role": "user", "content": text},), env_class=ENVIRONMENT, extras={})
        for index, text in enumerate(texts)
    ]
    return make_loop(
        config,
        policy=policy,
        generator=gate,
        publish_weights=publish,
        loader=PromptLoader(rows, shape.prompts, seed=1),
        total_steps=ENDLESS,
        evaluation_rows=[],
        pad_token_id=0,
    )


@asynccontextmanager
async def in_process(
    config: SkyRLTrainConfig, directory: Path, tokenizer: PreTrainedTokenizerBase, shape: Shape
) -> AsyncIterator[Side]:
    """Everything on this thread and torch's."""
    policy = InProcessPolicy(config, total_steps=ENDLESS)
    engine = InProcessEngine(str(directory), max_sequences=shape.sequences, max_length=shape.length)
    gate = Gate(RolloutGenerator(engine, tokenizer, config))

    async def publish(version: int) -> dict[str, float]:
        engine.load(policy.rank.gather_parameters(), version)
        return {}

    side = Side(loop_of(config, shape, policy, gate, publish), gate, engine)
    try:
        yield side
    finally:
        await side.close()


class TimedFleet:
    """The fleet, and the seconds in which a request was out."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._out = 0
        self._since = 0.0
        self.seconds = 0.0

    async def generate(self, request: Any, *, deadline_seconds: float) -> Any:
        """See `rollout.agent_loop.Sampler`."""
        if self._out == 0:
            self._since = time.perf_counter()
        self._out += 1
        try:
            return await self._fleet.generate(request, deadline_seconds=deadline_seconds)
        finally:
            self._out -= 1
            if self._out == 0:
                self.seconds += time.perf_counter() - self._since


@asynccontextmanager
async def engine_process(directory: Path, shape: Shape, threads: int) -> AsyncIterator[str]:
    """The URL of a builtin engine in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "rltrain_trainer.engines.builtin", "--model", str(directory), "--port", "0", "--dtype", "float32"),
        *("--max-num-seqs", str(shape.sequences), "--max-model-len", str(shape.length), "--device", "cpu"),
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None, "it was asked for"
    try:
        try:
            async with asyncio.timeout(START_SECONDS):
                while READY not in (line := (await process.stdout.readline()).decode()):
                    assert line, "the engine ended before it was ready"
        except TimeoutError as error:
            raise TimeoutError(f"the engine process was not ready within {START_SECONDS:.0f} s") from error
        yield line.split(READY)[1].split()[0]
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


@asynccontextmanager
async def over_http(
    config: SkyRLTrainConfig, directory: Path, tokenizer: PreTrainedTokenizerBase, shape: Shape, threads: int
) -> AsyncIterator[Side]:
    """The engine in a process of its own."""
    async with engine_process(directory, shape, threads) as url:
        policy = InProcessPolicy(config, total_steps=ENDLESS)
        sender = InProcessSender(policy)
        fleet = Fleet([HttpEngine("engine", url)])
        timed = TimedFleet(fleet)
        gate = Gate(RolloutGenerator(timed, tokenizer, config))

        async def publish(version: int) -> dict[str, float]:
            return (await sync_weights(fleet, sender, version)).metrics()

        side = Side(loop_of(config, shape, policy, gate, publish), gate, timed)
        try:
            yield side
        finally:
            await side.close()
            await sender.leave_engines()
            await fleet.close()
