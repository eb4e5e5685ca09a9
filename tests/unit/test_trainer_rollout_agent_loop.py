"""Episodes: the tokens that were sampled are the tokens that are trained on, turn after turn, whatever happens."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import skyrl_gym
from skyrl_gym.envs.base_text_env import BaseTextEnv, BaseTextEnvStepOutput
from skyrl_gym.envs.registration import deregister
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from rltrain_api.config import SamplingParams, SkyRLTrainConfig
from rltrain_api.resolve import resolve
from rltrain_trainer.data.rows import PromptRow
from rltrain_trainer.engines.builtin.service import Settings, served
from rltrain_trainer.engines.contract import FinishReason, GenerateRequest, GenerateResult, TokenSampling
from rltrain_trainer.engines.http_engine import HttpEngine
from rltrain_trainer.rollout.agent_loop import RolloutGenerator, token_sampling
from rltrain_trainer.rollout.conversation import ConversationTemplate
from rltrain_trainer.rollout.environments import EnvironmentTimeoutError
from rltrain_trainer.rollout.trajectory import Trajectory, VersionSpan

END = "<|im_end|>"
HUNG = threading.Event()  # never set: what a hung environment waits for


class CountingEnvironment(BaseTextEnv):  # type: ignore[misc]  # skyrl-gym ships no types
    """Asks for the next number until `turns` have been played; scores 1 for the right one."""

    opened = 0
    closed = 0

    def __init__(self, env_config: Any = None, extras: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.extras = extras or {}
        self.turn = 0
        CountingEnvironment.opened += 1
        self.number = CountingEnvironment.opened

    def step(self, action: str) -> BaseTextEnvStepOutput:
        if self.number <= self.extras.get("hanging_episodes", 0):
            HUNG.wait(10)
        self.turn += 1
        return BaseTextEnvStepOutput(
            observations=[{"role": "user", "content": f"after {action}?"}],
            reward=1.0 if action.startswith(str(self.turn)) else 0.0,
            done=self.turn == self.extras["turns"],
            metadata={},
        )

    def close(self) -> None:
        CountingEnvironment.closed += 1

    def get_metrics(self) -> dict[str, Any]:
        return {"turns": self.turn, "comment": "not a number"}


@pytest.fixture(autouse=True)
def counting() -> Iterator[None]:
    CountingEnvironment.opened = CountingEnvironment.closed = 0
    skyrl_gym.register("counting", CountingEnvironment)
    yield
    deregister("counting")


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> PreTrainedTokenizerBase:
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(tiny_model)
    return loaded


@dataclass
class ScriptedFleet:
    """Answers with the given texts in order; a text that does not end with END was cut off, unless it is in `stops`."""

    tokenizer: PreTrainedTokenizerBase
    texts: list[str]
    stops: tuple[str, ...] = ()
    requests: list[GenerateRequest] = field(default_factory=list)

    async def generate(self, request: GenerateRequest, *, deadline_seconds: float) -> tuple[GenerateResult, ...]:
        self.requests.append(request)
        return tuple(self._result(self.texts.pop(0)) for _ in range(request.samples))

    def _result(self, text: str) -> GenerateResult:
        ids = tuple(self.tokenizer.encode(text))
        ended = text.endswith((END, *self.stops))
        version = len(self.requests)
        return GenerateResult(
            token_ids=ids,
            logprobs=tuple(-0.1 * (index + 1) for index in range(len(ids))),
            finish_reason=FinishReason.STOP if ended else FinishReason.LENGTH,
            spans=(VersionSpan(version, 0, len(ids)),),
        )


def config_of(*, max_env_workers: int = 4, **generator: Any) -> SkyRLTrainConfig:
    document = {
        "trainer": {"max_prompt_length": 200},
        "generator": generator,
        "environment": {"skyrl_gym": {"max_env_workers": max_env_workers}},
    }
    return resolve(SkyRLTrainConfig.model_validate(document))


def row_of(uid: str = "7", env_class: str = "counting", **extras: Any) -> PromptRow:
    return PromptRow(uid, ({"role": "user", "content": "count"},), env_class, extras)


def gsm8k_row(answer: str) -> PromptRow:
    return row_of(env_class="gsm8k", reward_spec={"method": "rule", "ground_truth": answer})


async def play(
    fleet: ScriptedFleet, row: PromptRow, config: SkyRLTrainConfig, samples: int = 1, environment_seconds: float = 20
) -> list[Trajectory]:
    generator = RolloutGenerator(fleet, fleet.tokenizer, config, environment_seconds=environment_seconds)
    return await generator.generate([row], sampling=config.generator.sampling_params, samples_per_prompt=samples)


async def test_one_turn_is_scored_and_its_samples_are_one_request(tokenizer: PreTrainedTokenizerBase) -> None:
    texts = [f"#### 4{END}", f"#### 5{END}", "I think it is", f"so #### 4{END}"]
    fleet = ScriptedFleet(tokenizer, list(texts))
    trajectories = await play(fleet, gsm8k_row("4"), config_of(), samples=4)
    assert [trajectory.reward for trajectory in trajectories] == [1.0, 0.0, 0.0, 1.0]
    assert [trajectory.stop_reason for trajectory in trajectories] == ["stop", "stop", "length", "stop"]
    (request,) = fleet.requests
    assert request.samples == 4
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "count"}], add_generation_prompt=True, return_dict=False
    )
    for text, trajectory in zip(texts, trajectories, strict=True):
        ids = tuple(tokenizer.encode(text))
        assert trajectory == Trajectory(
            group_id="7",
            prompt_ids=tuple(prompt),
            response_ids=ids,
            rollout_logprobs=tuple(-0.1 * (index + 1) for index in range(len(ids))),
            loss_mask=(1,) * len(ids),
            token_rewards=(0.0,) * (len(ids) - 1) + (trajectory.reward,),
            stop_reason=trajectory.stop_reason,
            version_spans=(VersionSpan(1, 0, len(ids)),),
            environment_metrics={},
        )


async def test_turns_are_joined_as_the_chat_template_would_write_them(tokenizer: PreTrainedTokenizerBase) -> None:
    fleet = ScriptedFleet(tokenizer, [f"1{END}", f"9 or 2{END}", f"3{END}"])
    (trajectory,) = await play(fleet, row_of(turns=3), config_of(max_turns=5))
    conversation = [
        {"role": "user", "content": "count"},
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": "after 1?"},
        {"role": "assistant", "content": "9 or 2"},
        {"role": "user", "content": "after 9 or 2?"},
        {"role": "assistant", "content": "3"},
    ]
    whole = tokenizer.apply_chat_template(conversation, return_dict=False)
    # Behind the last end-of-sequence token the template writes a line break, which the model does not sample.
    assert [*trajectory.prompt_ids, *trajectory.response_ids] == whole[:-1]
    sampled = "".join(
        tokenizer.decode([token])
        for token, mask in zip(trajectory.response_ids, trajectory.loss_mask, strict=True)
        if mask
    )
    assert sampled == f"1{END}9 or 2{END}3{END}"
    ends = [index for index, token in enumerate(trajectory.response_ids) if token == tokenizer.eos_token_id]
    turn_ends = [index for index in ends if trajectory.loss_mask[index]]
    assert [trajectory.token_rewards[index] for index in turn_ends] == [1.0, 0.0, 1.0]
    assert trajectory.reward == 2.0
    for token_logprob, mask in zip(trajectory.rollout_logprobs, trajectory.loss_mask, strict=True):
        assert (token_logprob != 0) == bool(mask)
    covered = [index for span in trajectory.version_spans for index in range(span.start, span.end)]
    assert covered == [index for index, mask in enumerate(trajectory.loss_mask) if mask]
    assert [span.version for span in trajectory.version_spans] == [1, 2, 3]
    # Each request continues exactly the tokens that the trajectory holds at that point.
    everything = (*trajectory.prompt_ids, *trajectory.response_ids)
    for request in fleet.requests:
        assert request.token_ids == everything[: len(request.token_ids)]
    assert trajectory.environment_metrics == {"turns": 3.0}
    assert CountingEnvironment.closed == 1


async def test_a_turn_that_a_stop_string_ended_is_closed_before_the_next(tokenizer: PreTrainedTokenizerBase) -> None:
    fleet = ScriptedFleet(tokenizer, ["1</n>", "2</n>"], stops=("</n>",))
    config = config_of(max_turns=5, sampling_params={"stop": ["</n>"]})
    (trajectory,) = await play(fleet, row_of(turns=2), config)
    assert fleet.requests[0].sampling.stop == ("</n>",)
    first = len(tokenizer.encode("1</n>"))
    assert trajectory.response_ids[first] == tokenizer.eos_token_id
    assert trajectory.loss_mask[: first + 1] == (1,) * first + (0,)
    assert trajectory.token_rewards[first - 1] == 1.0  # on the last sampled token
    assert trajectory.loss_mask[-1] == 1  # nothing is appended after the last turn
    assert trajectory.reward == 2.0


@dataclass(frozen=True)
class Ending:
    texts: list[str]
    turns: int
    generator: dict[str, Any]
    stop_reason: str
    reward: float
    requests: int
    masked: bool = False


ENDINGS = {
    "the environment is done": Ending([f"1{END}", f"2{END}"], 2, {"max_turns": 9}, "stop", 2.0, 2),
    "turns run out": Ending([f"1{END}", f"2{END}"], 9, {"max_turns": 2}, "stop", 2.0, 2),
    "a turn is cut off": Ending([f"1{END}", "2 and"], 9, {"max_turns": 9}, "length", 2.0, 2),
    "no room for another turn": Ending([f"1{END}"], 9, {"max_turns": 9, "max_input_length": 45}, "length", 1.0, 1),
    "non-stop earns nothing": Ending(["1"], 1, {"zero_reward_on_non_stop": True}, "length", 0.0, 1),
    "a stop earns": Ending([f"1{END}"], 1, {"zero_reward_on_non_stop": True}, "stop", 1.0, 1),
    "overlong is not trained on": Ending(["1"], 1, {"apply_overlong_filtering": True}, "length", 1.0, 1, masked=True),
    "a whole one is": Ending([f"1{END}"], 1, {"apply_overlong_filtering": True}, "stop", 1.0, 1),
}


@pytest.mark.parametrize("case", ENDINGS.values(), ids=ENDINGS.keys())
async def test_how_an_episode_ends(case: Ending, tokenizer: PreTrainedTokenizerBase) -> None:
    fleet = ScriptedFleet(tokenizer, list(case.texts))
    (trajectory,) = await play(fleet, row_of(turns=case.turns), config_of(**case.generator))
    assert (trajectory.stop_reason, trajectory.reward) == (case.stop_reason, case.reward)
    assert len(fleet.requests) == case.requests
    assert (sum(trajectory.loss_mask) == 0) == case.masked


async def test_rows_keep_their_order_and_samples_their_side(tokenizer: PreTrainedTokenizerBase) -> None:
    class Slow(ScriptedFleet):
        async def generate(self, request: GenerateRequest, *, deadline_seconds: float) -> tuple[GenerateResult, ...]:
            await asyncio.sleep(0.05 if request.request_id.startswith("a-") else 0)
            return await super().generate(request, deadline_seconds=deadline_seconds)

    fleet = Slow(tokenizer, [f"{index}{END}" for index in range(6)])
    config = config_of()
    rows = [row_of(uid, turns=1) for uid in ("a", "b", "c")]
    generator = RolloutGenerator(fleet, tokenizer, config)
    found = await generator.generate(rows, sampling=config.generator.sampling_params, samples_per_prompt=2)
    assert [trajectory.group_id for trajectory in found] == ["a", "a", "b", "b", "c", "c"]
    assert len(fleet.requests) == 3


async def test_an_environment_that_hangs_once_is_played_again(tokenizer: PreTrainedTokenizerBase) -> None:
    fleet = ScriptedFleet(tokenizer, [f"1{END}"] * 9)
    row = row_of(turns=1, hanging_episodes=1)
    config = config_of(max_env_workers=1)  # the hung thread must not keep the only worker
    trajectories = await play(fleet, row, config, samples=2, environment_seconds=0.5)
    assert [trajectory.reward for trajectory in trajectories] == [1.0, 1.0]
    assert [request.samples for request in fleet.requests] == [2, 1]


async def test_an_environment_that_hangs_again_is_named(tokenizer: PreTrainedTokenizerBase) -> None:
    fleet = ScriptedFleet(tokenizer, [f"1{END}"] * 9)
    with pytest.raises(EnvironmentTimeoutError, match="environment counting of row 7: step did not return within 0 s"):
        await play(fleet, row_of(turns=1, hanging_episodes=9), config_of(), environment_seconds=0.3)


async def test_errors_reach_the_caller_as_they_are(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(AssertionError, match="reward_spec field is required"):
        await play(ScriptedFleet(tokenizer, []), row_of(env_class="gsm8k"), config_of())
    with pytest.raises(ValueError, match=r"row 7: its prompt has \d+ tokens, generator.max_input_length is 5"):
        await play(ScriptedFleet(tokenizer, []), row_of(turns=1), config_of(max_input_length=5))


def test_sampling_parameters_are_mapped_by_name() -> None:
    params = SamplingParams(
        max_generate_length=9, temperature=0.3, top_p=0.9, top_k=4, min_p=0.1, repetition_penalty=1.2, stop=["x"]
    )
    assert token_sampling(params) == TokenSampling(
        max_tokens=9, temperature=0.3, top_p=0.9, top_k=4, min_p=0.1, repetition_penalty=1.2, stop=("x",)
    )
    with pytest.raises(ValueError, match="additional_kwargs: logit_bias cannot be passed on"):
        token_sampling(SamplingParams(additional_kwargs={"logit_bias": {}}))


def test_a_template_that_rewrites_the_past_is_refused(tokenizer: PreTrainedTokenizerBase, tiny_model: Path) -> None:
    rewriting: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(tiny_model)
    rewriting.chat_template = "{{ messages | length }}{% for message in messages %}{{ message['content'] }}{% endfor %}"
    template = ConversationTemplate(rewriting)
    with pytest.raises(ValueError, match="renders earlier messages differently"):
        template.continuation([{"role": "user", "content": "more"}])
    rewriting.chat_template = None
    with pytest.raises(ValueError, match="no chat template"):
        ConversationTemplate(rewriting)


async def test_a_real_engine_serves_rollouts(tiny_model: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    class Direct:
        def __init__(self, engine: HttpEngine) -> None:
            self.engine = engine

        async def generate(self, request: GenerateRequest, *, deadline_seconds: float) -> tuple[GenerateResult, ...]:
            return await self.engine.generate(request)

    settings = Settings(model=str(tiny_model), dtype="float32", max_model_len=300)
    config = config_of(sampling_params={"max_generate_length": 12})
    async with served(settings) as server:
        engine = HttpEngine("engine", server.url)
        generator = RolloutGenerator(Direct(engine), tokenizer, config)
        rows = [gsm8k_row("1"), gsm8k_row("2")]
        found = await generator.generate(rows, sampling=config.generator.sampling_params, samples_per_prompt=3)
        await engine.close()
    assert len(found) == 6
    for trajectory in found:
        length = len(trajectory.response_ids)
        assert 0 < length <= 12
        assert len(trajectory.rollout_logprobs) == len(trajectory.loss_mask) == len(trajectory.token_rewards) == length
        assert trajectory.version_spans[-1].end == length
