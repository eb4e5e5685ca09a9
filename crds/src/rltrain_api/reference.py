"""docs/api.md: every field of RLTrainingJob with its type, bounds, default and meaning, made from the models.

    python -m rltrain_api.reference            writes docs/api.md
    python -m rltrain_api.reference PATH       writes it there

The file is committed, and a test fails where it differs from what this module makes. A section that several fields
share is described once. This module must not know a single field by name.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from rltrain_api import names
from rltrain_api.job import Spec
from rltrain_api.model_tree import section_in
from rltrain_api.spec.base import QUANTITY_PATTERN
from rltrain_api.status import Status

DOCUMENT = Path(__file__).parents[3] / "docs" / "api.md"

_HEAD = f"""# The API: {names.API_VERSION}, kind {names.KIND}

Made by `python -m rltrain_api.reference` from the models in `crds/src/rltrain_api`; change those instead. `kubectl
explain rltj.spec.config.trainer` says the same at the terminal.

`spec.config` is SkyRL's `SkyRLTrainConfig`: same names, same nesting, same types, same defaults. What is unset there
stays unset in the cluster, because SkyRL derives some values from others that nobody set; what a run really uses is
in the ConfigMap that `status.resolvedConfig` names. Which values the builtin trainer honours is in
[validation.md](validation.md).

Numbers such as `1e-6` may be written as they are. A reader of YAML 1.1 takes them for text; kubectl does not, and
`rltrain_api.reading`, which the command line uses, makes numbers of them. A program of yours that posts what
another YAML reader gave it writes `1.0e-6`.

A plain `kubectl apply` leaves out what is null before it sends a job; `kubectl create`, `kubectl apply --server-side`
and Helm do not. Where null means something else than unset (`generator.sampling_params.logprobs`), an entry of
`spec.overrides`, such as `generator.sampling_params.logprobs=null`, says it through every door.
"""

# Bounds as people write them, by the name of the constraint.
_BOUNDS = {"ge": "≥ {}", "gt": "> {}", "le": "≤ {}", "lt": "< {}"}
_NO_BOUND = {2**31 - 1}  # the widest integer of the schema says nothing to a reader


def document_text() -> str:
    """The text of docs/api.md."""
    parts = [_HEAD, "## spec\n", *_sections(Spec, "spec"), "## status\n", *_sections(Status, "status")]
    return "\n".join(parts).rstrip("\n") + "\n"


def _sections(root: type[BaseModel], path: str) -> Iterator[str]:
    """The table of a model and then of every section below it, each class once, in the order of the fields."""
    places: dict[type[BaseModel], list[str]] = {}
    _collect(root, path, places)
    for model, paths in places.items():
        shown = ", ".join(f"`{place}`" for place in paths)
        yield f"### {model.__name__}\n"
        yield f"{shown}: {_sentence(model.__doc__ or '')}\n"
        yield "| field | type | default | meaning |\n|---|---|---|---|"
        for name, field in model.model_fields.items():
            yield _row(field.alias or name, field)
        yield ""
        rules = [*_rules(model), *(rule for field in model.model_fields.values() for rule in _field_rules(field))]
        if rules:
            yield "The API server also checks:\n"
            yield from (f"- {rule}" for rule in rules)
            yield ""


def _rules(model: type[BaseModel]) -> list[str]:
    """The messages of the rules between a model's fields."""
    extra = model.model_config.get("json_schema_extra")
    return _messages(extra if isinstance(extra, dict) else {})


def _field_rules(field: FieldInfo) -> list[str]:
    extra = field.json_schema_extra
    return _messages(extra if isinstance(extra, dict) else {})


def _messages(extra: Mapping[str, Any]) -> list[str]:
    return [rule["message"] for rule in extra.get("x-kubernetes-validations", [])]


def _collect(model: type[BaseModel], path: str, places: dict[type[BaseModel], list[str]]) -> None:
    places.setdefault(model, []).append(path)
    for name, field in model.model_fields.items():
        section, in_list = section_in(field.annotation), get_origin(field.annotation) is list
        if section is not None:
            _collect(section, f"{path}.{field.alias or name}{'[]' if in_list else ''}", places)


def _row(name: str, field: FieldInfo) -> str:
    kind = _kind(field.annotation, field.metadata)
    cells = [f"`{name}`", kind, _default(field), _sentence(field.description or "")]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, BaseModel):
        return ""
    return "unset" if value is None else f"`{json.dumps(value, default=str)}`"


def _kind(annotation: Any, metadata: list[Any]) -> str:
    """A type in words, with its bounds."""
    origin, members = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(members[0], [*metadata, *members[1:]])
    if origin is Literal:
        return " or ".join(f"`{member}`" for member in members)
    if origin in (Union, UnionType):
        return " or ".join(_kind(member, metadata) for member in members if member is not NoneType)
    if origin is list:
        section = section_in(annotation)
        inner = f"[{section.__name__}](#{section.__name__.lower()})" if section else _kind(members[0], [])
        return f"list of {inner}"
    if origin is dict:
        return "map"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    if annotation is str:
        return "quantity" if _pattern(metadata) == QUANTITY_PATTERN else "string"
    words = {int: "integer", float: "number", bool: "true or false"}
    bounds = _bounds(metadata)
    return f"{words.get(annotation, 'time')}{' ' + bounds if bounds else ''}"


def _pattern(metadata: list[Any]) -> str | None:
    return next((found for item in _constraints(metadata) if (found := getattr(item, "pattern", None))), None)


def _bounds(metadata: list[Any]) -> str:
    found = []
    for constraint in _constraints(metadata):
        for name, words in _BOUNDS.items():
            value = getattr(constraint, name, None)
            if value is not None and value not in _NO_BOUND:
                found.append(words.format(value))
    return " and ".join(found)


def _constraints(metadata: list[Any]) -> Iterator[Any]:
    for item in metadata:
        if isinstance(item, FieldInfo):
            yield from _constraints(item.metadata)
        elif isinstance(item, annotated_types.GroupedMetadata):
            yield from item
        else:
            yield item


def _sentence(text: str) -> str:
    return " ".join(text.split())


def main(arguments: list[str]) -> None:
    """Write the document to the path given, or to its place in the repository."""
    path = Path(arguments[0]) if arguments else DOCUMENT
    path.write_text(document_text(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
