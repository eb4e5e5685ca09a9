"""Marks on our models that only the schema generator (`rltrain_api.crdgen`) reads; they change no validation here."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, WithJsonSchema
from pydantic.config import JsonDict
from pydantic.fields import FieldInfo

DEFAULTS_MARK = "x-rltrain-defaults"
LIST_KEY_MARK = "x-rltrain-list-key"

# On a model of the configuration tree: the schema says in words what a default is, but the API server must not fill it
# in, because SkyRL derives some values from "nobody set this".
DEFAULTS_IN_WORDS: JsonDict = {DEFAULTS_MARK: "described"}
# On a model of the status, which nobody but the operator writes.
DEFAULTS_OMITTED: JsonDict = {DEFAULTS_MARK: "omitted"}

# A free-form map: somebody else's object, passed on as it is.
RawObject = Annotated[dict[str, Any], WithJsonSchema({"type": "object", "x-kubernetes-preserve-unknown-fields": True})]


def cel(*rules: tuple[str, str]) -> JsonDict:
    """Rules for the API server: pairs of a CEL expression and the message for when it is false."""
    return {"x-kubernetes-validations": [{"rule": rule, "message": message} for rule, message in rules]}


def list_map(key: str) -> FieldInfo:
    """Marks a list whose entries are told apart by `key`: appliers merge by entry, duplicates are errors."""
    field: FieldInfo = Field(json_schema_extra={LIST_KEY_MARK: key})
    return field
