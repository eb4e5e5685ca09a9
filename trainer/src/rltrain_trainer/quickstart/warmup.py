"""Supervised warm-up: from random weights to a model that answers in the right form and is sometimes right.

Reinforcement learning needs an answer that is right now and then. The warm-up imitates demonstrations until the share
of right answers on held-out problems, sampled as the job will sample them, crosses a target; it stops by what was
measured and not by time, so that the start of the job is the same on a slow and on a fast machine. It must not know
about files.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy
from transformers import Qwen2ForCausalLM, Qwen2Tokenizer

from rltrain_trainer.quickstart.demonstrations import Demonstration
from rltrain_trainer.quickstart.model import sample_answers
from rltrain_trainer.quickstart.problems import Problem, is_correct
from rltrain_trainer.quickstart.tokenizer import render_prompt

IGNORED = -100  # the label that `cross_entropy` leaves out


@dataclass(frozen=True)
class WarmUpSettings:
    """When the warm-up stops, and how it learns until then."""

    target_accuracy: float = 0.25  # pass@1 on held-out problems; one check to the next can overshoot by 6 points
    max_steps: int = 4000
    max_seconds: float = 900.0
    check_every: int = 25  # steps between two measurements
    samples_per_problem: int = 2  # answers per held-out problem in a measurement
    max_new_tokens: int = 24
    batch_size: int = 64  # demonstrations per step
    learning_rate: float = 4e-3
    ramp_steps: int = 20  # steps in which the learning rate rises from 0
    flat_steps: int = 100  # steps after which it falls with the square root of the step


@dataclass(frozen=True)
class WarmUpResult:
    """How the warm-up ended."""

    steps: int
    accuracy: float  # the measurement that crossed the target
    seconds: float


@dataclass(frozen=True)
class EncodedDemonstrations:
    """Demonstrations as tensors of shape [demonstrations, longest], padded on the right."""

    tokens: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor  # the response's tokens; `IGNORED` on the prompt and on padding


def encode_demonstrations(tokenizer: Qwen2Tokenizer, shown: Sequence[Demonstration]) -> EncodedDemonstrations:
    """Prompt, response and end of message of every demonstration."""
    prompts = tokenizer([render_prompt(tokenizer, demonstration.question) for demonstration in shown])["input_ids"]
    responses = tokenizer([demonstration.response for demonstration in shown])["input_ids"]
    longest = max(len(prompt) + len(response) + 1 for prompt, response in zip(prompts, responses, strict=True))
    tokens = torch.full((len(shown), longest), tokenizer.pad_token_id)
    attention_mask = torch.zeros_like(tokens)
    labels = torch.full_like(tokens, IGNORED)
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        whole = torch.tensor([*prompt, *response, tokenizer.eos_token_id])
        tokens[row, : len(whole)] = whole
        attention_mask[row, : len(whole)] = 1
        labels[row, len(prompt) : len(whole)] = whole[len(prompt) :]
    return EncodedDemonstrations(tokens, attention_mask, labels)


def shuffled_batches(count: int, batch_size: int, seed: int) -> Iterator[torch.Tensor]:
    """Endless index tensors of shape [batch_size], each epoch in its own order, a short rest left out."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(count, generator=generator)
        for start in range(0, count - batch_size + 1, batch_size):
            yield order[start : start + batch_size]


def learning_rate_at(step: int, settings: WarmUpSettings) -> float:
    """Linear rise, a flat part, then the inverse square root: it needs no total, as the warm-up's end is not known."""
    rise = step / settings.ramp_steps
    fall = math.sqrt(settings.flat_steps / step)
    return settings.learning_rate * min(1.0, rise, fall)


def measure_accuracy(
    model: Qwen2ForCausalLM,
    tokenizer: Qwen2Tokenizer,
    problems: Sequence[Problem],
    *,
    seed: int,
    samples: int,
    max_new_tokens: int,
) -> float:
    """pass@1: the share of answers sampled at temperature 1 that the reward finds right."""
    answers = sample_answers(
        model,
        tokenizer,
        [problem.question for problem in problems],
        seed=seed,
        samples=samples,
        max_new_tokens=max_new_tokens,
    )
    truths = [str(problem.answer) for problem in problems for _ in range(samples)]
    right = sum(is_correct(answer, truth) for answer, truth in zip(answers, truths, strict=True))
    return right / len(truths)


def warm_up(
    model: Qwen2ForCausalLM,
    tokenizer: Qwen2Tokenizer,
    *,
    shown: Sequence[Demonstration],
    held_out: Sequence[Problem],
    seed: int,
    settings: WarmUpSettings,
    report: Callable[[str], None],
) -> WarmUpResult:
    """Train `model` in place until it crosses `settings.target_accuracy` on `held_out`; `report` gets a line a check.

    ValueError when the target is not reached within the step limit or the time limit.
    """
    encoded = encode_demonstrations(tokenizer, shown)
    batches = shuffled_batches(len(shown), settings.batch_size, seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=0.01)
    began = time.monotonic()
    accuracy = 0.0
    model.train()
    for step in range(1, settings.max_steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, settings)
        loss = _train_step(model, optimizer, encoded, next(batches))
        if step % settings.check_every:
            continue
        accuracy = measure_accuracy(
            model,
            tokenizer,
            held_out,
            seed=seed,
            samples=settings.samples_per_problem,
            max_new_tokens=settings.max_new_tokens,
        )
        seconds = time.monotonic() - began
        report(
            f"warm-up step {step}: loss {loss:.3f}, {accuracy:.1%} right "
            f"(stops at {settings.target_accuracy:.0%}), {seconds:.0f} s"
        )
        if accuracy >= settings.target_accuracy:
            return WarmUpResult(steps=step, accuracy=accuracy, seconds=seconds)
        if seconds > settings.max_seconds:
            raise ValueError(
                f"the warm-up reached {accuracy:.1%} of right answers instead of {settings.target_accuracy:.0%} within "
                f"its limit of {settings.max_seconds:.0f} s ({step} steps): give the initializer a whole CPU core"
            )
    raise ValueError(
        f"the warm-up reached {accuracy:.1%} of right answers instead of {settings.target_accuracy:.0%} within its "
        f"limit of {settings.max_steps} steps: choose another --seed, or an easier target"
    )


def _train_step(
    model: Qwen2ForCausalLM, optimizer: torch.optim.Optimizer, data: EncodedDemonstrations, rows: torch.Tensor
) -> float:
    """One AdamW step on the tokens of the responses; returns their mean loss in nats."""
    logits = model(input_ids=data.tokens[rows], attention_mask=data.attention_mask[rows]).logits
    loss = cross_entropy(logits[:, :-1].flatten(0, 1), data.labels[rows][:, 1:].flatten(), ignore_index=IGNORED)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it without types
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return float(loss.item())
