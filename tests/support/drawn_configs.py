"""Configurations drawn for property tests: any set of fields of the tree, each with a value that its model accepts.

The values are read off the models' own JSON schema, so a new field is drawn from the day it exists. Only single fields
are right here: whether they fit together is for the rules to say. This module must not know any single field.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hypothesis import strategies as st

from rltrain_api.config import SkyRLTrainConfig

Path = tuple[str, ...]
Schema = dict[str, Any]

# What readers of YAML take for something else, what shells do, and what ends up in paths.
_AWKWARD = ["on", "No", "null", "~", "1e-6", "0x10", "1_000", "12:30", "2026-01-31", "it's", 'a "b"', "a=b", "$HOME"]
_AWKWARD += ["`id`", "a: b", "#x", "[1]", "{a}", "-", "--x", "!t", "&a", "*a", "%x", " a ", "a\nb", "a\tb", "é", "日本"]
_LONGEST_TEXT = 24
_MOST_ENTRIES = 3


def leaves() -> dict[Path, Schema]:
    """The schema of every field of the tree that is no section, in the tree's order, by its path."""
    root = SkyRLTrainConfig.model_json_schema()
    return dict(_leaves(root, root["$defs"], ()))


def values(schema: Schema) -> st.SearchStrategy[Any]:
    """Everything that a field with this schema accepts; texts and lists stay short."""
    if "anyOf" in schema:
        return st.one_of(*(values(option) for option in schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        return st.sampled_from(schema.get("enum", [schema.get("const")]))
    match schema.get("type"):
        case "null":
            return st.none()
        case "boolean":
            return st.booleans()
        case "integer":
            return st.integers(schema["minimum"], schema["maximum"])
        case "number":
            return _floats(schema)
        case "string":
            return _texts(schema.get("minLength", 0), schema["maxLength"])
        case "array":
            fewest, most = schema.get("minItems", 0), schema["maxItems"]
            return st.lists(values(schema["items"]), min_size=fewest, max_size=min(most, fewest + _MOST_ENTRIES))
        case "object":
            return _objects()
    assert schema.get("x-kubernetes-preserve-unknown-fields"), schema
    if schema.get("default") == "wandb":  # of the two fields with two types, logger
        trackers = st.sampled_from(["wandb", "mlflow", "swanlab", "tensorboard", "console"])
        return trackers | st.lists(trackers, min_size=1, max_size=_MOST_ENTRIES)
    return st.booleans() | st.integers(1, 2**31 - 1)  # reshard_after_forward


def chosen(paths: Mapping[Path, Schema], most: int = 12) -> st.SearchStrategy[dict[Path, Any]]:
    """Values for up to `most` of the fields, in the order of the tree."""
    order = list(paths)
    some = st.lists(st.sampled_from(order), unique=True, max_size=most).map(
        lambda found: sorted(found, key=order.index)
    )
    return some.flatmap(lambda found: st.fixed_dictionaries({path: values(paths[path]) for path in found}))


def nested(settings: Mapping[Path, Any]) -> dict[str, Any]:
    """The tree that holds these values and nothing else."""
    tree: dict[str, Any] = {}
    for path, value in settings.items():
        section = tree
        for name in path[:-1]:
            section = section.setdefault(name, {})
        section[path[-1]] = value
    return tree


def _leaves(node: Schema, models: Mapping[str, Schema], path: Path) -> Iterator[tuple[Path, Schema]]:
    options = node.get("anyOf", [node])
    reference = next((option["$ref"] for option in options if "$ref" in option), None)
    section = models[reference.rpartition("/")[2]] if reference else node
    if "properties" not in section:
        yield path, node
        return
    for name, below in section["properties"].items():
        yield from _leaves(below, models, (*path, name))


def _floats(schema: Schema) -> st.SearchStrategy[float]:
    least = schema.get("minimum", schema.get("exclusiveMinimum"))
    most = schema.get("maximum", schema.get("exclusiveMaximum"))
    return st.floats(
        least,
        most,
        exclude_min="exclusiveMinimum" in schema,
        exclude_max="exclusiveMaximum" in schema,
        allow_nan=False,
        allow_infinity=False,
    )


def _texts(fewest: int, most: int) -> st.SearchStrategy[str]:
    letters = st.characters(codec="utf-8")
    plain = st.text("abcXYZ019-_./~", min_size=fewest, max_size=min(most, _LONGEST_TEXT))
    anything = st.text(letters, min_size=fewest, max_size=min(most, _LONGEST_TEXT))
    # "${" and "???" mean something to OmegaConf, and an override with them is refused.
    return st.one_of(plain, st.sampled_from(_AWKWARD), anything.filter(lambda text: "${" not in text and text != "???"))


def _objects() -> st.SearchStrategy[dict[str, Any]]:
    keys = st.text("abc_", min_size=1, max_size=8) | _texts(1, 12)
    floats = st.floats(allow_nan=False, allow_infinity=False)
    inner = st.recursive(
        st.none() | st.booleans() | st.integers(-(2**53), 2**53) | floats | _texts(0, 12),
        lambda below: st.lists(below, max_size=2) | st.dictionaries(keys, below, max_size=2),
        max_leaves=4,
    )
    return st.dictionaries(keys, inner, max_size=_MOST_ENTRIES)
