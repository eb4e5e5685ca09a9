"""Generation: lengths over turns, batches, templates, and sampling that reaches the engine."""

from __future__ import annotations

import pytest

from rltrain_api.errors import ErrorCode
from rltrain_api.rules import generation
from rule_cases import (
    GENERATOR,
    TRAINER,
    UPSTREAM,
    Case,
    check_every_rule_is_broken,
    check_every_rule_is_documented,
    check_failure,
    check_remedy,
)

TEMPLATE = f"{GENERATOR}.chat_template"
LOGPROBS = f"{GENERATOR}.sampling_params.logprobs"

CASES = {
    "one turn with longer input": Case(
        {f"{GENERATOR}.max_input_length": 600},
        f"{GENERATOR}.max_input_length",
        ErrorCode.CONFLICT,
        ("600", "512", "unset"),
        {f"{TRAINER}.max_prompt_length": 600},
    ),
    "several turns with shorter input": Case(
        {f"{GENERATOR}.max_turns": 2, f"{GENERATOR}.max_input_length": 500},
        f"{GENERATOR}.max_input_length",
        ErrorCode.OUT_OF_RANGE,
        ("500", "512"),
        {f"{GENERATOR}.max_input_length": 2048},
    ),
    "thoughts that are to be left out of tokens that stay": Case(
        {
            f"{GENERATOR}.chat_template": {"source": "name", "name_or_path": "qwen3_without_thinking"},
            f"{GENERATOR}.max_turns": 3,
        },
        f"{GENERATOR}.chat_template.name_or_path",
        ErrorCode.CONFLICT,
        ("leaves out what was thought", "max_turns is 3"),
        {f"{GENERATOR}.step_wise_trajectories": True},
    ),
    "batches of several turns, builtin": Case(
        {f"{GENERATOR}.batched": True, f"{GENERATOR}.max_turns": 3},
        f"{GENERATOR}.batched",
        ErrorCode.CONFLICT,
        ("a single turn, and max_turns is 3",),
        {f"{GENERATOR}.batched": False},
    ),
    "batches of several turns": Case(
        {f"{GENERATOR}.batched": True, f"{GENERATOR}.max_turns": 3},
        f"{GENERATOR}.batched",
        ErrorCode.CONFLICT,
        ("a single turn, and max_turns is 3",),
        {f"{GENERATOR}.max_turns": 1},
        UPSTREAM,
    ),
    "batches with template arguments": Case(
        {f"{GENERATOR}.batched": True, f"{GENERATOR}.chat_template_kwargs": {"enable_thinking": False}},
        f"{GENERATOR}.chat_template_kwargs",
        ErrorCode.CONFLICT,
        ("enable_thinking cannot be given",),
        {f"{GENERATOR}.batched": False},
        UPSTREAM,
    ),
    "steps in batches": Case(
        {f"{GENERATOR}.batched": True, f"{GENERATOR}.step_wise_trajectories": True},
        f"{GENERATOR}.batched",
        ErrorCode.CONFLICT,
        ("step_wise_trajectories", "set it to false"),
        {f"{GENERATOR}.batched": False},
        UPSTREAM,
    ),
    "steps in one message": Case(
        {f"{GENERATOR}.use_conversation_multi_turn": False, f"{GENERATOR}.step_wise_trajectories": True},
        f"{GENERATOR}.use_conversation_multi_turn",
        ErrorCode.CONFLICT,
        ("set it to true",),
        {f"{GENERATOR}.use_conversation_multi_turn": True},
        UPSTREAM,
    ),
    "steps in a custom template": Case(
        {f"{TEMPLATE}.name_or_path": "qwen3_with_thinking", f"{GENERATOR}.step_wise_trajectories": True},
        f"{TEMPLATE}.name_or_path",
        ErrorCode.CONFLICT,
        ("set it to null",),
        {f"{TEMPLATE}.name_or_path": None},
        UPSTREAM,
    ),
    "template of no known name": Case(
        {f"{TEMPLATE}.name_or_path": "/data/template.jinja", f"{GENERATOR}.batched": True},
        f"{TEMPLATE}.name_or_path",
        ErrorCode.INVALID,
        ("/data/template.jinja", "qwen3_with_thinking or qwen3_without_thinking", "source to file"),
        {f"{TEMPLATE}.source": "file"},
        UPSTREAM,
    ),
    "custom template with log-probabilities": Case(
        {f"{TEMPLATE}.name_or_path": "qwen3_with_thinking", f"{GENERATOR}.eval_sampling_params": {"logprobs": None}},
        LOGPROBS,
        ErrorCode.CONFLICT,
        ("is unset, and SkyRL's default is 1", "chat_template"),
        {LOGPROBS: None},
        UPSTREAM,
    ),
    "custom template with log-probabilities in evaluation": Case(
        {f"{TEMPLATE}.name_or_path": "qwen3_with_thinking", LOGPROBS: None},
        f"{GENERATOR}.eval_sampling_params.logprobs",
        ErrorCode.CONFLICT,
        ("is unset, and SkyRL's default is 1",),
        {f"{TRAINER}.eval_interval": -1},
        UPSTREAM,
    ),
    "repetition penalty that vLLM never sees": Case(
        {f"{GENERATOR}.sampling_params.repetition_penalty": 1.1},
        f"{GENERATOR}.sampling_params.repetition_penalty",
        ErrorCode.CONFLICT,
        ("1.1 would be ignored", "additional_kwargs: {repetition_penalty: 1.1}"),
        {f"{GENERATOR}.sampling_params": {"additional_kwargs": {"repetition_penalty": 1.1}}},
        UPSTREAM,
    ),
    "evaluation before training alone": Case(
        {f"{TRAINER}.eval_before_train": True, f"{TRAINER}.eval_interval": -1},
        f"{TRAINER}.eval_before_train",
        ErrorCode.CONFLICT,
        ("eval_interval is -1",),
        {f"{TRAINER}.eval_before_train": False},
        UPSTREAM,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_broken(case: str) -> None:
    check_failure(CASES[case])


@pytest.mark.parametrize("case", CASES)
def test_put_right(case: str) -> None:
    check_remedy(CASES[case])


def test_every_rule_is_broken() -> None:
    check_every_rule_is_broken(generation, CASES.values())


def test_every_rule_is_documented() -> None:
    check_every_rule_is_documented(generation, CASES.values())
