"""Sequences get every token that was sampled for them, under the right version, whenever it is handed over."""

from __future__ import annotations

from dataclasses import replace

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from rltrain_trainer.engines.builtin.batch import DRAWN_AHEAD
from rltrain_trainer.engines.builtin.runner import ModelRunner
from rltrain_trainer.engines.builtin.scheduler import Scheduler
from rltrain_trainer.engines.builtin.sequences import Sequence, StopRule
from rltrain_trainer.engines.contract import FinishReason, TokenSampling

torch.set_num_threads(1)

SAMPLING = TokenSampling(2 * DRAWN_AHEAD + 5, ignore_eos=True)
LENGTH = 128


def scheduler_of(slots: int = 4) -> Scheduler:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=LENGTH,
    )
    model = Qwen2ForCausalLM(config).eval()
    runner = ModelRunner(model, max_sequences=slots, max_length=LENGTH, cache_bytes=2**24, device=torch.device("cpu"))
    return Scheduler(runner, "1")


def sequence_of(prompt: list[int], sampling: TokenSampling = SAMPLING, seed: int = 7) -> Sequence:
    rule = StopRule.of(sampling, frozenset(), decode=lambda tokens: "".join(chr(97 + token % 26) for token in tokens))
    return Sequence("request", prompt, sampling, seed, rule, LENGTH)


def run(scheduler: Scheduler, *sequences: Sequence) -> None:
    for sequence in sequences:
        scheduler.add(sequence)
    while not scheduler.is_idle:
        scheduler.step()


def test_an_abort_hands_over_what_was_sampled_under_each_version() -> None:
    scheduler = scheduler_of()
    sequence = sequence_of([1, 2, 3])
    scheduler.add(sequence)
    for _ in range(5):
        scheduler.step()
    scheduler.weight_version = "2"
    for _ in range(3):
        scheduler.step()
    assert scheduler.abort() == [sequence]
    # The first step samples twice: after the prompt, and after that token.
    assert sequence.spans() == [{"version": "1", "start": 0, "end": 6}, {"version": "2", "start": 6, "end": 9}]
    assert len(sequence.response) == len(sequence.logprobs) == 9
    assert sequence.finish_reason == FinishReason.ABORT


def test_tokens_do_not_depend_on_when_they_are_handed_over() -> None:
    all_at_once, one_by_one, interrupted = (sequence_of([1, 2, 3]) for _ in range(3))
    # A stop string that never comes: the text is looked at after every token.
    one_by_one.stop_rule = replace(one_by_one.stop_rule, strings=("Z",))
    run(scheduler_of(), all_at_once)
    run(scheduler_of(), one_by_one)
    scheduler = scheduler_of()
    scheduler.add(interrupted)
    for _ in range(DRAWN_AHEAD + 3):
        scheduler.step()
    scheduler.forget_cache()
    run(scheduler)
    assert len(all_at_once.response) == SAMPLING.max_tokens
    assert one_by_one.response == interrupted.response == all_at_once.response
    torch.testing.assert_close(torch.tensor(one_by_one.logprobs), torch.tensor(all_at_once.logprobs))
    assert all_at_once.finish_reason == interrupted.finish_reason == FinishReason.LENGTH


def test_each_member_ends_by_its_own_rule() -> None:
    alone = sequence_of([1, 2, 3])
    run(scheduler_of(), alone)
    stop = alone.response[4]
    ends = alone.response.index(stop) + 1
    stopped = sequence_of([1, 2, 3], replace(SAMPLING, stop_token_ids=(stop,)))
    short = sequence_of([1, 2, 3], replace(SAMPLING, max_tokens=11))
    unstopped, late = sequence_of([1, 2, 3]), sequence_of([4, 5], seed=8)
    run(scheduler_of(slots=3), stopped, short, unstopped, late)  # the last one waits for a slot
    assert (stopped.response, stopped.finish_reason, stopped.stop_reason) == (
        alone.response[:ends],
        FinishReason.STOP,
        stop,
    )
    assert (short.response, short.finish_reason) == (alone.response[:11], FinishReason.LENGTH)
    assert unstopped.response == alone.response
    lonely = sequence_of([4, 5], seed=8)
    run(scheduler_of(), lonely)
    assert late.response == lonely.response
