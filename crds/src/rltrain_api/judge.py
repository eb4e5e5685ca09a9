"""Judging a document: errors of form and errors between fields together, as far as the first leave the second to tell.

A field whose form is wrong says nothing, but the others do: the document is read once more without the wrong fields,
and of what the rules then say everything is told that has nothing to do with them. So a person mends a file once, not
twice. Pure, and never raises for a document of plain data.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rltrain_api.errors import ErrorCode, FieldError
from rltrain_api.job import RLTrainingJob
from rltrain_api.parse import parse_job
from rltrain_api.validate import validate

_STEP = re.compile(r"\[(\d+)\]|([^.\[\]]+)")
_QUOTED = re.compile(r"'(\w+)'")
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is wrong with a document.

    Args:
        job: The job; None where the form of a field is wrong.
        errors: Every error that can be told now, sorted by path; the job is valid where there is none.
        complete: False where rules could not be asked, or could not be believed, before the form is right.
    """

    job: RLTrainingJob | None
    errors: tuple[FieldError, ...]
    complete: bool = True


def judge(document: Mapping[str, Any]) -> Judgement:
    """See the module's docstring."""
    parsed = parse_job(document)
    if isinstance(parsed, RLTrainingJob):
        return Judgement(parsed, tuple(validate(parsed)))
    rest = parse_job(_without(document, parsed))
    if not isinstance(rest, RLTrainingJob):
        return Judgement(None, tuple(parsed), complete=False)
    doubtful = _names_in_doubt(parsed)
    told = validate(rest)
    believed = [error for error in told if doubtful.isdisjoint(_WORD.findall(f"{error.path} {error.message}"))]
    return Judgement(None, tuple(sorted({*parsed, *believed})), complete=len(believed) == len(told))


def _without(document: Mapping[str, Any], errors: Iterable[FieldError]) -> dict[str, Any]:
    """The document without the fields that the errors name, and without the entries of lists that have one."""
    rest = copy.deepcopy(dict(document))
    # From behind, so that removing an entry of a list does not move the ones that are still to go.
    for steps in sorted({_doomed(error) for error in errors}, key=_order, reverse=True):
        _remove(rest, steps)
    return rest


def _doomed(error: FieldError) -> tuple[int | str, ...]:
    """What has to go for this error to go: the field, or the entry of a list that it is in."""
    steps = _steps(error.path)
    inside = [number for number, step in enumerate(steps, start=1) if isinstance(step, int)]
    return steps[: inside[-1]] if inside else steps


def _steps(path: str) -> tuple[int | str, ...]:
    return tuple(int(index) if index else name for index, name in _STEP.findall(path))


def _order(steps: tuple[int | str, ...]) -> list[tuple[int, str]]:
    return [(step, "") if isinstance(step, int) else (-1, step) for step in steps]


def _remove(document: Any, steps: tuple[int | str, ...]) -> None:
    if not steps:
        return
    inner = document
    for step in steps[:-1]:
        inner = _below(inner, step)
    if isinstance(inner, dict):
        inner.pop(str(steps[-1]), None)
    elif isinstance(inner, list) and isinstance(steps[-1], int):
        inner[steps[-1] : steps[-1] + 1] = []


def _below(inner: Any, step: int | str) -> Any:
    if isinstance(inner, dict):
        return inner.get(str(step))
    return inner[step] if isinstance(inner, list) and isinstance(step, int) and step < len(inner) else None


def _names_in_doubt(errors: Iterable[FieldError]) -> set[str]:
    """The fields that the errors are about: their own names, and what a misspelt one may have been meant to be."""
    names: set[str] = set()
    for error in errors:
        if error.path.startswith("spec.overrides["):  # the field's path begins the message, with or without a value
            key = error.message.partition(": ")[0].partition("=")[0]
            names.update(_WORD.findall(key)[-1:])
        else:
            names.update(str(step) for step in _steps(error.path)[-1:])
        if error.code is ErrorCode.UNKNOWN_FIELD:
            names.update(_QUOTED.findall(error.message))
    return names
