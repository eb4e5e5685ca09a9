"""Plain data as YAML text, for files that people read and every reader of YAML 1.1 or 1.2 reads alike.

Block style with JSON's scalars: a JSON string is a YAML string in double quotes. There is no reader here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

# Keys that no YAML reader takes for anything but a string ("on" and "y" are booleans in YAML 1.1, hence two letters or
# more and the list).
_PLAIN_KEY = re.compile(r"[A-Za-z][A-Za-z0-9_./-]+")
_NOT_PLAIN = frozenset({"yes", "no", "on", "off", "true", "false", "null"})


def yaml_text(value: dict[str, Any]) -> str:
    """The document as YAML text that ends in a newline; keys stay in their order.

    `value` holds dicts with string keys, lists, strings, finite numbers, booleans and None.
    """
    return "\n".join(_mapping(value, 0)) + "\n"


def _mapping(value: dict[str, Any], depth: int) -> Iterator[str]:
    indent = "  " * depth
    for key, entry in value.items():
        yield from _entry(f"{indent}{_key(key)}:", entry, depth)


def _sequence(value: list[Any], depth: int) -> Iterator[str]:
    indent = "  " * depth
    for entry in value:
        if isinstance(entry, dict) and entry:
            first, *rest = _mapping(entry, depth + 1)
            yield f"{indent}- {first.lstrip()}"
            yield from rest
        else:
            yield from _entry(f"{indent}-", entry, depth)


def _entry(start: str, value: Any, depth: int) -> Iterator[str]:
    if isinstance(value, dict) and value:
        yield start
        yield from _mapping(value, depth + 1)
    elif isinstance(value, list) and value:
        yield start
        yield from _sequence(value, depth + 1)
    else:
        yield f"{start} {_scalar(value)}"


def _key(key: str) -> str:
    plain = _PLAIN_KEY.fullmatch(key) and key.lower() not in _NOT_PLAIN
    return key if plain else json.dumps(key, ensure_ascii=False)


def _scalar(value: Any) -> str:
    """A scalar or an empty collection; a float always has a dot, without which YAML 1.1 reads `1e-06` as a string."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    if isinstance(value, float) and "." not in text:
        text = text.replace("e", ".0e", 1)
    return text
