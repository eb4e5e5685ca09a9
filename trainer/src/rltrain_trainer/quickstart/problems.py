"""Arithmetic word problems: the text, the worked solution, the answer, and disjoint splits of them.

Every problem is one addition or subtraction told in one of several ways. Equal seeds give equal problems on any
machine: only `random.Random` decides, and it is documented to be stable. This module must not know about tokens, models
or files.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

TRADES = ("Baker", "Farmer", "Miller", "Painter", "Sailor", "Tailor", "Teacher", "Weaver")
THINGS = ("apples", "books", "coins", "cards", "eggs", "pens", "shells", "stamps")
LARGEST_OPERAND = 10

# The reward rule of the environment "gsm8k" of skyrl-gym, as documented there: the first match counts, and what it
# captures must equal the ground truth as a string once commas and dollar signs are gone.
ANSWER_PATTERN = re.compile(r"#### (-?[0-9.,]+)")


@dataclass(frozen=True)
class Template:
    """One way to tell a problem; `{a}` is never less than `{b}` where the operation is a subtraction."""

    operation: str  # "+" or "-"
    text: str


TEMPLATES = (
    Template("+", "{name} has {a} {things}. {other} gives {name} {b} more. How many now?"),
    Template("+", "{name} has {a} {things} and {other} has {b}. How many together?"),
    Template("+", "There are {a} {things} in a box. {name} adds {b}. How many now?"),
    Template("-", "{name} has {a} {things}. {name} gives {b} to {other}. How many left?"),
    Template("-", "{name} has {a} {things} and {other} has {b}. How many more has {name}?"),
    Template("-", "There are {a} {things} in a box. {name} takes {b}. How many left?"),
)


@dataclass(frozen=True)
class Problem:
    """A question in words, with the one line that solves it."""

    question: str
    left: int
    operation: str  # "+" or "-"
    right: int

    @property
    def answer(self) -> int:
        """The number asked for; never negative."""
        return self.left + self.right if self.operation == "+" else self.left - self.right

    @property
    def solution(self) -> str:
        """The worked line and the answer in the form that the reward looks for, such as `3 + 4 = 7 #### 7`."""
        return f"{self.left} {self.operation} {self.right} = {self.answer} #### {self.answer}"


def is_correct(response: str, ground_truth: str) -> bool:
    """Whether `response` earns the reward of the environment "gsm8k"."""
    found = ANSWER_PATTERN.search(response)
    return found is not None and found.group(1).replace(",", "").replace("$", "") == ground_truth


def draw(generator: random.Random) -> Problem:
    """One problem, drawn evenly over templates, names, things and operands."""
    template = generator.choice(TEMPLATES)
    name, other = generator.sample(TRADES, 2)
    left, right = generator.randint(1, LARGEST_OPERAND), generator.randint(1, LARGEST_OPERAND)
    if template.operation == "-" and left < right:
        left, right = right, left
    question = template.text.format(name=name, other=other, things=generator.choice(THINGS), a=left, b=right)
    return Problem(question=question, left=left, operation=template.operation, right=right)


def draw_distinct(seed: int) -> Iterator[Problem]:
    """An endless stream of problems with no question twice."""
    generator = random.Random(seed)  # noqa: S311 - reproducible data, not a secret
    seen: set[str] = set()
    while True:
        problem = draw(generator)
        if problem.question not in seen:
            seen.add(problem.question)
            yield problem


def draw_splits(seed: int, sizes: Mapping[str, int]) -> dict[str, list[Problem]]:
    """Named splits of the given sizes; no question is in two of them, nor twice in one."""
    stream = draw_distinct(seed)
    return {name: [next(stream) for _ in range(size)] for name, size in sizes.items()}


def every_word() -> list[str]:
    """Questions and solutions that hold, together, each word and sign that a problem can have."""
    questions = [
        template.text.format(name=name, other=name, things=thing, a=LARGEST_OPERAND, b=LARGEST_OPERAND)
        for template in TEMPLATES
        for name in TRADES
        for thing in THINGS
    ]
    solutions = [Problem("", LARGEST_OPERAND, operation, LARGEST_OPERAND).solution for operation in "+-"]
    return questions + solutions
