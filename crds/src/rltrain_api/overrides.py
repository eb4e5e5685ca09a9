"""Dotted overrides, `trainer.algorithm.kl_loss_coef=1e-3`: read, written, and applied to a tree of plain data.

SkyRL takes its whole configuration in this form and reads it with OmegaConf. The same text means the same value here,
and what is written here OmegaConf reads back as the same value (a test compares with it). What OmegaConf accepts
although nobody can mean it, or what has no meaning without the rest of Hydra, is an `OverrideError` that teaches.
This module must not know which fields exist: `rltrain_api.parse` does.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

MAX_OVERRIDE_LENGTH = 65_536
MAX_DEPTH = 32
_SHOWN_LENGTH = 80

# A key that needs no escaping, cannot be taken for an index into a list and is no option of a command.
_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_\-]*")
# Strings of these characters mean themselves to YAML, also inside brackets, unless they read as another type.
_PLAIN_STRING = re.compile(r"[A-Za-z0-9_/~.+][A-Za-z0-9_/~.+\-]*")
# OmegaConf's reading of floats: YAML 1.1, which takes `1e-6` for a string, with the point made optional.
_FLOAT = re.compile(
    r"""^(?:
     [-+]?[0-9]+(?:_[0-9]+)*\.[0-9_]*(?:[eE][-+]?[0-9]+)?
    |[-+]?[0-9]+(?:_[0-9]+)*(?:[eE][-+]?[0-9]+)
    |\.[0-9]+(?:_[0-9]+)*(?:[eE][-+][0-9]+)?
    |[-+]?[0-9]+(?:_[0-9]+)*(?::[0-5]?[0-9])+\.[0-9_]*
    |[-+]?\.(?:inf|Inf|INF)
    |\.(?:nan|NaN|NAN))$""",
    re.X,
)


class OverrideError(ValueError):
    """An override that cannot be read, written or applied; the message names it and says what to do."""


@dataclass(frozen=True, slots=True)
class Override:
    """One set value: the keys from the root of the tree, and plain data (None, bool, int, float, str, list, dict)."""

    path: tuple[str, ...]
    value: object

    @property
    def key(self) -> str:
        """The path as it is written: `trainer.policy.model.path`."""
        return ".".join(self.path)


def parse_override(text: str) -> Override:
    """Read `key.path=value`; the value is YAML as OmegaConf reads it, and nothing after `=` means null.

    Raises:
        OverrideError: the text is no override, or is one of Hydra's that only Hydra can carry out.
    """
    if len(text) > MAX_OVERRIDE_LENGTH:
        raise OverrideError(
            f"{_shown(text)}: has {len(text)} characters, more than {MAX_OVERRIDE_LENGTH}; put such a value into a file"
        )
    key, equals, value = text.partition("=")
    _refuse_hydra_prefix(text, key)
    if not equals:
        raise OverrideError(
            f"{_shown(text) or 'an empty text'}: has no '='; write key.path=value, without spaces around '=', and "
            "key.path=null where null is meant"
        )
    return Override(_parse_path(text, key), read_value(value, of=key))


def read_value(text: str, of: str = "") -> object:
    """The plain data that `text` means on the right of a `=`; `of` names the key in errors.

    Raises:
        OverrideError: the text is no YAML, is no plain data, or holds an interpolation.
    """
    place = f"{of}={text}" if of else text
    try:
        value = yaml.load(text, Loader=_ValueLoader)  # noqa: S506 - it is a SafeLoader
    except yaml.YAMLError as error:
        raise OverrideError(f"{_shown(place)}: the value is no YAML: {_problem(error, text)}") from error
    except ValueError as error:  # Python reads no integer of more than 4300 digits
        raise OverrideError(f"{_shown(place)}: the value is a number with too many digits") from error
    _check_value(value, place)
    return value


def write_override(path: tuple[str, ...], value: object) -> str:
    """The override that sets `path` to `value`: one line, not yet quoted for a shell.

    Raises:
        OverrideError: a key cannot be part of a path (`flatten` avoids those), or the value is no plain data.
    """
    for key in path:
        if not _PLAIN_KEY.fullmatch(key):
            raise OverrideError(f"{key!r}: cannot be part of an override's path; set the map that holds it as a whole")
    assert path, "an override has at least one key"
    key = ".".join(path)
    _check_value(value, key)
    return f"{key}={_written(value)}"


def apply_overrides(tree: Mapping[str, Any], overrides: Iterable[Override]) -> dict[str, Any]:
    """A new tree with the overrides applied in order; `tree` is left as it is and shares nothing with the result.

    A map is merged into a map, everything else replaces what was there; a null on the way becomes a map.

    Raises:
        OverrideError: an override leads through a value that is no map, or a list and a map would have to be merged.
    """
    result: dict[str, Any] = copy.deepcopy(dict(tree))
    for override in overrides:
        section = result
        for depth, key in enumerate(override.path[:-1], start=1):
            below = section.get(key)
            if below is None:
                below = section[key] = {}
            if not isinstance(below, dict):
                raise OverrideError(
                    f"{override.key}: {'.'.join(override.path[:depth])} is {_shown(repr(below))}, which has no "
                    f"fields; set it to a map, or remove one of the two"
                )
            section = below
        _merge(section, override.path[-1], copy.deepcopy(override.value), override.key)
    return result


def flatten(tree: Mapping[str, Any]) -> list[Override]:
    """Every set value of a tree as an override, in the tree's order; applied to nothing, they give the tree back.

    An empty map is a value. A map with a key that cannot stand in a path is a value as a whole.
    """
    found: list[Override] = []
    _flatten(tree, (), found)
    return found


def _flatten(section: Mapping[str, Any], path: tuple[str, ...], found: list[Override]) -> None:
    for key, value in section.items():
        here = (*path, key)
        if isinstance(value, Mapping) and value and all(_PLAIN_KEY.fullmatch(str(below)) for below in value):
            _flatten(value, here, found)
        else:
            found.append(Override(here, value))


def _merge(section: dict[str, Any], key: str, value: object, name: str) -> None:
    old = section.get(key)
    if isinstance(old, dict) and isinstance(value, dict):
        for below, part in value.items():
            _merge(old, below, part, f"{name}.{below}")
        return
    if (isinstance(old, dict) and isinstance(value, list)) or (isinstance(old, list) and isinstance(value, dict)):
        was, becomes = ("map", "list") if isinstance(old, dict) else ("list", "map")
        raise OverrideError(f"{name}: is a {was} already and cannot become a {becomes}; remove one of the two")
    section[key] = value


def _refuse_hydra_prefix(text: str, key: str) -> None:
    bare = key.lstrip("+~")
    if key.startswith("+"):
        prefix = key[: len(key) - len(bare)]
        raise OverrideError(
            f"{_shown(text)}: '{prefix}' is Hydra's prefix for a key that its configuration files do not have; fields "
            f"are known here, so write it without: {_shown(text.removeprefix(prefix))}"
        )
    if key.startswith("~"):
        raise OverrideError(
            f"{_shown(text)}: '~' is Hydra's prefix for removing a key; leave the override away to get the default, or "
            f"write {bare}=null"
        )
    if key.startswith("-"):
        raise OverrideError(
            f"{_shown(text)}: is an option of a command, not an override; overrides read key.path=value"
        )


def _parse_path(text: str, key: str) -> tuple[str, ...]:
    if not key:
        raise OverrideError(f"{_shown(text)}: has nothing before '='; write key.path=value")
    if key != key.strip():
        raise OverrideError(f"{_shown(text)}: has a space beside the key; write it without spaces around '='")
    if any(mark in key for mark in "[]\\"):
        raise OverrideError(
            f"{_shown(text)}: single entries of a list cannot be set; set the whole list: {key.partition('[')[0]}=[…]"
        )
    parts = tuple(key.split("."))
    for depth, part in enumerate(parts):
        if not part:
            raise OverrideError(f"{_shown(text)}: has an empty name in its path; write names with single dots between")
        if part.isdecimal():
            owner = ".".join(parts[:depth]) or "the list"
            raise OverrideError(f"{_shown(text)}: single entries of a list cannot be set; set all of {owner}=[…]")
        if not _PLAIN_KEY.fullmatch(part):
            raise OverrideError(
                f"{_shown(text)}: {part!r} is no name of a field; names have letters, digits and '_'. A map with other "
                f"keys is set as a whole: {'.'.join(parts[:depth]) or 'key'}={{'…': value}}"
            )
    return parts


def _check_value(value: object, place: str, depth: int = 0) -> None:
    if depth > MAX_DEPTH:
        raise OverrideError(f"{_shown(place)}: the value is nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, str):
        _check_string(value, place)
    elif isinstance(value, list):
        for part in value:
            _check_value(part, place, depth + 1)
    elif isinstance(value, dict):
        for key, part in value.items():
            if not isinstance(key, str):
                raise OverrideError(f"{_shown(place)}: {key!r} is a key of a map and no string; put it in quotes")
            _check_string(key, place)
            _check_value(part, place, depth + 1)
    elif not (value is None or isinstance(value, bool | int | float)):
        raise OverrideError(
            f"{_shown(place)}: a value of type {type(value).__name__} cannot be carried; write it as a string in quotes"
        )


def _check_string(text: str, place: str) -> None:
    if "${" in text:
        raise OverrideError(
            f"{_shown(place)}: '${{…}}' is an interpolation, which stands for another value; write that value itself"
        )
    if text == "???":
        raise OverrideError(f"{_shown(place)}: '???' marks a value that is still missing; write the value")


def _written(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list):
        return f"[{', '.join(_written(part) for part in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_quoted(key)}: {_written(part)}' for key, part in value.items())}}}"
    assert isinstance(value, str), "the value was checked"
    return value if _is_plain(value) else _quoted(value)


def _is_plain(text: str) -> bool:
    """Whether YAML reads the text, without quotes, as this string."""
    return bool(_PLAIN_STRING.fullmatch(text)) and _resolved_tag(text) == "tag:yaml.org,2002:str"


def _resolved_tag(text: str) -> str:
    for tag, pattern in _ValueLoader.yaml_implicit_resolvers.get(text[0], []):
        if pattern.match(text):
            return str(tag)
    return "tag:yaml.org,2002:str"


def _quoted(text: str) -> str:
    if text.isprintable():
        return "'" + text.replace("'", "''") + "'"
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + '"'


def _shown(text: str) -> str:
    line = "".join(c if c.isprintable() else " " for c in text)
    return line if len(line) <= _SHOWN_LENGTH else f"{line[:_SHOWN_LENGTH]}…"


def _problem(error: yaml.YAMLError, text: str) -> str:
    problem = (error.problem if isinstance(error, yaml.MarkedYAMLError) and error.problem else str(error)).splitlines()[
        0
    ]
    if not isinstance(error, yaml.scanner.ScannerError | yaml.parser.ParserError):
        return problem
    if text.lstrip()[:1] in ("[", "{"):
        return f"{problem}; close every bracket and quote, and quote the whole override for the shell"
    return f"{problem}; put it in quotes, for the shell and for YAML: \"key='value'\""


class _ValueLoader(yaml.SafeLoader):
    """YAML as OmegaConf reads it: its floats, no dates, no key twice; and, besides, no anchors and no tags."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]  # PyYAML's stubs leave it untyped
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise yaml.composer.ComposerError(None, None, "anchors and aliases (& and *) mean nothing here")
        if getattr(event, "tag", None) is not None:
            raise yaml.composer.ComposerError(None, None, f"tags mean nothing here, and {event.tag} is one")
        if self._depth > MAX_DEPTH:
            raise yaml.composer.ComposerError(None, None, f"nested more than {MAX_DEPTH} levels deep")
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys: set[str] = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in keys:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key.value!r} is there twice")
            keys.add(key.value)
            if ":" in key.value and not key.style and isinstance(value, yaml.ScalarNode) and value.value == "":
                spaced = key.value.replace(":", ": ", 1)
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key.value!r} is one word; write a space after the colon: {spaced}"
                )
        return super().construct_mapping(node, deep=deep)


_ValueLoader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))
_ValueLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in _ValueLoader.yaml_implicit_resolvers.items()
}
