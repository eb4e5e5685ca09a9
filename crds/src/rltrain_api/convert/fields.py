"""The fields of the configuration tree, looked up by path; and values in the form that a field takes.

Made from the models, so no field is named here. Must not know where a value comes from.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from rltrain_api.config import SkyRLTrainConfig
from rltrain_api.model_tree import section_in

Path = tuple[str, ...]
_SIMILAR = 0.8


class Place(Enum):
    """What is at a path of the tree."""

    FIELD = "field"
    SECTION = "section"
    FREE = "free"  # inside a map that takes any key
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Fitted:
    """A value as its field takes it, and what was changed about it (empty where nothing was)."""

    value: object
    remark: str = ""


def place_of(path: Path) -> Place:
    """What the tree has at a path."""
    place, _ = _lookup(path)
    return place


def section_at(path: Path) -> type[BaseModel] | None:
    """The model of the section at a path, or None where there is none."""
    place, annotation = _lookup(path)
    return section_in(annotation) if place is Place.SECTION else None


@cache
def leaf_paths() -> tuple[Path, ...]:
    """The paths of all fields that hold a value, in the tree's order."""
    return tuple(_leaves(SkyRLTrainConfig, ()))


def similar_to(path: Path) -> str | None:
    """The path of a field that was probably meant, dotted."""
    text = ".".join(path)
    by_last_name = [other for other in leaf_paths() if other[-1] == path[-1]]
    if len(by_last_name) == 1:
        return ".".join(by_last_name[0])
    near = difflib.get_close_matches(text, [".".join(other) for other in leaf_paths()], n=1, cutoff=_SIMILAR)
    return near[0] if near else None


def fit_value(path: Path, value: object, written: str | None = None) -> Fitted:
    """The value in the form that the field takes, where SkyRL, which checks no types, would have taken it as it is.

    Args:
        path: Of a field.
        value: Plain data.
        written: The value as it was written, before YAML made something of it.
    """
    place, annotation = _lookup(path)
    if place is not Place.FIELD or value is None:
        return Fitted(value)
    types = _types_in(annotation)
    if type(value) in types or (isinstance(value, int) and not isinstance(value, bool) and float in types):
        return Fitted(value)
    if isinstance(value, float) and value.is_integer() and int in types:
        return Fitted(int(value), f"{_shown(value)} is written as the integer {int(value)}")
    if isinstance(value, str) and list in types:
        return Fitted([value], "a single entry is written as a list")
    if isinstance(value, bool | int | float) and str in types:
        text = written.strip() if written is not None else _shown(value)
        return Fitted(text, f"{text} is text and is written in quotes")
    return Fitted(value)


def in_tree_order(tree: dict[str, Any], path: Path = ()) -> dict[str, Any]:
    """The tree with the fields of each section in SkyRL's order; what is in no section keeps its own."""
    model = section_at(path)
    if model is None:
        return tree
    known = [name for name in model.model_fields if name in tree]
    names = [*known, *(name for name in tree if name not in model.model_fields)]
    return {
        name: in_tree_order(tree[name], (*path, name)) if isinstance(tree[name], dict) else tree[name] for name in names
    }


def _lookup(path: Path) -> tuple[Place, Any]:
    model: type[BaseModel] = SkyRLTrainConfig
    annotation: Any = SkyRLTrainConfig
    for depth, name in enumerate(path, start=1):
        field = model.model_fields.get(name)
        if field is None:
            return Place.NOTHING, None
        annotation = field.annotation
        below = section_in(annotation)
        if below is not None:
            model = below
        elif depth == len(path):
            return Place.FIELD, annotation
        else:
            return (Place.FREE, annotation) if dict in _types_in(annotation) else (Place.NOTHING, None)
    return Place.SECTION, annotation


def _leaves(model: type[BaseModel], path: Path) -> list[Path]:
    found: list[Path] = []
    for name, field in model.model_fields.items():
        below = section_in(field.annotation)
        found += _leaves(below, (*path, name)) if below is not None else [(*path, name)]
    return found


def _types_in(annotation: Any) -> set[type]:
    """The Python types that an annotation allows at its top: `int | None` gives int and NoneType."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _types_in(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return set().union(*(_types_in(member) for member in get_args(annotation)))
    if origin is Literal:
        return {type(value) for value in get_args(annotation)}
    if annotation is None:
        return {NoneType}
    return {origin or annotation}


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)
