"""Cases of rules: a job that breaks one, and the same job after the remedy that the message names.

The tables are in `tests/unit/test_rules_*.py`, one for each module of `rltrain_api.rules`; here is what they share. Two
jobs are the ground that cases stand on: the least that RLTrain's own trainer takes, and the least that upstream's does.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import yaml

from rltrain_api.errors import ErrorCode, FieldError
from rltrain_api.job import RLTrainingJob
from rltrain_api.rules.facts import Facts, Rule
from rltrain_api.validate import parse_job, validate

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "validation.md"

BUILTIN = """
apiVersion: rltrain.io/v1alpha1
kind: RLTrainingJob
metadata: {name: job}
spec:
  config:
    data: {train_data: [/data/train.parquet], val_data: [/data/validation.parquet]}
    trainer:
      placement: {colocate_all: false, policy_num_gpus_per_node: 2}
      policy: {model: {path: /data/model}}
      algorithm: {use_kl_loss: false}
      train_batch_size: 8
      policy_mini_batch_size: 4
      ckpt_path: /checkpoints/job
      logger: console
    generator:
      inference_engine: {backend: builtin}
      n_samples_per_prompt: 4
  runtime: {image: trainer}
  storage:
    checkpoints: {claimName: checkpoints}
    data: [{name: data, mountPath: /data, claimName: data}]
"""
UPSTREAM = BUILTIN.replace("inference_engine: {backend: builtin}", "inference_engine: {}").replace(
    "runtime: {image: trainer}", "runtime: {image: trainer, trainer: skyrl}"
)

CONFIG = "spec.config"
TRAINER = f"{CONFIG}.trainer"
ALGORITHM = f"{TRAINER}.algorithm"
PLACEMENT = f"{TRAINER}.placement"
GENERATOR = f"{CONFIG}.generator"
ENGINE = f"{GENERATOR}.inference_engine"

Changes = Mapping[str, Any]
DELETED = object()


@dataclass(frozen=True)
class Case:
    """A job that breaks a rule, the one error that this is, and the same job put right.

    Args:
        fails: Dotted paths and their values, on top of the ground.
        path: Where the error is.
        code: Its code.
        words: What its message must hold.
        remedy: Further paths and values with which the job is valid.
        ground: The job that everything is on top of, as YAML.
        others: Paths of further errors that cannot be had apart from this one.
    """

    fails: Changes
    path: str
    code: ErrorCode
    words: tuple[str, ...]
    remedy: Changes
    ground: str = BUILTIN
    others: tuple[str, ...] = field(default=())


class Subject(Protocol):
    """A module of `rltrain_api.rules`."""

    RULES: tuple[Rule, ...]
    SKYRL_RULES: tuple[Rule, ...]


def document(changes: Changes, ground: str = BUILTIN) -> dict[str, Any]:
    """The ground with the value at each dotted path replaced, or removed where it is DELETED."""
    result: dict[str, Any] = copy.deepcopy(yaml.safe_load(ground))
    for path, value in changes.items():
        *parents, last = path.split(".")
        inner: Any = result
        for key in parents:
            inner = inner[int(key)] if isinstance(inner, list) else inner.setdefault(key, {})
        if isinstance(inner, list):
            inner[int(last)] = copy.deepcopy(value)
        elif value is DELETED:
            inner.pop(last, None)
        else:
            inner[last] = copy.deepcopy(value)
    return result


def parsed(changes: Changes, ground: str = BUILTIN) -> RLTrainingJob:
    """The job of that document, which must have the form of one."""
    job = parse_job(document(changes, ground))
    assert isinstance(job, RLTrainingJob), job
    return job


def check_failure(case: Case) -> None:
    """The job has the one error, with every word; further errors are only those that the case names."""
    errors = validate(parsed(case.fails, case.ground))
    found = [error for error in errors if error.path == case.path]
    assert sorted(error.path for error in errors) == sorted([case.path, *case.others]), errors
    assert [error.code for error in found] == [case.code], found
    for word in case.words:
        assert word in found[0].message, found[0].message


def check_remedy(case: Case) -> None:
    """With the remedy nothing is wrong any more."""
    errors = validate(parsed({**case.fails, **case.remedy}, case.ground))
    assert not errors, errors


def rules_of(subject: Subject) -> tuple[Rule, ...]:
    """All rules of a module."""
    return (*subject.RULES, *subject.SKYRL_RULES)


def errors_by_rule(subject: Subject, cases: Iterable[Case]) -> dict[str, list[FieldError]]:
    """What each rule of a module says to the failing jobs of the cases, those that concern it."""
    found: dict[str, list[FieldError]] = {rule.__name__: [] for rule in rules_of(subject)}
    for case in cases:
        facts = Facts(parsed(case.fails, case.ground))
        applying = rules_of(subject) if facts.runs_upstream else subject.RULES
        for rule in applying:
            found[rule.__name__] += rule(facts)
    return found


def check_every_rule_is_broken(subject: Subject, cases: Iterable[Case]) -> None:
    """No rule of the module goes without a failing case."""
    unbroken = [name for name, errors in errors_by_rule(subject, cases).items() if not errors]
    assert not unbroken, unbroken


def check_every_rule_is_documented(subject: Subject, cases: Iterable[Case]) -> None:
    """docs/validation.md has a line for each rule: what must hold and whence, as the docstring says, a true example.

    A line reads: | `name` | what must hold | source | example |
    """
    lines = {
        match.group(1): [cell.strip() for cell in re.split(r"(?<!\\)\|", match.group(2))[:3]]
        for match in re.finditer(r"^\| `(\w+)` \|(.*)\|$", DOCUMENTATION.read_text(encoding="utf-8"), re.M)
    }
    said = errors_by_rule(subject, cases)
    for rule in rules_of(subject):
        assert rule.__name__ in lines, f"docs/validation.md has no line for {rule.__name__}"
        holds, source, example = lines[rule.__name__]
        assert (holds, source) == holds_and_source(rule), f"{rule.__name__}: {holds_and_source(rule)}"
        examples = {str(error).replace("|", r"\|") for error in said[rule.__name__]}
        assert example.strip("`") in examples, f"{rule.__name__}: {examples}"


def holds_and_source(rule: Rule) -> tuple[str, str]:
    """What a rule's docstring says must hold, and its source: from "SkyRL: …" or "Ours" to the paragraph's end.

    The source stands behind what must hold, or in a paragraph of its own.
    """
    paragraphs = [" ".join(text.split()) for text in (rule.__doc__ or "").split("\n\n")]
    for paragraph in paragraphs:
        match = re.search(r"(?:^| )((?:SkyRL: |Ours\b).*)", paragraph)
        if match is not None:
            holds = paragraph[: match.start()] if paragraph is paragraphs[0] else paragraphs[0]
            return holds.replace("|", r"\|"), match.group(1).replace("|", r"\|")
    raise AssertionError(f"{rule.__name__}: the docstring names no source, 'SkyRL: …' or 'Ours'")
