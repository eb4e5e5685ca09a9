"""How messages write values and say where they come from, so that all rules say it alike."""

from __future__ import annotations

import json
from collections.abc import Sequence

from pydantic import BaseModel

_SHOWN_LENGTH = 60


def written(value: object) -> str:
    """A value as it is written in YAML, cut where it is long."""
    if isinstance(value, float):
        text = f"{value:g}"
    elif isinstance(value, str):
        text = value if value and value == value.strip() and value.isprintable() else repr(value)
    else:
        text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _SHOWN_LENGTH else f"{text[:_SHOWN_LENGTH]}…"


def choice(values: Sequence[object]) -> str:
    """`a, b or c`, each as it is written in YAML."""
    words = [written(value) for value in values]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def counted(number: int, noun: str) -> str:
    """`1 GPU`, `2 GPUs`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def said(section: BaseModel, name: str, noun: str = "") -> str:
    """The beginning of a message about a field's value: `4`, or `is unset, and SkyRL's default 4` where nobody set it.

    With a noun the value is a number of those.
    """
    value = getattr(section, name)
    words = counted(value, noun) if noun else written(value)
    return words if name in section.model_fields_set else f"is unset, and SkyRL's default {words}"


def told(section: BaseModel, name: str) -> str:
    """`is 4`, or `is unset, and SkyRL's default is 4` where nobody set the field."""
    origin = "is" if name in section.model_fields_set else "is unset, and SkyRL's default is"
    return f"{origin} {written(getattr(section, name))}"
