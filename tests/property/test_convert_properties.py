"""Whatever the input, a conversion gives back what was set, loses nothing without a word, and fails only as agreed."""

from __future__ import annotations

import shlex
from typing import Any

import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from drawn_configs import chosen, leaves, nested
from rltrain_api.config import SkyRLTrainConfig
from rltrain_api.convert import Conversion, ConversionError, Kind, Level, Options, convert
from rltrain_api.convert.fields import leaf_paths
from rltrain_api.convert.resolved import minimal
from rltrain_api.convert.versions import NEWER, NEWER_VALUES
from rltrain_api.overrides import flatten, write_override
from rltrain_api.resolve import resolve
from rltrain_api.yaml_text import yaml_text

untimed = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])

# A conversion moves these onto volumes; where they come to lie is tested on its own.
PATHS = {
    ("data", "train_data"),
    ("data", "val_data"),
    ("trainer", "ckpt_path"),
    ("trainer", "resume_path"),
    ("trainer", "export_path"),
    ("trainer", "log_path"),
    ("environment", "skyrl_gym", "text2sql", "db_path"),
    ("generator", "chat_template", "name_or_path"),
    *(("trainer", owner, "model", "path") for owner in ("policy", "ref", "critic")),
    *(("trainer", owner, "model", "lora", "lora_sync_path") for owner in ("policy", "ref", "critic")),
}


def is_of_one_release(tree: dict[str, Any]) -> bool:
    """Whether nothing in it tells of a later release, whose defaults a conversion would write out."""
    return not any(
        isinstance(override.value, str) and (override.key, override.value) in NEWER_VALUES for override in flatten(tree)
    )


trees = chosen({path: schema for path, schema in leaves().items() if path not in PATHS}).map(nested)
trees = trees.filter(is_of_one_release)


def config_of(conversion: Conversion) -> dict[str, Any]:
    """The configuration without the paths that a conversion adds."""
    tree: dict[str, Any] = {}
    for override in flatten(conversion.document["spec"]["config"]):
        if override.path not in PATHS:
            section = tree
            for name in override.path[:-1]:
                section = section.setdefault(name, {})
            section[override.path[-1]] = override.value
    return tree


@untimed
@given(trees)
def test_overrides_of_any_configuration_convert_back_to_it(tree: dict[str, Any]) -> None:
    words = [shlex.quote(write_override(override.path, override.value)) for override in flatten(tree)]
    launch = "python -m skyrl.train.entrypoints.main_base"
    conversion = convert(" \\\n  ".join([launch, *words]), Kind.SCRIPT, Options(trainer="skyrl"))
    assert repr_of(config_of(conversion)) == repr_of(tree)
    if words:
        listed = convert("\n".join(words), Kind.OVERRIDES, Options(trainer="skyrl"))
        assert repr_of(config_of(listed)) == repr_of(tree)


@untimed
@given(trees)
def test_a_configuration_in_yaml_converts_back_to_it(tree: dict[str, Any]) -> None:
    text = yaml_text(tree)
    if tree and text.replace("\n", "").isprintable():
        conversion = convert(text, Kind.YAML, Options(trainer="skyrl"))
        assert as_json(config_of(conversion)) == as_json(tree)


@settings(untimed, max_examples=15)
@given(trees)
def test_a_resolved_configuration_converts_to_one_that_resolves_alike(tree: dict[str, Any]) -> None:
    full = resolve(SkyRLTrainConfig.model_validate(tree)).model_dump(mode="json")
    assume(full["trainer"]["algorithm"]["max_seq_len"] < 2**31)  # a sum of two lengths that are allowed by themselves
    reduced = minimal(full)
    assert resolve(SkyRLTrainConfig.model_validate(reduced)).model_dump(mode="json") == full
    needed = {override.path for override in flatten(reduced)}
    for path in needed & set(leaf_paths()):
        less = without(reduced, path)
        assert resolve(SkyRLTrainConfig.model_validate(less)).model_dump(mode="json") != full, path


@untimed
@given(st.lists(st.tuples(st.sampled_from(sorted(NEWER)), st.integers(0, 3) | st.booleans()), min_size=1, max_size=6))
def test_no_newer_name_is_lost_without_a_word(chosen_names: list[tuple[tuple[str, ...], object]]) -> None:
    lines = [write_override(path, value) for path, value in chosen_names]
    conversion = convert("\n".join(lines), Kind.OVERRIDES, Options(image="x/y:1"))
    for line, (path, _) in enumerate(chosen_names, start=1):
        told = [note.text for note in conversion.notes if note.line == line]
        assert any(".".join(path) in text for text in told)


@untimed
@given(st.text(max_size=200), st.sampled_from(list(Kind)))
def test_any_text_is_converted_or_refused(text: str, kind: Kind) -> None:
    try:
        conversion = convert(text, kind)
    except ConversionError:
        return
    assert yaml.safe_load(yaml_text(conversion.document))["kind"] == "RLTrainingJob"
    assert conversion.is_complete == (
        not conversion.errors and Level.MISSING not in {note.level for note in conversion.notes}
    )


def without(tree: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    """The tree without one value; a section that becomes empty goes with it."""
    name, *rest = path
    if not rest:
        return {key: value for key, value in tree.items() if key != name}
    below = without(tree[name], tuple(rest))
    return {key: (below if key == name else value) for key, value in tree.items() if key != name or below}


def repr_of(tree: object) -> object:
    """The tree with each scalar as Python writes it: 1, 1.0 and True differ, and the order of keys does not."""
    if isinstance(tree, dict):
        return {key: repr_of(value) for key, value in tree.items()}
    return [repr_of(value) for value in tree] if isinstance(tree, list) else repr(tree)


def as_json(tree: object) -> object:
    """The same for what has gone through a Kubernetes client's YAML: 1.0 is 1 there."""
    if isinstance(tree, dict):
        return {key: as_json(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [as_json(value) for value in tree]
    return f"bool {tree}" if isinstance(tree, bool) else tree
