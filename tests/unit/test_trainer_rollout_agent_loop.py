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
from rltrain_trainer.rollout.environments import EnvironmentFailedError, EnvironmentTimeoutError, check_registered
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
    return await generator.generate(
        [row], sampling=config.generator.sampling_params, samples_per_prompt=samples, seed=1
    )


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
            env_class="gsm8k",
            turn_lengths=(len(ids),),
            sample=trajectory.sample,
        )
    assert [trajectory.sample for trajectory in trajectories] == [0, 1, 2, 3]


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
    assert trajectory.environment_metrics == {"turns": 3, "comment": "not a number"}
    assert trajectory.turn_lengths == tuple(
        len(tokenizer.encode(text)) for text in (f"1{END}", f"9 or 2{END}", f"3{END}")
    )
    assert CountingEnvironment.closed == 1


@pytest.mark.proves("generator.use_conversation_multi_turn")
async def test_turns_in_one_message_have_nothing_of_the_template_between_them(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    fleet = ScriptedFleet(tokenizer, ["1</n>", f"2{END}", f"3{END}"], stops=("</n>",))
    config = config_of(max_turns=5, use_conversation_multi_turn=False, sampling_params={"stop": ["</n>"]})
    (trajectory,) = await play(fleet, row_of(turns=3), config)
    assert tokenizer.decode(trajectory.response_ids) == f"1</n>after 1</n>?2after 2?3{END}"
    sampled = [token for token, mask in zip(trajectory.response_ids, trajectory.loss_mask, strict=True) if mask]
    assert tokenizer.decode(sampled) == f"1</n>23{END}"  # the end of the second turn is taken back
    assert trajectory.reward == 3.0
    rewarded = [index for index, reward in enumerate(trajectory.token_rewards) if reward]
    assert all(trajectory.loss_mask[index] for index in rewarded)
    assert len(rewarded) == 3
    covered = [index for span in trajectory.version_spans for index in range(span.start, span.end)]
    assert covered == [index for index, mask in enumerate(trajectory.loss_mask) if mask]
    everything = (*trajectory.prompt_ids, *trajectory.response_ids)
    for request in fleet.requests:
        assert request.token_ids == everything[: len(request.token_ids)]


async def test_a_turn_in_which_nothing_is_said_ends_one_message(tokenizer: PreTrainedTokenizerBase) -> None:
    fleet = ScriptedFleet(tokenizer, ["1</n>", END], stops=("</n>",))
    (trajectory,) = await play(fleet, row_of(turns=9), config_of(max_turns=9, use_conversation_multi_turn=False))
    assert tokenizer.decode(trajectory.response_ids) == f"1</n>after 1</n>?{END}"
    assert len(fleet.requests) == 2


@pytest.mark.proves("generator.step_wise_trajectories")
async def test_every_turn_is_a_sample_with_the_conversation_as_its_prompt(tokenizer: PreTrainedTokenizerBase) -> None:
    fleet = ScriptedFleet(tokenizer, [f"1{END}", f"9{END}", f"3{END}"])
    steps = await play(fleet, row_of(turns=3), config_of(max_turns=5, step_wise_trajectories=True))
    assert [tokenizer.decode(step.response_ids) for step in steps] == [f"1{END}", f"9{END}", f"3{END}"]
    assert all(set(step.loss_mask) == {1} for step in steps)
    assert [step.reward for step in steps] == [1.0, 0.0, 1.0]
    assert [step.is_last_step for step in steps] == [False, False, True]
    assert {(step.group_id, step.sample) for step in steps} == {("7", 0)}
    conversation = [{"role": "user", "content": "count"}]
    for step, said in zip(steps, ("1", "9", "3"), strict=True):
        prompt = tokenizer.apply_chat_template(conversation, add_generation_prompt=True, return_dict=False)
        assert list(step.prompt_ids) == prompt
        conversation += [{"role": "assistant", "content": said}, {"role": "user", "content": f"after {said}?"}]
    assert [step.environment_metrics.get("turns") for step in steps] == [None, None, 3]


async def test_step_wise_samples_of_a_prompt_lie_side_by_side(tokenizer: PreTrainedTokenizerBase) -> None:
    fleet = ScriptedFleet(tokenizer, [f"{n}{END}" for n in range(4)])
    config = config_of(max_turns=5, step_wise_trajectories=True)
    steps = await play(fleet, row_of(turns=2), config, samples=2)
    assert [(step.sample, step.is_last_step) for step in steps] == [(0, False), (0, True), (1, False), (1, True)]


async def test_a_conversation_that_outgrows_the_input_ends_with_its_last_step(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    fleet = ScriptedFleet(tokenizer, [f"1{END}"])
    config = config_of(max_turns=9, max_input_length=45, step_wise_trajectories=True)
    (step,) = await play(fleet, row_of(turns=9), config)
    assert (step.stop_reason, step.is_last_step, step.reward) == ("length", True, 1.0)


@pytest.mark.proves("generator.append_eos_token_after_stop_str_in_multi_turn")
async def test_a_turn_may_stay_open_behind_a_stop_string(tokenizer: PreTrainedTokenizerBase) -> None:
    fleet = ScriptedFleet(tokenizer, ["1</n>", "2</n>"], stops=("</n>",))
    config = config_of(max_turns=5, append_eos_token_after_stop_str_in_multi_turn=False)
    (trajectory,) = await play(fleet, row_of(turns=2), config)
    first = len(tokenizer.encode("1</n>"))
    assert tokenizer.decode(trajectory.response_ids[first:]).startswith("\n<|im_start|>user\nafter 1</n>?")


@pytest.mark.proves("generator.chat_template.source", "generator.chat_template.name_or_path")
async def test_a_template_by_name_keeps_or_leaves_out_earlier_thoughts(tokenizer: PreTrainedTokenizerBase) -> None:
    messages = [
        {"role": "user", "content": "count"},
        {"role": "assistant", "content": "<think>one?</think>\n1"},
        {"role": "user", "content": "on"},
    ]
    row = PromptRow("7", tuple(messages), "counting", {"turns": 1})
    for name, kept in (("qwen3_with_thinking", "<think>one?</think>\n1"), ("qwen3_without_thinking", "1")):
        fleet = ScriptedFleet(tokenizer, [f"1{END}"])
        (trajectory,) = await play(fleet, row, config_of(chat_template={"source": "name", "name_or_path": name}))
        assert tokenizer.decode(trajectory.prompt_ids) == (
            f"<|im_start|>user\ncount{END}\n<|im_start|>assistant\n{kept}{END}\n"
            f"<|im_start|>user\non{END}\n<|im_start|>assistant\n"
        )


@pytest.mark.proves("generator.chat_template_kwargs")
async def test_further_arguments_reach_the_template(tiny_model: Path) -> None:
    own: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(tiny_model)
    own.chat_template = "{% if loud %}LOUD{% endif %}" + str(own.chat_template)
    fleet = ScriptedFleet(own, [f"1{END}", f"2{END}"])
    config = config_of(max_turns=2, chat_template_kwargs={"loud": True})
    (trajectory,) = await play(fleet, row_of(turns=2), config)
    assert own.decode(trajectory.prompt_ids).startswith("LOUD<|im_start|>user")
    assert "LOUD" not in own.decode(trajectory.response_ids)  # it begins a conversation, and does not come again


@pytest.mark.proves("generator.batched")
async def test_a_batch_is_sampled_before_any_environment_is_stepped(tokenizer: PreTrainedTokenizerBase) -> None:
    order: list[str] = []

    class Noting(ScriptedFleet):
        async def generate(self, request: GenerateRequest, *, deadline_seconds: float) -> tuple[GenerateResult, ...]:
            await asyncio.sleep(0.05 if request.request_id.startswith("a-") else 0)
            order.append("sample")
            return await super().generate(request, deadline_seconds=deadline_seconds)

    class NotingEnvironment(CountingEnvironment):
        def __init__(self, env_config: Any = None, extras: dict[str, Any] | None = None) -> None:
            super().__init__(env_config, extras)
            order.append("open")

        def step(self, action: str) -> BaseTextEnvStepOutput:
            order.append("step")
            return super().step(action)

    skyrl_gym.register("noting", NotingEnvironment)
    try:
        config = config_of(batched=True)
        generator = RolloutGenerator(Noting(tokenizer, [f"1{END}"] * 6), tokenizer, config)
        rows = [row_of(uid, "noting", turns=1) for uid in ("a", "b", "c")]
        found = await generator.generate(rows, sampling=config.generator.sampling_params, samples_per_prompt=2, seed=1)
    finally:
        deregister("noting")
    assert [trajectory.group_id for trajectory in found] == ["a", "a", "b", "b", "c", "c"]
    assert order == ["open"] * 6 + ["sample"] * 3 + ["step"] * 6


def test_an_environment_that_nobody_registered_is_named_with_its_row() -> None:
    check_registered([row_of(), row_of(env_class="text2sql")])
    with pytest.raises(
        ValueError, match="row 8: environment 'countdown' is registered by nobody; registered are aime,"
    ):
        check_registered([row_of(), row_of("8", env_class="countdown")])


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


@pytest.mark.proves(
    "generator.max_turns",
    "generator.max_input_length",
    "generator.zero_reward_on_non_stop",
    "generator.apply_overlong_filtering",
)
@pytest.mark.parametrize("case", ENDINGS.values(), ids=ENDINGS.keys())
async def test_how_an_episode_ends(case: Ending, tokenizer: PreTrainedTokenizerBase) -> None:
    fleet = ScriptedFleet(tokenizer, list(case.texts))
    (trajectory,) = await play(fleet, row_of(turns=case.turns), config_of(**case.generator))
    assert (trajectory.stop_reason, trajectory.reward) == (case.stop_reason, case.reward)
    assert len(fleet.requests) == case.requests
    assert (sum(trajectory.loss_mask) == 0) == case.masked


@pytest.mark.proves("generator.n_samples_per_prompt")
async def test_rows_keep_their_order_and_samples_their_side(tokenizer: PreTrainedTokenizerBase) -> None:
    class Slow(ScriptedFleet):
        async def generate(self, request: GenerateRequest, *, deadline_seconds: float) -> tuple[GenerateResult, ...]:
            await asyncio.sleep(0.05 if request.request_id.startswith("a-") else 0)
            return await super().generate(request, deadline_seconds=deadline_seconds)

    fleet = Slow(tokenizer, [f"{index}{END}" for index in range(6)])
    config = config_of()
    rows = [row_of(uid, turns=1) for uid in ("a", "b", "c")]
    generator = RolloutGenerator(fleet, tokenizer, config)
    found = await generator.generate(rows, sampling=config.generator.sampling_params, samples_per_prompt=2, seed=1)
    assert [trajectory.group_id for trajectory in found] == ["a", "a", "b", "b", "c", "c"]
    assert len(fleet.requests) == 3


async def test_an_environment_that_hangs_once_is_played_again(tokenizer: PreTrainedTokenizerBase) -> None:
    fleet = ScriptedFleet(tokenizer, [f"1{END}"] * 9)
    row = row_of(turns=1, hanging_episodes=1)
    config = config_of(max_env_workers=1)  # the hung thread must not keep the only worker
    trajectories = await play(fleet, row, config, samples=2, environment_seconds=0.5)
    assert [trajectory.reward for trajectory in trajectories] == [1.0, 1.0]
    assert [request.samples for request in fleet.requests] == [2, 1]


async def test_an_environment_that_hangs_again_costs_its_episode_and_not_the_step(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    fleet = ScriptedFleet(tokenizer, [f"1{END}"] * 9)
    generator = RolloutGenerator(fleet, tokenizer, config_of(max_turns=2), environment_seconds=0.3)
    rows = [row_of("good", turns=1), row_of("bad", turns=1, hanging_episodes=99)]
    good, bad = await generator.generate(rows, sampling=SamplingParams(), samples_per_prompt=1, seed=1)
    assert (good.group_id, good.reward) == ("good", 1.0)
    assert (bad.group_id, bad.stop_reason, bad.response_ids, bad.reward) == ("bad", "timeout", (), 0.0)
    assert bad.prompt_ids == good.prompt_ids


async def test_environments_that_all_hang_stop_the_run(tokenizer: PreTrainedTokenizerBase) -> None:
    fleet = ScriptedFleet(tokenizer, [f"1{END}"] * 9)
    with pytest.raises(EnvironmentTimeoutError, match=r"no environment of 1 rows answered \(counting\)"):
        await play(fleet, row_of(turns=1, hanging_episodes=9), config_of(), environment_seconds=0.3)


@pytest.mark.proves("environment.skyrl_gym.max_env_workers")
@pytest.mark.parametrize(("workers", "at_once"), [(0, 1), (1, 1), (3, 3)])
async def test_so_many_environments_are_stepped_at_once(
    tokenizer: PreTrainedTokenizerBase, workers: int, at_once: int
) -> None:
    """Each of three calls waits until as many as may run at once have begun, and sees that there are no more."""
    entered, most = threading.Semaphore(0), [0]
    lock, inside = threading.Lock(), [0]

    class Meeting(CountingEnvironment):
        def step(self, action: str) -> BaseTextEnvStepOutput:
            with lock:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                if inside[0] == at_once:
                    for _ in range(at_once):
                        entered.release()
            assert entered.acquire(timeout=10)
            with lock:
                inside[0] -= 1
            return super().step(action)

    skyrl_gym.register("meeting", Meeting)
    try:
        fleet = ScriptedFleet(tokenizer, [f"1{END}"] * 3)
        row = row_of(env_class="meeting", turns=1)
        found = await play(fleet, row, config_of(max_env_workers=workers), samples=3)
    finally:
        deregister("meeting")
    assert [trajectory.reward for trajectory in found] == [1.0] * 3
    assert most[0] == at_once


async def test_errors_name_the_row(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(
        EnvironmentFailedError,
        match="environment gsm8k of row 7: init raised AssertionError: reward_spec field is required",
    ):
        await play(ScriptedFleet(tokenizer, []), row_of(env_class="gsm8k"), config_of())
    with pytest.raises(ValueError, match=r"row 7: its prompt has \d+ tokens, generator.max_input_length is 5"):
        await play(ScriptedFleet(tokenizer, []), row_of(turns=1), config_of(max_input_length=5))


@pytest.mark.proves(
    "generator.sampling_params.max_generate_length",
    "generator.sampling_params.temperature",
    "generator.sampling_params.top_p",
    "generator.sampling_params.top_k",
    "generator.sampling_params.min_p",
    "generator.sampling_params.repetition_penalty",
    "generator.sampling_params.stop",
)
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


async def test_every_response_has_a_seed_of_its_own_that_is_the_same_again(tokenizer: PreTrainedTokenizerBase) -> None:
    async def seeds(seed: int, max_turns: int) -> list[int | None]:
        fleet = ScriptedFleet(tokenizer, [f"1{END}"] * 12)
        config = config_of(max_turns=max_turns)
        generator = RolloutGenerator(fleet, tokenizer, config)
        rows = [row_of(uid, turns=max_turns) for uid in ("a", "b")]
        await generator.generate(rows, sampling=config.generator.sampling_params, samples_per_prompt=2, seed=seed)
        return [request.sampling.seed for request in fleet.requests]

    several = await seeds(1, 3)
    assert len(set(several)) == 2 * 2 * 3
    assert sorted(map(str, await seeds(1, 3))) == sorted(map(str, several))
    assert set(await seeds(2, 3)).isdisjoint(several)
    assert len(set(await seeds(1, 1))) == 2  # one request for both samples of a row


@pytest.mark.proves("generator.sampling_params.logprobs", "generator.eval_sampling_params.logprobs")
@pytest.mark.parametrize("logprobs", [None, 0, 1])
async def test_log_probabilities_of_sampled_tokens_are_kept_whatever_is_asked_for(
    tokenizer: PreTrainedTokenizerBase, logprobs: int | None
) -> None:
    fleet = ScriptedFleet(tokenizer, [f"#### 4{END}"])
    (trajectory,) = await play(fleet, gsm8k_row("4"), config_of(sampling_params={"logprobs": logprobs}))
    assert all(logprob < 0 for logprob in trajectory.rollout_logprobs)


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
        found = await generator.generate(rows, sampling=config.generator.sampling_params, samples_per_prompt=3, seed=1)
        await engine.close()
    assert len(found) == 6
    for trajectory in found:
        length = len(trajectory.response_ids)
        assert 0 < length <= 12
        assert len(trajectory.rollout_logprobs) == len(trajectory.loss_mask) == len(trajectory.token_rewards) == length
        assert trajectory.version_spans[-1].end == length
