"""Rollouts: prompts in, trajectories out. The model acts, the environment answers, turn by turn, all rows at once.

    row ─► environment.init ─► prompt tokens ─► fleet ─► sampled tokens ─► environment.step ─► (next turn) ─► Trajectory

Lost engines are the fleet's business; an environment that hangs is tried once more from the start, then the episode
counts for nothing, so that one hung tool cannot stop a step. It must not know training, Ray nor which engine serves.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol, TypeVar

from transformers import PreTrainedTokenizerBase

from rltrain_api.config import SamplingParams, SkyRLTrainConfig
from rltrain_trainer.data.rows import PromptRow
from rltrain_trainer.engines.contract import GenerateRequest, GenerateResult, TokenSampling
from rltrain_trainer.rollout.conversation import ConversationTemplate
from rltrain_trainer.rollout.environments import Environment, EnvironmentPool, EnvironmentTimeoutError
from rltrain_trainer.rollout.episode import TIMEOUT, Episode
from rltrain_trainer.rollout.seeds import derived_seed
from rltrain_trainer.rollout.trajectory import EpisodeSeconds, Trajectory

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

REQUEST_SECONDS = 900.0
ENVIRONMENT_SECONDS = 300.0


class Sampler(Protocol):
    """What rollouts ask of the fleet."""

    async def generate(self, request: GenerateRequest, *, deadline_seconds: float) -> tuple[GenerateResult, ...]:
        """Responses to one prompt."""
        ...


class RolloutGenerator:
    """Plays episodes for batches of prompts."""

    def __init__(
        self,
        fleet: Sampler,
        tokenizer: PreTrainedTokenizerBase,
        config: SkyRLTrainConfig,
        *,
        request_seconds: float = REQUEST_SECONDS,
        environment_seconds: float = ENVIRONMENT_SECONDS,
    ) -> None:
        """`request_seconds`: longest wait for one response; `environment_seconds`: for one call into an environment."""
        self._fleet = fleet
        self._generator = config.generator
        self._gym = config.environment.skyrl_gym
        self._template = ConversationTemplate.of(tokenizer, config.generator)
        self._request_seconds = request_seconds
        self._pool = EnvironmentPool(self._gym.max_env_workers, deadline_seconds=environment_seconds)

    async def generate(
        self, rows: Sequence[PromptRow], *, sampling: SamplingParams, samples_per_prompt: int, seed: int
    ) -> list[Trajectory]:
        """`samples_per_prompt` episodes per row, those of one row side by side, rows in order.

        What is sampled follows from `seed`, the row, the sample and the turn, whatever the order of requests.
        An episode is one trajectory, or one for each of its turns with step-wise trajectories. One whose environment
        hangs twice counts for nothing: it has a prompt, no response and no reward. Raises NoEngineServesError when the
        fleet cannot serve in time, EnvironmentFailedError for what an environment raises, and EnvironmentTimeoutError
        when all of them hang.
        """
        # With generator.batched nobody goes ahead of the others: all are opened, then all sampled, then all stepped.
        gate = asyncio.Barrier(len(rows)) if self._generator.batched else None
        wanted = token_sampling(sampling)
        by_row = await run_all(
            self._row(row, replace(wanted, seed=derived_seed(seed, row.uid)), samples_per_prompt, gate) for row in rows
        )
        found = [trajectory for episodes in by_row for episode in episodes for trajectory in episode]
        if found and all(trajectory.stop_reason == TIMEOUT for trajectory in found):
            raise EnvironmentTimeoutError(
                f"no environment of {len(rows)} rows answered ({', '.join(sorted({row.env_class for row in rows}))}); "
                "the driver's log names each"
            )
        return found

    async def _row(
        self, row: PromptRow, sampling: TokenSampling, samples: int, gate: asyncio.Barrier | None
    ) -> list[list[Trajectory]]:
        """All samples of one prompt. Where each is one turn from the same start, one request asks for all of them."""
        if self._generator.max_turns > 1:
            return await run_all(self._episode(row, sample, sampling) for sample in range(samples))
        begun = await run_all(self._open(row, sample) for sample in range(samples))
        await _pass(gate)
        live = [start for start in begun if start is not None]
        if live and all(start.episode.tokens == live[0].episode.tokens for start in live):
            firsts = list(await self._sample(row, live, sampling))
        else:  # environments may set each episode its own task
            firsts = [first for (first,) in await run_all(self._sample(row, [start], sampling) for start in live)]
        await _pass(gate)
        starts = zip(live, firsts, strict=True)
        played = iter(await run_all(self._episode(row, start[0].episode.sample, sampling, start) for start in starts))
        return [self._unplayed(row, sample) if start is None else next(played) for sample, start in enumerate(begun)]

    async def _episode(
        self, row: PromptRow, sample: int, sampling: TokenSampling, begun: tuple[Start, GenerateResult] | None = None
    ) -> list[Trajectory]:
        """One episode; played anew, once, when its environment hangs. `begun`: one whose first turn is sampled."""
        for outcome in ("the episode is played anew", "the episode counts for nothing"):
            begun = begun or await self._begin(row, sample, sampling)
            if begun is None:
                break
            try:
                return await self._play(row, sampling, *begun)
            except EnvironmentTimeoutError as error:
                logger.warning("%s; %s", error, outcome)
                begun = None
        return self._unplayed(row, sample)

    def _unplayed(self, row: PromptRow, sample: int) -> list[Trajectory]:
        """What stands for an episode whose environment does not answer: the prompt, and nothing to train on."""
        episode = Episode(row, sample, row.messages, self._template, self._generator)
        episode.timed_out()
        return episode.trajectories({}, EpisodeSeconds())

    async def _begin(self, row: PromptRow, sample: int, sampling: TokenSampling) -> tuple[Start, GenerateResult] | None:
        """An episode and its first turn; None when its environment hangs."""
        start = await self._open(row, sample)
        if start is None:
            return None
        (first,) = await self._sample(row, [start], sampling)
        return start, first

    async def _play(
        self, row: PromptRow, sampling: TokenSampling, start: Start, result: GenerateResult
    ) -> list[Trajectory]:
        """Turns from the first response to the end of the episode."""
        episode, environment = start.episode, start.environment
        assert environment is not None, "an episode without an environment is not played"
        what = f"environment {row.env_class} of row {row.uid}"
        for turn in range(1, self._generator.max_turns + 1):
            action = episode.sampled(result)
            step = partial(environment.step, action)
            observations, reward, done = await start.waiting(self._pool.run(f"{what}: step", step))
            episode.rewarded(reward)
            # A turn that was cut off has no end: nothing can follow it in a well-formed conversation.
            if done or turn == self._generator.max_turns or result.finish_reason != "stop":
                break
            if not episode.observed(action, observations):
                break
            (result,) = await self._sample(row, [start], sampling)
        metrics = await start.waiting(self._pool.run(f"{what}: close", environment.end))
        return episode.trajectories(metrics, start.seconds())

    async def _open(self, row: PromptRow, sample: int) -> Start | None:
        """A new episode in an environment of its own; None when the environment hangs twice."""
        what = f"environment {row.env_class} of row {row.uid}: init"
        make = partial(Environment, row, getattr(self._gym, row.env_class, {}), self._generator.max_turns)
        for again in ("it is tried once more", "it counts for nothing"):
            try:
                environment = await self._pool.run(what, make)
            except EnvironmentTimeoutError as error:
                logger.warning("%s; %s", error, again)
            else:
                episode = Episode(row, sample, environment.conversation, self._template, self._generator)
                self._check_length(row, episode)
                return Start(episode, environment)
        return None

    def _check_length(self, row: PromptRow, episode: Episode) -> None:
        longest = self._generator.max_input_length
        assert longest is not None, "resolve() sets max_input_length"
        if len(episode.tokens) > longest:
            raise ValueError(
                f"row {row.uid}: its prompt has {len(episode.tokens)} tokens, generator.max_input_length is "
                f"{longest}; raise it or lower trainer.max_prompt_length"
            )

    async def _sample(
        self, row: PromptRow, starts: Sequence[Start], sampling: TokenSampling
    ) -> tuple[GenerateResult, ...]:
        """The next turn of episodes that stand at the same tokens, in one request."""
        episode = starts[0].episode
        seeded = replace(sampling, seed=derived_seed(sampling.seed, episode.sample, episode.turns))
        request = GenerateRequest(f"{row.uid}-{uuid.uuid4().hex}", episode.tokens, seeded, len(starts))
        began = time.monotonic()
        results = await self._fleet.generate(request, deadline_seconds=self._request_seconds)
        for start in starts:
            start.engine_seconds += time.monotonic() - began
        return results


class Start:
    """An episode with its environment, and where its time goes."""

    def __init__(self, episode: Episode, environment: Environment | None = None) -> None:
        self.episode = episode
        self.environment = environment
        self.engine_seconds = 0.0
        self._environment_seconds = 0.0
        self._began = time.monotonic()

    async def waiting(self, answer: Coroutine[Any, Any, Result]) -> Result:
        """The environment's answer, with the time that it takes counted."""
        began = time.monotonic()
        try:
            return await answer
        finally:
            self._environment_seconds += time.monotonic() - began

    def seconds(self) -> EpisodeSeconds:
        """What has been spent so far."""
        return EpisodeSeconds(time.monotonic() - self._began, self.engine_seconds, self._environment_seconds)


async def _pass(gate: asyncio.Barrier | None) -> None:
    if gate is not None:
        await gate.wait()


async def run_all(coroutines: Iterable[Coroutine[Any, Any, Result]]) -> list[Result]:
    """Results in order. The first failure cancels the others and is raised itself, not wrapped in a group."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in coroutines]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from failures
    return [task.result() for task in tasks]


def token_sampling(sampling: SamplingParams) -> TokenSampling:
    """`generator.sampling_params` in the engines' terms; `max_generate_length` is per turn.

    ValueError for `additional_kwargs`: they are an engine's own, and the contract has none.
    """
    if sampling.additional_kwargs:
        raise ValueError(
            f"generator.sampling_params.additional_kwargs: {', '.join(sampling.additional_kwargs)} cannot be passed on "
            "to the engines; remove them"
        )
    return TokenSampling(
        max_tokens=sampling.max_generate_length,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,
        stop=tuple(sampling.stop or ()),
    )
