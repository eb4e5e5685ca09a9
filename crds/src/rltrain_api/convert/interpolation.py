"""Hydra's interpolations in YAML: `${trainer.max_prompt_length}`, `${oc.env:HOME}/data`.

Those that stand for another value of the configuration, or for a variable that is given, are replaced. Must not know
how the document was read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from rltrain_api.config import SkyRLTrainConfig
from rltrain_api.env.secrecy import is_secret
from rltrain_api.resolve import resolve

_INTERPOLATION = re.compile(r"\$\{([^${}]*)\}")
_REFERENCE = re.compile(r"(\.*)([A-Za-z_][\w\-]*(?:\.[A-Za-z_][\w\-]*)*)")
_ENVIRONMENT = re.compile(r"(?:oc\.)?env:\s*([A-Za-z_]\w*)\s*(?:,\s*(.*?)\s*)?")
_MAX_STEPS = 20  # of references to references, and of interpolations inside interpolations
_MAX_REPLACEMENTS = 1000  # in one value
_HOME = "~"


class InterpolationError(ValueError):
    """An interpolation whose value cannot be known; the message says why and what to do."""


def resolve_value(value: object, path: tuple[str, ...], root: Mapping[str, Any], given: Mapping[str, str]) -> object:
    """The value with every interpolation in it replaced; a value without any is returned as it is.

    Args:
        value: Plain data at `path` of `root`.
        path: Where it stands, for references that begin with dots.
        root: The whole document.
        given: Variables of the environment.

    Raises:
        InterpolationError: one of them cannot be known.
    """
    return _resolved(value, path, _Source(root, given), 0)


class _Source:
    """Where values come from, and how many have been asked for."""

    def __init__(self, root: Mapping[str, Any], given: Mapping[str, str]) -> None:
        self.root = root
        self.given = given
        self.replacements = 0


def _resolved(value: object, path: tuple[str, ...], source: _Source, steps: int) -> object:
    if isinstance(value, list):
        return [_resolved(entry, path, source, steps) for entry in value]
    if isinstance(value, dict):
        return {key: _resolved(entry, (*path, key), source, steps) for key, entry in value.items()}
    if not isinstance(value, str):
        return value
    while "${" in value:
        steps += 1
        source.replacements += 1
        if steps > _MAX_STEPS or source.replacements > _MAX_REPLACEMENTS:
            raise InterpolationError("it refers to itself, or to too many others; write the value that is meant")
        match = _INTERPOLATION.search(value)
        if match is None:
            raise InterpolationError(f"'{value}' has an interpolation that is not closed; write the value itself")
        found = _found(match[1].strip(), path, source, steps)
        if match.span() == (0, len(value)):
            return found
        if isinstance(found, list | dict):
            raise InterpolationError(
                f"'${{{match[1]}}}' stands for a list or a map inside a text; write the value itself"
            )
        value = value[: match.start()] + ("" if found is None else str(found)) + value[match.end() :]
    return value


def _found(expression: str, path: tuple[str, ...], source: _Source, steps: int) -> object:
    environment = _ENVIRONMENT.fullmatch(expression)
    if environment is not None:
        return _from_environment(environment[1], environment[2], source.given)
    reference = _REFERENCE.fullmatch(expression)
    if reference is None:
        raise InterpolationError(f"'${{{expression}}}' is known to Hydra only; write the value itself")
    dots, names = len(reference[1]), tuple(reference[2].split("."))
    target = (*path[: len(path) - dots], *names) if dots else names
    value = _at(source.root, target)
    if value is _ABSENT:
        value = _default_at(target)
    if value is _ABSENT:
        raise InterpolationError(
            f"'${{{expression}}}' stands for {'.'.join(target)}, which is not there; write the value itself"
        )
    return _resolved(value, target, source, steps)


def _from_environment(name: str, default: str | None, given: Mapping[str, str]) -> str | None:
    if is_secret(name, ""):
        raise InterpolationError(f"{name} looks like a secret by its name, and secrets are not carried over")
    if name in given:
        return given[name]
    if name == "HOME":
        return _HOME
    if default is None:
        raise InterpolationError(f"{name} comes from the environment; give its value with --set {name}=VALUE")
    return None if default in ("null", "None") else default.strip("'\"")


class _Absent:
    """Stands for a value that is not there."""


_ABSENT = _Absent()


def _at(tree: object, path: tuple[str, ...]) -> object:
    for name in path:
        if not isinstance(tree, dict) or name not in tree:
            return _ABSENT
        tree = tree[name]
    return tree


def _default_at(path: tuple[str, ...]) -> object:
    return _at(_defaults(), path)


@cache
def _defaults() -> dict[str, Any]:
    return resolve(SkyRLTrainConfig()).model_dump(mode="json")
