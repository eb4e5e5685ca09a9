"""Plain data as YAML text, for files that people read and every reader of YAML 1.1 or 1.2 reads alike.

Block style. Words that every reader takes for text stay bare; all other scalars are JSON's, a JSON string being a YAML
string in double quotes. There is no reader here (`rltrain_api.reading`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from rltrain_api.yaml_scalars import scalar_value

# Text that begins like text and holds nothing that means something to a reader.
_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_./@+-]*")
# JSON escapes what is below U+0020 only.
_NOT_PRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


def yaml_text(value: dict[str, Any]) -> str:
    """The document as YAML text that ends in a newline; keys stay in their order.

    `value` holds dicts with string keys, lists, strings, finite numbers, booleans and None.
    """
    return "\n".join(_mapping(value, 0)) + "\n"


def _mapping(value: dict[str, Any], depth: int) -> Iterator[str]:
    indent = "  " * depth
    for key, entry in value.items():
        yield from _entry(f"{indent}{_scalar(key)}:", entry, depth)


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


def _scalar(value: Any) -> str:
    """A scalar or an empty collection; a float always has a dot, without which YAML 1.1 reads `1e-06` as a string."""
    if isinstance(value, str) and _PLAIN.fullmatch(value) and scalar_value(value) == value:
        return value
    text = _NOT_PRINTABLE.sub(_escaped, json.dumps(value, ensure_ascii=False, allow_nan=False))
    if isinstance(value, float) and "." not in text:
        text = text.replace("e", ".0e", 1)
    return text


def _escaped(character: re.Match[str]) -> str:
    """A character that YAML does not allow, or takes for the end of a line, as an escape of both JSON and YAML."""
    return f"\\u{ord(character[0]):04x}"
