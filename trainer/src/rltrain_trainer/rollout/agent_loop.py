"""Rollouts: prompts in, trajectories out. The model acts, the environment answers, turn by turn, all rows at once.

    row ─► environment.init ─► prompt tokens ─► fleet ─► sampled tokens ─► environment.step ─► (next turn) ─► Trajectory

Lost engines are the fleet's business; an environment that hangs is tried once more from the start, then the row is
named in an error. It must not know training, Ray nor which engine serves.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Coroutine, Iterable, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

from transformers import PreTrainedTokenizerBase

from rltrain_api.config import SamplingParams, SkyRLTrainConfig
from rltrain_trainer.data.rows import PromptRow
from rltrain_trainer.engines.contract import GenerateRequest, GenerateResult, TokenSampling
from rltrain_trainer.rollout.conversation import ConversationTemplate
from rltrain_trainer.rollout.environments import Environment, EnvironmentPool, EnvironmentTimeoutError
from rltrain_trainer.rollout.episode import EpisodeRecord
from rltrain_trainer.rollout.trajectory import Trajectory

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
        self._template = ConversationTemplate(tokenizer)
        self._config = config
        self._max_turns = config.generator.max_turns
        self._request_seconds = request_seconds
        self._pool = EnvironmentPool(config.environment.skyrl_gym.max_env_workers, deadline_seconds=environment_seconds)

    async def generate(
        self, rows: Sequence[PromptRow], *, sampling: SamplingParams, samples_per_prompt: int
    ) -> list[Trajectory]:
        """`samples_per_prompt` trajectories per row, those of one row side by side, rows in order.

        Raises NoEngineServesError when the fleet cannot serve in time, EnvironmentTimeoutError when an environment
        hangs twice, and whatever an environment raises.
        """
        wanted = token_sampling(sampling)
        by_row = await run_all(self._row(row, wanted, samples_per_prompt) for row in rows)
        return [trajectory for trajectories in by_row for trajectory in trajectories]

    async def _row(self, row: PromptRow, sampling: TokenSampling, samples: int) -> list[Trajectory]:
        """All samples of one prompt. Where each is one turn from the same start, one request asks for all of them."""
        if self._max_turns > 1 or samples == 1:
            return await run_all(self._episode(row, sampling) for _ in range(samples))
        environments = await run_all(self._open(row) for _ in range(samples))
        prompts = [self._prompt(row, environment) for environment in environments]
        if any(prompt != prompts[0] for prompt in prompts):  # environments may set each episode its own task
            results = await run_all(self._sample(row, prompt, sampling, 1) for prompt in prompts)
            firsts = [result for (result,) in results]
        else:
            firsts = list(await self._sample(row, prompts[0], sampling, samples))
        return await run_all(
            self._episode(row, sampling, (environment, prompt, first))
            for environment, prompt, first in zip(environments, prompts, firsts, strict=True)
        )

    async def _episode(
        self,
        row: PromptRow,
        sampling: TokenSampling,
        begun: tuple[Environment, list[int], GenerateResult] | None = None,
    ) -> Trajectory:
        """One episode; played anew, once, when its environment hangs. `begun`: one whose first turn is sampled."""
        try:
            if begun is not None:
                return await self._play(row, sampling, *begun)
            return await self._begin(row, sampling)
        except EnvironmentTimeoutError as error:
            logger.warning("%s; the episode is played anew", error)
        return await self._begin(row, sampling)

    async def _begin(self, row: PromptRow, sampling: TokenSampling) -> Trajectory:
        environment = await self._open(row)
        prompt = self._prompt(row, environment)
        (first,) = await self._sample(row, prompt, sampling, 1)
        return await self._play(row, sampling, environment, prompt, first)

    async def _play(
        self,
        row: PromptRow,
        sampling: TokenSampling,
        environment: Environment,
        prompt: list[int],
        result: GenerateResult,
    ) -> Trajectory:
        """Turns from the first response to the end of the episode."""
        record = EpisodeRecord(row.uid, prompt)
        what = f"environment {row.env_class} of row {row.uid}"
        for turn in range(1, self._max_turns + 1):
            record.sampled(result)
            action = self._template.text(result.token_ids)
            observations, reward, done = await self._pool.run(f"{what}: step", partial(environment.step, action))
            record.rewarded(reward)
            # A turn that was cut off has no end: nothing can follow it in a well-formed conversation.
            if done or turn == self._max_turns or result.finish_reason != "stop":
                break
            if result.token_ids[-1] != self._template.eos_token_id:
                record.observed([self._template.eos_token_id])  # a stop string ended the turn: close the message
            record.observed(self._template.continuation(observations))
            if len(record.tokens) > self._max_input_length:
                record.cut_off()
                break
            (result,) = await self._sample(row, record.tokens, sampling, 1)
        metrics = await self._pool.run(f"{what}: close", environment.end)
        return record.trajectory(
            metrics,
            zero_reward_on_non_stop=self._config.generator.zero_reward_on_non_stop,
            apply_overlong_filtering=self._config.generator.apply_overlong_filtering,
        )

    async def _open(self, row: PromptRow) -> Environment:
        settings = getattr(self._config.environment.skyrl_gym, row.env_class, {})
        what = f"environment {row.env_class} of row {row.uid}: init"
        make = partial(Environment, row, settings, self._max_turns)
        try:
            return await self._pool.run(what, make)
        except EnvironmentTimeoutError as error:
            logger.warning("%s; it is tried once more", error)
        return await self._pool.run(what, make)

    def _prompt(self, row: PromptRow, environment: Environment) -> list[int]:
        tokens = self._template.prompt(environment.conversation)
        if len(tokens) > self._max_input_length:
            raise ValueError(
                f"row {row.uid}: its prompt has {len(tokens)} tokens, generator.max_input_length is "
                f"{self._max_input_length}; raise it or lower trainer.max_prompt_length"
            )
        return tokens

    async def _sample(
        self, row: PromptRow, tokens: Sequence[int], sampling: TokenSampling, samples: int
    ) -> tuple[GenerateResult, ...]:
        request = GenerateRequest(f"{row.uid}-{uuid.uuid4().hex}", tuple(tokens), sampling, samples)
        return await self._fleet.generate(request, deadline_seconds=self._request_seconds)

    @property
    def _max_input_length(self) -> int:
        length = self._config.generator.max_input_length
        assert length is not None, "resolve() sets max_input_length"
        return length


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
