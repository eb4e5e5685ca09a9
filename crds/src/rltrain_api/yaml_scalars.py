"""What an unquoted YAML scalar means to `kubectl`, whose reader is YAML 1.1 with Go's numbers.

Measured with kubectl 1.32 (`kubectl label --local -f FILE a=b -o json`): `yes`, `on` and `y` are booleans; `1e-6` and
`0o17` are numbers; `1.0` becomes the integer 1 on its way through JSON; dates, `1:30` and `1.2.3` stay text. PyYAML's
own resolver differs in all of these but the first.
"""

from __future__ import annotations

import math
import re

_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(["", "~", "null", "Null", "NULL"]),
    **dict.fromkeys(["y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"], True),
    **dict.fromkeys(["n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"], False),
}
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
# By base. What needs more than 64 bits is left to `_FLOAT`, or is text.
_INTEGERS = (
    (10, re.compile(r"[-+]?(0|[1-9][0-9]{0,18})")),
    (8, re.compile(r"[-+]?0[oO]?([0-7]{1,22})")),
    (16, re.compile(r"[-+]?0[xX]([0-9a-fA-F]{1,16})")),
    (2, re.compile(r"[-+]?0[bB]([01]{1,64})")),
)
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INT64 = 2**63


def scalar_value(text: str) -> str | int | float | bool | None:
    """The value of an unquoted scalar.

    Raises:
        ValueError: infinity or not-a-number, which JSON, and with it Kubernetes, cannot say.
    """
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in "+-.0123456789":
        return text
    if _NOT_FINITE.fullmatch(text):
        raise ValueError(f"{text} is no number that Kubernetes can hold; write a finite number")
    compact = text if text[0] == "." else text.replace("_", "")
    for base, pattern in _INTEGERS:
        digits = pattern.fullmatch(compact)
        if digits is not None:
            size = int(digits[1], base)
            return _as_json(-size if compact[0] == "-" else size)
    if _FLOAT.fullmatch(compact) and math.isfinite(number := float(compact)):
        return _as_json(number)
    return text


def _as_json(number: float | int) -> float | int:
    """The number after its way through JSON: 1.0 is written as 1, and what 64 bits cannot hold is a float."""
    if abs(number) >= _INT64:
        return float(number)
    return int(number) if number == int(number) else number
