"""What every section of the configuration tree has in common: strictness, number types, bounds.

A section is one of SkyRL's dataclasses, with its names, types, nesting and defaults. A default is SkyRL's own, so a
field that nobody set keeps its default here and stays absent on the wire: `model_fields_set` tells the two apart, and
`rltrain_api.resolve` fills in what SkyRL derives. This module must not know any single section.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from rltrain_api.schema_marks import DEFAULTS_IN_WORDS, cel

INT32_MAX = 2**31 - 1

_DECIMAL = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")


class ConfigModel(BaseModel):
    """One section of the tree: unknown keys are errors, types are not converted, values do not change once read."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        protected_namespaces=(),
        json_schema_extra=DEFAULTS_IN_WORDS,
    )


def with_rules(*rules: tuple[str, str]) -> ConfigDict:
    """The `model_config` of a section with rules between its fields: pairs of a CEL expression and a message."""
    return ConfigDict(json_schema_extra={**DEFAULTS_IN_WORDS, **cel(*rules)})


def number_from_text(value: object) -> object:
    """A float written as text becomes the float; everything else is left for the strict check that follows.

    Readers of YAML 1.1 give `1e-6` as a string, because that version of the language wants a dot in it.
    """
    if isinstance(value, str) and _DECIMAL.fullmatch(value.strip()):
        return float(value)
    return value


# Comes last in an annotation: bounds belong to the number and are checked after the text has been read.
FROM_TEXT = BeforeValidator(number_from_text)
Number = Annotated[float, FROM_TEXT]
NonNegativeNumber = Annotated[float, Field(ge=0), FROM_TEXT]
PositiveNumber = Annotated[float, Field(gt=0), FROM_TEXT]
Fraction = Annotated[float, Field(ge=0, le=1), FROM_TEXT]
PositiveFraction = Annotated[float, Field(gt=0, le=1), FROM_TEXT]
FractionBelowOne = Annotated[float, Field(ge=0, lt=1), FROM_TEXT]

PositiveInt = Annotated[int, Field(ge=1, le=INT32_MAX)]
NonNegativeInt = Annotated[int, Field(ge=0, le=INT32_MAX)]
IntFromMinusOne = Annotated[int, Field(ge=-1, le=INT32_MAX)]

Path = Annotated[str, Field(min_length=1, max_length=1024)]
Label = Annotated[str, Field(min_length=1, max_length=256)]
URL = Annotated[str, Field(min_length=1, max_length=2048)]
