"""What the parts of the spec have in common: how they are written, and Kubernetes' own forms of text and numbers."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel

from rltrain_api.schema_marks import RawObject

# Kubernetes' own grammar of a quantity, less the sign: nothing here may be negative.
QUANTITY_PATTERN = r"^\+?([0-9]+\.?[0-9]*|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?$"
DNS_LABEL_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
SUBDOMAIN_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
EXTENDED_RESOURCE_PATTERN = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"
ENV_NAME_PATTERN = r"^[-._a-zA-Z][-._a-zA-Z0-9]*$"
MODULE_PATTERN = r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$"
MOUNT_PATH_PATTERN = r"^/[^:]*[^:/]$"


def quantity_from_int(value: object) -> object:
    """An integer quantity (`cpu: 2`) becomes its text; a bool is no integer here, and anything else is left alone."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Quantity = Annotated[
    str,
    Field(pattern=QUANTITY_PATTERN, max_length=32),
    BeforeValidator(quantity_from_int),
    WithJsonSchema({"x-kubernetes-int-or-string": True, "minimum": 0, "pattern": QUANTITY_PATTERN, "maxLength": 32}),
]
DNSLabel = Annotated[str, Field(pattern=DNS_LABEL_PATTERN, min_length=1, max_length=40)]
ObjectName = Annotated[str, Field(pattern=SUBDOMAIN_PATTERN, min_length=1, max_length=253)]
MountPath = Annotated[str, Field(pattern=MOUNT_PATH_PATTERN, max_length=512)]
Argument = Annotated[str, Field(max_length=4096)]
Image = Annotated[str, Field(min_length=1, max_length=512)]
EnvPattern = Annotated[str, Field(min_length=1, max_length=256)]
OverrideText = Annotated[str, Field(min_length=1, max_length=4096)]
Seconds = Annotated[int, Field(ge=0, le=31 * 24 * 3600)]
PositiveSeconds = Annotated[int, Field(ge=1, le=31 * 24 * 3600)]
# Kubernetes' own object, passed on untouched: its fields grow with Kubernetes and are checked by it.
Toleration = RawObject


class SpecModel(BaseModel):
    """One part of the spec outside `config`: camelCase on the wire, unknown keys are errors."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
    )
