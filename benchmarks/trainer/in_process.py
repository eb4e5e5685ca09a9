"""Engine and trainer rank in this process: the parts that a training loop needs, without Ray, HTTP or other processes.

The engine is the builtin one's own runner and scheduler, driven by the event loop instead of a thread of its own; the
rank is the trainer's own, in a process group of one.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor

from rltrain_api.config import SkyRLTrainConfig
from rltrain_trainer.algorithms.kl import KLController
from rltrain_trainer.data.batch import TrainBatch
from rltrain_trainer.data.loader import PromptLoader
from rltrain_trainer.data.rows import PromptRow
from rltrain_trainer.driver.checkpoints import RunCheckpoints
from rltrain_trainer.driver.dumps import Dumps
from rltrain_trainer.driver.evaluation import Evaluation
from rltrain_trainer.driver.training import TrainingLoop
from rltrain_trainer.engines.builtin.protocol import Model, make_sequences
from rltrain_trainer.engines.builtin.runner import ModelRunner
from rltrain_trainer.engines.builtin.scheduler import Scheduler
from rltrain_trainer.engines.builtin.sequences import Sequence
from rltrain_trainer.engines.builtin.service import eos_token_ids
from rltrain_trainer.engines.contract import FinishReason, GenerateRequest, GenerateResult
from rltrain_trainer.fsdp.critic import CriticRank
from rltrain_trainer.fsdp.minibatches import needs_critic, needs_reference, reference_is_the_policy
from rltrain_trainer.fsdp.policy import PolicyRank
from rltrain_trainer.fsdp.reference import ReferenceRank
from rltrain_trainer.models.load import load_causal_lm, load_tokenizer
from rltrain_trainer.rollout.trajectory import VersionSpan
from rltrain_trainer.tracking.run_state import RunState
from rltrain_trainer.tracking.trackers import Trackers
from rltrain_trainer.weight_sync.buckets import Bucket
from rltrain_trainer.weight_sync.sender import WeightSender

CACHE_BYTES = 4 * 1024**3


class InProcessEngine:
    """What rollouts ask of the fleet, answered by a scheduler on this thread.

    Requests that arrive together are sampled together; others join between two decoding steps.
    """

    def __init__(
        self,
        path: str,
        *,
        max_sequences: int,
        max_length: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device = torch.device("cpu"),  # noqa: B008 - a value, made once
    ) -> None:
        model = load_causal_lm(path, dtype)
        torch.nn.Module.to(model, device)
        tokenizer = load_tokenizer(path)
        self._parameters = dict(model.named_parameters())
        self._runner = ModelRunner(
            model,
            max_sequences=max_sequences,
            max_length=max_length,
            cache_bytes=CACHE_BYTES,
            device=device,
        )
        self._scheduler = Scheduler(self._runner, "0")
        self._model = Model(
            path, tokenizer, eos_token_ids(model, tokenizer), self._runner.vocabulary_size, self._runner.max_length
        )
        self._waiting: dict[Sequence, asyncio.Event] = {}
        self._driver: asyncio.Task[None] | None = None
        self.seconds = 0.0  # spent in the scheduler

    async def generate(self, request: GenerateRequest, *, deadline_seconds: float) -> tuple[GenerateResult, ...]:
        """Responses to one prompt."""
        sequences = make_sequences(
            self._model, request.request_id, request.token_ids, request.sampling, request.samples
        )
        ended = [asyncio.Event() for _ in sequences]
        for sequence, event in zip(sequences, ended, strict=True):
            self._waiting[sequence] = event
            self._scheduler.add(sequence)
        if self._driver is None or self._driver.done():
            self._driver = asyncio.create_task(self._drive())
        async with asyncio.timeout(deadline_seconds):
            for event in ended:
                await event.wait()
        return tuple(_result(sequence) for sequence in sequences)

    async def _drive(self) -> None:
        while not self._scheduler.is_idle:
            began = time.perf_counter()
            finished = self._scheduler.step()
            self.seconds += time.perf_counter() - began
            for sequence in finished:
                self._waiting.pop(sequence).set()
            await asyncio.sleep(0)  # newcomers join, those who wait go on

    @torch.no_grad()
    def load(self, parameters: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Sample with these parameters from now on."""
        for name, value in parameters:
            self._parameters[name].copy_(value)
        self._scheduler.weight_version = str(version)


def _result(sequence: Sequence) -> GenerateResult:
    assert sequence.finish_reason is not None, "only finished sequences are answered with"
    ends = [start for _, start in sequence.versions[1:]] + [len(sequence.response)]
    spans = tuple(
        VersionSpan(int(version), start, end) for (version, start), end in zip(sequence.versions, ends, strict=True)
    )
    return GenerateResult(
        tuple(sequence.response), tuple(sequence.logprobs), FinishReason(sequence.finish_reason), spans
    )


class InProcessPolicy:
    """The loop's policy, critic and reference: one rank of each that is needed, called directly.

    Methods are those of `driver.training.Policy`.
    """

    def __init__(self, config: SkyRLTrainConfig, *, total_steps: int) -> None:
        self.rank = PolicyRank(config, total_steps=total_steps)
        self._critic = CriticRank(config, total_steps=total_steps) if needs_critic(config) else None
        separate = needs_reference(config) and not reference_is_the_policy(config)
        self._reference = ReferenceRank(config) if separate else None

    async def logprobs(self, batch: TrainBatch) -> Tensor:
        """Of the policy."""
        return self.rank.logprobs(batch)

    async def reference_logprobs(self, batch: TrainBatch) -> Tensor:
        """Of the reference, which may be the policy without its adapters."""
        return self.rank.reference_logprobs(batch) if self._reference is None else self._reference.logprobs(batch)

    async def values(self, batch: TrainBatch) -> Tensor:
        """Of the critic."""
        assert self._critic is not None, "asked for only where there is one"
        return self._critic.values(batch)

    async def update(self, batch: TrainBatch) -> dict[str, float]:
        """Of the policy."""
        return self.rank.update(batch)

    async def update_critic(self, batch: TrainBatch) -> dict[str, float]:
        """Of the critic."""
        assert self._critic is not None, "asked for only where there is one"
        return self._critic.update(batch)

    async def refresh_reference(self) -> None:
        """The policy as it is becomes the reference."""
        assert self._reference is not None, "asked for only where there is one"
        self._reference.take(self.rank.gather_parameters())


class InProcessSender:
    """Rank 0's end of the weight sync, called directly; see `engines.sync.SenderHandle`."""

    def __init__(self, policy: InProcessPolicy) -> None:
        self._policy = policy
        self._sender = WeightSender(backend="gloo")
        self.buckets: list[Bucket] = []

    async def stage(self) -> None:
        """Pack the current weights."""
        self.buckets = self._sender.stage(self._policy.rank.gather_parameters())

    async def address(self) -> str:
        """This machine's."""
        return "127.0.0.1"

    async def free_port(self) -> int:
        """A port that was free a moment ago."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

    async def join_engines(self, address: str, port: int, world_size: int, timeout_seconds: float) -> None:
        """Form the transfer group."""
        await asyncio.to_thread(self._sender.join, address, port, world_size, timeout_seconds)

    async def leave_engines(self) -> None:
        """End the transfer group."""
        self._sender.leave()

    async def broadcast(self, bucket_index: int) -> None:
        """Send one staged bucket."""
        await asyncio.to_thread(self._sender.broadcast, bucket_index)


def make_loop(
    config: SkyRLTrainConfig,
    *,
    policy: Any,
    generator: Any,
    publish_weights: Callable[[int], Awaitable[dict[str, float]]],
    loader: PromptLoader,
    total_steps: int,
    evaluation_rows: list[PromptRow],
    pad_token_id: int,
    told: Callable[[dict[str, float], int], None] = lambda metrics, step: None,
) -> TrainingLoop:
    """The training loop of a job over parts in this process; nothing is written, and only `told` hears of metrics."""
    state = RunState(attempt=1)
    state.total_steps = total_steps
    dumps = Dumps(config.trainer.export_path, decode=str)
    return TrainingLoop(
        config=config,
        state=state,
        policy=policy,
        generator=generator,
        publish_weights=publish_weights,
        loader=loader,
        evaluation=Evaluation(config, evaluation_rows, generator, dumps),
        checkpoints=cast(RunCheckpoints, NoCheckpoints()),
        trackers=cast(Trackers, Listener(told)),
        dumps=dumps,
        controller=KLController.of(config.trainer.algorithm),
        pad_token_id=pad_token_id,
    )


class Listener:
    """The loop's trackers: one function that hears of every step's metrics."""

    def __init__(self, told: Callable[[dict[str, float], int], None]) -> None:
        self._told = told

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Tell."""
        self._told(metrics, step)

    def metrics(self) -> dict[str, float]:
        """Nothing is lost."""
        return {}

    def run_ids(self) -> dict[str, str]:
        """Nothing is to be gone on with."""
        return {}

    async def close(self) -> None:
        """Nothing is open."""


class NoCheckpoints:
    """The loop's checkpoints where none are wanted."""

    def check(self) -> None:
        """Nothing is being written."""

    async def finished(self) -> None:
        """Nothing is being written."""

    async def settle(self, seconds: float) -> None:
        """Nothing is being written."""

    async def save(self, *arguments: Any, **options: Any) -> None:
        """Write nothing."""


@contextmanager
def process_group_of_one() -> Iterator[None]:
    """The default process group, with this process alone in it."""
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()
