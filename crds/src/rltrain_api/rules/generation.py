"""How prompts become responses: lengths over turns, batches, templates, sampling that an engine is really given."""

from __future__ import annotations

from collections.abc import Iterator

from rltrain_api.config import SamplingParams
from rltrain_api.errors import ErrorCode, FieldError
from rltrain_api.rules.facts import Facts, Rule, in_config
from rltrain_api.rules.wording import told, written

_GENERATOR = "generator"
# SkyRL's own chat templates (skyrl/train/generators/utils.py: CUSTOM_CHAT_TEMPLATES).
_TEMPLATE_NAMES = ("qwen3_with_thinking", "qwen3_without_thinking")
_FORGETS_THOUGHTS = "qwen3_without_thinking"


def one_turn_takes_the_prompt(facts: Facts) -> Iterator[FieldError]:
    """With max_turns 1, max_input_length is unset or trainer.max_prompt_length. SkyRL: G1."""
    given, prompt = facts.generator.max_input_length, facts.trainer.max_prompt_length
    if facts.generator.max_turns == 1 and given is not None and given != prompt:
        yield in_config(
            f"{_GENERATOR}.max_input_length",
            ErrorCode.CONFLICT,
            f"{given} differs from trainer.max_prompt_length {prompt}, and with max_turns 1 the prompt is all the "
            f"input; set it to {prompt} or leave it unset",
        )


def several_turns_hold_the_prompt(facts: Facts) -> Iterator[FieldError]:
    """With several turns, max_input_length is at least trainer.max_prompt_length. SkyRL: G1."""
    given, prompt = facts.generator.max_input_length, facts.trainer.max_prompt_length
    if facts.generator.max_turns > 1 and given is not None and given < prompt:
        yield in_config(
            f"{_GENERATOR}.max_input_length",
            ErrorCode.OUT_OF_RANGE,
            f"{given} tokens cannot hold a prompt of trainer.max_prompt_length {prompt}; set it to {prompt} or more",
        )


def batches_are_single_turns(facts: Facts) -> Iterator[FieldError]:
    """generator.batched comes with max_turns 1. Ours: SkyRL plays a single turn without a word."""
    generator = facts.generator
    if generator.batched and generator.max_turns > 1:
        yield in_config(
            f"{_GENERATOR}.batched",
            ErrorCode.CONFLICT,
            f"true generates a single turn, and max_turns is {generator.max_turns}; set it to false, or max_turns to 1",
        )


def batches_use_the_plain_template(facts: Facts) -> Iterator[FieldError]:
    """generator.batched comes without chat_template_kwargs. SkyRL: 2.7, its generator's constructor."""
    generator = facts.generator
    if generator.batched and generator.chat_template_kwargs:
        names = ", ".join(written(name) for name in sorted(generator.chat_template_kwargs))
        yield in_config(
            f"{_GENERATOR}.chat_template_kwargs",
            ErrorCode.CONFLICT,
            f"{names} cannot be given to the template with generator.batched true; remove chat_template_kwargs, or set "
            "batched to false",
        )


def steps_are_whole_conversations(facts: Facts) -> Iterator[FieldError]:
    """step_wise_trajectories comes with use_conversation_multi_turn, unbatched, and the tokenizer's own template.

    SkyRL: 2.7, its generator's constructor. The builtin trainer takes any template.
    """
    generator = facts.generator
    if not generator.step_wise_trajectories:
        return
    for name, clashes, remedy in (
        ("batched", generator.batched, "false"),
        ("use_conversation_multi_turn", not generator.use_conversation_multi_turn, "true"),
        (
            "chat_template.name_or_path",
            generator.chat_template.name_or_path is not None and facts.runs_upstream,
            "null",
        ),
    ):
        if clashes:
            yield in_config(
                f"{_GENERATOR}.{name}",
                ErrorCode.CONFLICT,
                f"cannot go together with step_wise_trajectories, which is true; set it to {remedy}, or "
                "step_wise_trajectories to false",
            )


def earlier_thoughts_stay(facts: Facts) -> Iterator[FieldError]:
    """With the builtin trainer, qwen3_without_thinking comes with single turns or step_wise_trajectories.

    Ours: several turns in one sample continue the tokens that were sampled, thoughts and all.
    """
    generator, template = facts.generator, facts.generator.chat_template
    forgets = template.source == "name" and template.name_or_path == _FORGETS_THOUGHTS
    if forgets and generator.max_turns > 1 and not generator.step_wise_trajectories and not facts.runs_upstream:
        yield in_config(
            f"{_GENERATOR}.chat_template.name_or_path",
            ErrorCode.CONFLICT,
            f"{_FORGETS_THOUGHTS} leaves out what was thought in earlier turns, and a sample of several turns "
            f"(max_turns is {generator.max_turns}) keeps every token; set step_wise_trajectories to true, or use "
            "another template",
        )


def named_template_is_known(facts: Facts) -> Iterator[FieldError]:
    """With chat_template.source name, name_or_path is a template that SkyRL has. SkyRL: its generator's constructor."""
    template = facts.generator.chat_template
    if template.source == "name" and template.name_or_path is not None and template.name_or_path not in _TEMPLATE_NAMES:
        yield in_config(
            f"{_GENERATOR}.chat_template.name_or_path",
            ErrorCode.INVALID,
            f"{template.name_or_path!r} is not a template that SkyRL 0.1 has: {' or '.join(_TEMPLATE_NAMES)}; use one "
            "of them, or set chat_template.source to file",
        )


def custom_template_has_no_log_probabilities(facts: Facts) -> Iterator[FieldError]:
    """A custom chat template comes with logprobs null, in training and evaluation. SkyRL: its agent loop."""
    generator = facts.generator
    if generator.batched or generator.step_wise_trajectories or generator.chat_template.name_or_path is None:
        return
    sampled = [("sampling_params", generator.sampling_params)]
    if facts.trainer.eval_interval > 0:
        # What is unset is derived, with SkyRL's default for logprobs.
        sampled.append(("eval_sampling_params", generator.eval_sampling_params or SamplingParams()))
    for name, sampling in sampled:
        if sampling.logprobs is None:
            continue
        yield in_config(
            f"{_GENERATOR}.{name}.logprobs",
            ErrorCode.CONFLICT,
            f"{told(sampling, 'logprobs')}, but SkyRL keeps no log-probabilities for conversations in a custom "
            "chat_template; set it to null, or chat_template.name_or_path to null",
        )


def repetition_penalty_reaches_the_engine(facts: Facts) -> Iterator[FieldError]:
    """repetition_penalty is 1. Ours: SkyRL 0.1 does not pass it on to vLLM."""
    generator = facts.generator
    for name, sampling in (
        ("sampling_params", generator.sampling_params),
        ("eval_sampling_params", generator.eval_sampling_params),
    ):
        if sampling is not None and sampling.repetition_penalty != 1:
            yield in_config(
                f"{_GENERATOR}.{name}.repetition_penalty",
                ErrorCode.CONFLICT,
                f"{sampling.repetition_penalty:g} would be ignored, because SkyRL 0.1 does not pass it to vLLM; write "
                f"it as additional_kwargs: {{repetition_penalty: {sampling.repetition_penalty:g}}} and remove it here",
            )


def first_evaluation_takes_place(facts: Facts) -> Iterator[FieldError]:
    """eval_before_train, where it is set to true, comes with an eval_interval. Ours: without, SkyRL never evaluates."""
    trainer = facts.trainer
    if "eval_before_train" not in trainer.model_fields_set or not trainer.eval_before_train:
        return
    if trainer.eval_interval <= 0:
        yield in_config(
            "trainer.eval_before_train",
            ErrorCode.CONFLICT,
            f"true would be ignored, because SkyRL reads no evaluation data where eval_interval is "
            f"{trainer.eval_interval}; set eval_interval to 1 or more, or this to false",
        )


RULES: tuple[Rule, ...] = (
    one_turn_takes_the_prompt,
    several_turns_hold_the_prompt,
    batches_are_single_turns,
    steps_are_whole_conversations,
    earlier_thoughts_stay,
)
SKYRL_RULES: tuple[Rule, ...] = (
    batches_use_the_plain_template,
    named_template_is_known,
    custom_template_has_no_log_probabilities,
    repetition_penalty_reaches_the_engine,
    first_evaluation_takes_place,
)
