"""What the warm-up imitates: solutions of mixed quality, as text that people write down has it.

In about a third of the demonstrations the calculation is written out, and right. In the others the answer is guessed at
once and misses by a little. A model that imitates them can calculate, and mostly does not: it starts out wrong. The
reward of the reinforcement learning is all that tells it to write the calculation out, and to get it right. This module
must not know about tokens.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from rltrain_trainer.quickstart.problems import Problem

LARGEST_MISS = 5


@dataclass(frozen=True)
class Demonstration:
    """A question and one way to answer it, good or bad."""

    question: str
    response: str


def demonstrate(problems: Sequence[Problem], *, seed: int, rounds: int, worked_share: float) -> list[Demonstration]:
    """`rounds` demonstrations of every problem, each worked out with probability `worked_share`, else guessed."""
    generator = random.Random(seed)  # noqa: S311 - reproducible data, not a secret
    return [
        Demonstration(
            problem.question, problem.solution if generator.random() < worked_share else _guess(problem, generator)
        )
        for _ in range(rounds)
        for problem in problems
    ]


def _guess(problem: Problem, generator: random.Random) -> str:
    """A number near the answer and never below zero; it is right only where the miss is cut off at zero."""
    miss = generator.choice([distance for distance in range(-LARGEST_MISS, LARGEST_MISS + 1) if distance])
    return f"#### {max(0, problem.answer + miss)}"
