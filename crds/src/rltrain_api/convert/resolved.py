"""A configuration with everything written out, reduced to what somebody must have set.

Must not know where the configuration came from.
"""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from rltrain_api.config import SkyRLTrainConfig
from rltrain_api.convert.fields import Path, leaf_paths
from rltrain_api.overrides import Override, apply_overrides
from rltrain_api.resolve import resolve

# Fields that SkyRL derives where nobody sets them, those first that others are derived from: looked at last.
_DERIVED: tuple[Path, ...] = (
    ("generator", "max_input_length"),
    ("generator", "rope_scaling"),
    ("generator", "rope_theta"),
    ("trainer", "algorithm", "temperature"),
    ("trainer", "algorithm", "max_seq_len"),
    ("trainer", "ref", "model", "path"),
)
_EVALUATION = ("generator", "eval_sampling_params")
# A document that sets as many fields was written by a program, not by a person.
_WRITTEN_OUT = 0.6


def is_written_out(tree: dict[str, Any]) -> bool:
    """Whether a tree sets so many fields that most of them are only repeated defaults."""
    leaves = leaf_paths()
    return sum(_at(tree, path)[0] for path in leaves) > _WRITTEN_OUT * len(leaves)


def minimal(tree: dict[str, Any]) -> dict[str, Any]:
    """The fields of a tree without which SkyRL would resolve it to something else, in the tree's order.

    Both trees resolve to the same configuration. A tree that is invalid is returned as it is: what is wrong with it is
    for others to say.
    """
    try:
        wanted = resolve(SkyRLTrainConfig.model_validate(tree)).model_dump(mode="json")
    except ValidationError:
        return tree
    result: dict[str, Any] = {}
    while missing := [path for path in _different(result, wanted) if _is_set_directly(path)]:
        result = _with(result, wanted, missing)
    for path in _DERIVED:
        if path in _different(result, wanted):
            result = _with(result, wanted, [path])
    while missing := _different(result, wanted):
        result = _with(result, wanted, missing)
    for path in leaf_paths():  # a field can be needed only until another one is there
        less = _without(result, path)
        if less is not result and not _different(less, wanted):
            result = less
    return _in_order_of(tree, result)


def _is_set_directly(path: Path) -> bool:
    return path not in _DERIVED and path[: len(_EVALUATION)] != _EVALUATION


def _with(tree: dict[str, Any], wanted: dict[str, Any], paths: list[Path]) -> dict[str, Any]:
    return apply_overrides(tree, [Override(path, _at(wanted, path)[1]) for path in paths])


def _without(tree: dict[str, Any], path: Path) -> dict[str, Any]:
    """The tree without one value, and without the sections that become empty; the same tree where it has none."""
    name, rest = path[0], path[1:]
    if name not in tree:
        return tree
    below = _without(tree[name], rest) if rest and isinstance(tree[name], dict) else {}
    if below is tree[name]:
        return tree
    return {key: below if key == name else value for key, value in tree.items() if key != name or below}


def _different(tree: dict[str, Any], wanted: dict[str, Any]) -> list[Path]:
    """The fields that a tree resolves otherwise than wanted."""
    found = resolve(SkyRLTrainConfig.model_validate(tree)).model_dump(mode="json")
    return [path for path in leaf_paths() if _at(found, path) != _at(wanted, path)]


def _at(tree: Any, path: Path) -> tuple[bool, Any]:
    for name in path:
        if not isinstance(tree, dict) or name not in tree:
            return False, None
        tree = tree[name]
    return True, tree


def _in_order_of(model: dict[str, Any], tree: dict[str, Any]) -> dict[str, Any]:
    """The tree with its keys in the other's order; keys that the other has not come last."""
    names = [*(name for name in model if name in tree), *(name for name in tree if name not in model)]
    ordered: dict[str, Any] = {}
    for name in names:
        value, other = tree[name], model.get(name)
        ordered[name] = _in_order_of(other, value) if isinstance(value, dict) and isinstance(other, dict) else value
    return ordered
