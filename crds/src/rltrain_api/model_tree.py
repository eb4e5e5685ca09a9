"""The tree that pydantic models make of each other: which section a field leads to. Knows no field by name."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel


def section_in(annotation: Any) -> type[BaseModel] | None:
    """The model inside an annotation such as `Model`, `Model | None` or `list[Model]`; None where there is none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for member in get_args(annotation) if (model := section_in(member)) is not None), None)
