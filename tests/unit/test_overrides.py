"""Dotted overrides: the same text means what it means to OmegaConf, and the rest is refused with a lesson."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from rltrain_api.overrides import (
    MAX_DEPTH,
    MAX_OVERRIDE_LENGTH,
    Override,
    OverrideError,
    apply_overrides,
    flatten,
    parse_override,
    read_value,
    write_override,
)


def omegaconf_tree(*texts: str) -> Any:
    return OmegaConf.to_container(OmegaConf.from_cli(list(texts)))


def our_tree(*texts: str) -> dict[str, Any]:
    return apply_overrides({}, [parse_override(text) for text in texts])


VALUES: dict[str, object] = {
    "1": 1,
    "-1": -1,
    "1_000": 1000,
    "0x1F": 31,
    "017": 15,
    "09": "09",
    "1:30": 90,
    "1e-6": 1e-6,
    "1E6": 1e6,
    "+1e-3": 1e-3,
    ".5": 0.5,
    "1.": 1.0,
    "1.5e3": 1500.0,
    "1e": "1e",
    "inf": "inf",
    ".inf": math.inf,
    "-.inf": -math.inf,
    "": None,
    "null": None,
    "~": None,
    "true": True,
    "yes": True,
    "off": False,
    "y": "y",
    "2024-01-01": "2024-01-01",
    "['x','y']": ["x", "y"],
    "[1e-6, 2, null]": [1e-6, 2, None],
    "[]": [],
    "{}": {},
    "{b: 1, c: {d: [x]}}": {"b": 1, "c": {"d": ["x"]}},
    '{"b": 1e-3}': {"b": 1e-3},
    "'1'": "1",
    "''": "",
    '"x y"': "x y",
    '"a\\nb"': "a\nb",
    "b=c": "b=c",
    "~/data": "~/data",
    "s3://bucket/x": "s3://bucket/x",
    "Qwen/Qwen2.5-1.5B-Instruct": "Qwen/Qwen2.5-1.5B-Instruct",
    "x #c": "x",
    "é": "é",
}


@pytest.mark.parametrize("text", VALUES)
def test_a_value_is_what_omegaconf_reads(text: str) -> None:
    assert parse_override(f"a.b={text}") == Override(("a", "b"), VALUES[text])
    assert repr(our_tree(f"a.b={text}")) == repr(omegaconf_tree(f"a.b={text}"))


REFUSED = {
    "": "an empty text: has no '='",
    "trainer.seed": "has no '='",
    "=1": "has nothing before '='",
    "trainer.seed = 3": "without spaces around '='",
    "+a.b=1": "'+' is Hydra's prefix for a key that its configuration files do not have",
    "++a.b=1": "write it without: a.b=1",
    "~a.b": "'~' is Hydra's prefix for removing a key",
    "--config-name=x": "is an option of a command",
    "a[0]=1": "set the whole list: a=[…]",
    "a.0=1": "set all of a=[…]",
    "a..b=1": "empty name",
    "a b.c=1": "is no name of a field",
    "a@b=1": "is no name of a field",
    "a={b:1}": "write a space after the colon: b: 1",
    "a={b: 1, b: 2}": "the key 'b' is there twice",
    "a={1: x}": "1 is a key of a map and no string",
    "a=[1": "close every bracket",
    "a=@x": "put it in quotes",
    "a=!!str 1": "tags mean nothing here",
    "a=[&x 1, *x]": "anchors and aliases",
    "a=${oc.env:HOME}": "is an interpolation",
    "a=[{b: '${c}'}]": "is an interpolation",
    "a=???": "still missing",
    "a=" + "9" * 5000: "too many digits",
    "a=" + "[" * 1000: f"more than {MAX_DEPTH} levels",
    "a=" + "x" * MAX_OVERRIDE_LENGTH: f"more than {MAX_OVERRIDE_LENGTH}",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_cannot_be_meant_is_refused_with_a_lesson(text: str) -> None:
    with pytest.raises(OverrideError) as caught:
        parse_override(text)
    assert REFUSED[text] in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


SEQUENCES: dict[str, tuple[list[str], dict[str, Any]]] = {
    "the last one counts": (["a=1", "a=2"], {"a": 2}),
    "maps are merged": (["a.b=1", "a={c: {d: 2}}", "a.c={e: 3}"], {"a": {"b": 1, "c": {"d": 2, "e": 3}}}),
    "lists are replaced": (["a=[1, 2]", "a=[3]"], {"a": [3]}),
    "null takes a map away": (["a.b=1", "a=null"], {"a": None}),
    "null makes room for a map": (["a=null", "a.b=1"], {"a": {"b": 1}}),
    "a map takes a scalar's place": (["a=x", "a={b: 1}"], {"a": {"b": 1}}),
}


@pytest.mark.parametrize("case", SEQUENCES)
def test_overrides_are_applied_in_order_as_omegaconf_does(case: str) -> None:
    texts, tree = SEQUENCES[case]
    assert our_tree(*texts) == tree == omegaconf_tree(*texts)


CONFLICTS = {
    "through a number": (["a=1", "a.b=2"], "a.b: a is 1, which has no fields"),
    "through a list": (["a=[1]", "a.b.c=2"], "a.b.c: a is [1], which has no fields"),
    "a list onto a map": (["a.b=1", "a=[1]"], "a: is a map already and cannot become a list"),
    "a map onto a list": (["a.b=[1]", "a={b: {c: 1}}"], "a.b: is a list already and cannot become a map"),
}


@pytest.mark.parametrize("case", CONFLICTS)
def test_overrides_that_contradict_each_other_are_an_error(case: str) -> None:
    texts, message = CONFLICTS[case]
    with pytest.raises(OverrideError) as caught:
        our_tree(*texts)
    assert message in str(caught.value)


def test_applying_leaves_the_tree_and_the_values_alone() -> None:
    tree = {"a": {"b": [1]}}
    value = {"c": [2]}
    result = apply_overrides(tree, [Override(("a",), value), Override(("a", "c"), [3])])
    result["a"]["b"].append(9)
    assert tree == {"a": {"b": [1]}}
    assert value == {"c": [2]}


def test_flatten_keeps_empty_maps_and_maps_with_keys_that_need_quotes() -> None:
    tree = {"a": {"b": {}, "c": {"x.y": 1}, "d": {"e": None}, "f": {"0": 1}}}
    assert [override.key for override in flatten(tree)] == ["a.b", "a.c", "a.d.e", "a.f"]


def test_a_key_that_cannot_stand_in_a_path_is_not_written() -> None:
    for key in ("x.y", "0", "", "a b", "+x", "a=b"):
        with pytest.raises(OverrideError):
            write_override(("a", key), 1)


def test_only_plain_data_is_written() -> None:
    for value in (object(), {1: 2}, ["${a}"], "???", (1, 2), b"x"):
        with pytest.raises(OverrideError):
            write_override(("a",), value)


def test_numbers_and_names_stay_readable() -> None:
    assert write_override(("a",), 1e-6) == "a=1e-06"
    assert write_override(("a", "b"), "Qwen/Qwen2.5-1.5B-Instruct") == "a.b=Qwen/Qwen2.5-1.5B-Instruct"
    assert write_override(("a",), ["/p/train.parquet", "1e-6", "it's"]) == "a=[/p/train.parquet, '1e-6', 'it''s']"
    assert write_override(("a",), {"b": None, "c d": True}) == "a={'b': null, 'c d': true}"


names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_\-]{0,6}", fullmatch=True)
texts = st.text(max_size=12).filter(lambda text: "${" not in text and text != "???")
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts
plain_values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=6
)
trees = st.recursive(
    st.dictionaries(names, plain_values, max_size=3),
    lambda inner: st.dictionaries(names, inner, max_size=3),
    max_leaves=5,
)


@settings(deadline=None)
@given(value=plain_values)
def test_what_is_written_reads_as_the_same_value_here_and_in_omegaconf(value: object) -> None:
    written = write_override(("a", "b"), value)
    assert written.isprintable()
    assert parse_override(written) == Override(("a", "b"), value)
    assert omegaconf_tree(written) == {"a": {"b": value}}


@settings(deadline=None)
@given(tree=trees)
def test_flatten_and_apply_are_inverse(tree: dict[str, Any]) -> None:
    assert apply_overrides({}, flatten(tree)) == tree
    assert our_tree(*(write_override(override.path, override.value) for override in flatten(tree))) == tree


@settings(deadline=None)
@given(text=st.text(alphabet="ab01.-+~eE'\"[]{}:, #&*!|>%@`=\\\t\n_x?", max_size=10))
def test_every_text_is_read_as_omegaconf_reads_it_or_refused(text: str) -> None:
    try:
        ours = read_value(text)
    except OverrideError:
        return
    assert repr({"a": ours}) == repr(omegaconf_tree(f"a={text}"))
