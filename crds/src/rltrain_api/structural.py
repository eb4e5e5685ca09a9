"""From a pydantic model to a structural schema, the form that the API server asks of a custom resource.

Strict: what has no structural form, has no bound or has no description raises SchemaError with the path of the field,
so that a mistake in a model is found when the schema is made and not when somebody applies it. Sources of the rules:
Kubernetes' "structural schema" rules and the cost limits of CEL, which assume 3 MiB for anything without a bound.

This module knows JSON schema and nothing of RLTrainingJob (`rltrain_api.crdgen`).
"""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from rltrain_api.schema_marks import DEFAULTS_MARK, LIST_KEY_MARK

Schema = dict[str, Any]

_NULLABLE_MARK = "x-rltrain-nullable"
_PRESERVE = "x-kubernetes-preserve-unknown-fields"
_INT_OR_STRING = "x-kubernetes-int-or-string"
_VALIDATIONS = "x-kubernetes-validations"

_KEYWORDS = frozenset(
    {
        "type",
        "format",
        "description",
        "default",
        "nullable",
        "enum",
        "properties",
        "required",
        "items",
        "additionalProperties",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "minLength",
        "maxLength",
        "pattern",
        "minItems",
        "maxItems",
        "minProperties",
        "maxProperties",
        _PRESERVE,
        _INT_OR_STRING,
        _VALIDATIONS,
        "x-kubernetes-list-type",
        "x-kubernetes-list-map-keys",
    }
)
_UNION_REMEDY = "use optional fields and a CEL rule, or give the field a schema with WithJsonSchema"
_INT32_MAX = 2**31 - 1


class SchemaError(TypeError):
    """A model that has no structural schema; the message begins with the path of the field."""


class _PydanticSchema(GenerateJsonSchema):
    """Pydantic's generator, but `X | None` stays recognisable instead of becoming a union with null."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return {_NULLABLE_MARK: self.generate_inner(schema["schema"])}


def structural_schema(model: type[BaseModel]) -> Schema:
    """The structural schema of a model, with keys as on the wire.

    Raises SchemaError for recursive models, unions, tuples, fields without type, bound or description.
    """
    schema = model.model_json_schema(by_alias=True, mode="validation", schema_generator=_PydanticSchema)
    definitions = schema.pop("$defs", {})
    return _Converter(definitions).convert(schema, (model.__name__,))


class _Converter:
    """Walks one JSON schema; holds its definitions and which of them it is inside of."""

    def __init__(self, definitions: dict[str, Schema]) -> None:
        self._definitions = definitions
        self._inside: list[str] = []

    def convert(self, schema: Schema, path: tuple[str, ...]) -> Schema:
        """The structural form of `schema`, which describes the field at `path`."""
        if _NULLABLE_MARK in schema:
            return self._convert_nullable(schema, path)
        if "$ref" in schema:
            return self._convert_reference(schema, path)
        result = {key: value for key, value in schema.items() if key not in ("title", DEFAULTS_MARK)}
        if "const" in result:
            result["enum"] = [result.pop("const")]
        _rewrite_exclusive_bounds(result)
        if "anyOf" in result or "oneOf" in result:
            raise SchemaError(f"{_dotted(path)}: a union has no structural form; {_UNION_REMEDY}")
        if "prefixItems" in result:
            raise SchemaError(f"{_dotted(path)}: a tuple has no structural form; use a list with minItems and maxItems")
        match result.get("type"):
            case "object":
                self._convert_object(result, schema.get(DEFAULTS_MARK), path)
            case "array":
                self._convert_array(result, path)
            case "integer":
                small = result.get("maximum", _INT32_MAX + 1) <= _INT32_MAX
                result.setdefault("format", "int32" if small else "int64")
        _check(result, path)
        return result

    def _convert_nullable(self, schema: Schema, path: tuple[str, ...]) -> Schema:
        inner = self.convert(schema[_NULLABLE_MARK], path)
        return _overlay(inner, {key: value for key, value in schema.items() if key != _NULLABLE_MARK}, nullable=True)

    def _convert_reference(self, schema: Schema, path: tuple[str, ...]) -> Schema:
        name = schema["$ref"].removeprefix("#/$defs/")
        if name in self._inside:
            raise SchemaError(f"{_dotted(path)}: the model {name} contains itself, which has no structural form")
        self._inside.append(name)
        target = self.convert(self._definitions[name], path)
        self._inside.pop()
        return _overlay(target, {key: value for key, value in schema.items() if key != "$ref"}, nullable=False)

    def _convert_object(self, result: Schema, defaults: str | None, path: tuple[str, ...]) -> None:
        # The API server itself drops or refuses unknown fields, and allows no word about them beside properties.
        additional = result.get("additionalProperties")
        if "properties" in result:
            if additional not in (None, False):
                raise SchemaError(f"{_dotted(path)}: a map cannot have named fields and free keys at once")
            result.pop("additionalProperties", None)
            required = result.get("required", [])
            result["properties"] = {
                key: self._convert_property(value, defaults, key in required, (*path, key))
                for key, value in result["properties"].items()
            }
        elif isinstance(additional, dict):
            result["additionalProperties"] = self.convert(additional, (*path, "*"))
            # The bounds of keys have no keyword: `propertyNames` is none of the API server's.
            result.pop("propertyNames", None)
        elif result.get(_PRESERVE) is not True:
            raise SchemaError(f"{_dotted(path)}: a free-form map must say so; use schema_marks.RawObject")

    def _convert_property(self, schema: Schema, defaults: str | None, required: bool, path: tuple[str, ...]) -> Schema:
        result = self.convert(schema, path)
        if not result.get("description"):
            raise SchemaError(f"{_dotted(path)}: no description; every field is explained to its reader")
        nullable = result.pop("nullable", False)
        if defaults is None:
            return _with_default(result, required or nullable)
        default = result.pop("default", None)
        if defaults == "described":
            if default is not None:
                result["description"] += f" Default: {_written(default)}."
            if nullable:  # SkyRL's null means "unset", and a person may write it
                result["nullable"] = True
                _enum_as_pattern(result)
        return result

    def _convert_array(self, result: Schema, path: tuple[str, ...]) -> None:
        if "items" not in result:
            raise SchemaError(f"{_dotted(path)}: a list must say what it holds")
        result["items"] = self.convert(result["items"], (*path, "[]"))
        key = result.pop(LIST_KEY_MARK, None)
        if key is not None:
            result["x-kubernetes-list-type"] = "map"
            result["x-kubernetes-list-map-keys"] = [key]


def _with_default(result: Schema, stays_absent: bool) -> Schema:
    """The schema with a default that the API server fills in; a nested object is `{}`, and its fields fill it."""
    if result.get("default", ...) is None:
        del result["default"]
    if not stays_absent and "properties" in result and "default" not in result and _fills_itself(result):
        result["default"] = {}
    return result


def _fills_itself(schema: Schema) -> bool:
    """Whether an empty object is valid and worth writing down: nothing is required and something has a default."""
    return not schema.get("required") and any("default" in value for value in schema["properties"].values())


def _overlay(inner: Schema, outer: Schema, *, nullable: bool) -> Schema:
    """A referenced schema with what the field that refers to it adds: a description, rules besides the model's own."""
    result = {**inner, **{key: value for key, value in outer.items() if key not in ("title", DEFAULTS_MARK)}}
    if _VALIDATIONS in inner and _VALIDATIONS in outer:
        result[_VALIDATIONS] = [*inner[_VALIDATIONS], *outer[_VALIDATIONS]]
    if nullable:
        result["nullable"] = True
    return result


def _enum_as_pattern(schema: Schema) -> None:
    """A nullable enumeration as a pattern: the API server refuses null for an enum, even one that lists null."""
    values: list[str] | None = schema.pop("enum", None)
    if values is not None:
        schema["pattern"] = f"^({'|'.join(re.escape(value) for value in values)})$"
        schema["maxLength"] = max(map(len, values))


def _rewrite_exclusive_bounds(schema: Schema) -> None:
    """JSON schema's numeric exclusive bounds as the older pair of a bound and a boolean that the API server reads."""
    for exclusive, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        value = schema.get(exclusive)
        if value is not None and not isinstance(value, bool):
            schema[bound] = value
            schema[exclusive] = True


def _check(schema: Schema, path: tuple[str, ...]) -> None:
    unknown = sorted(set(schema) - _KEYWORDS)
    if unknown:
        raise SchemaError(f"{_dotted(path)}: the API server knows no {', '.join(unknown)}")
    kind = schema.get("type")
    if kind is None and not (schema.get(_INT_OR_STRING) or schema.get(_PRESERVE)):
        raise SchemaError(f"{_dotted(path)}: no type")
    bounded = {
        "string": "maxLength" in schema or "enum" in schema or schema.get("format") == "date-time",
        "array": "maxItems" in schema,
        "object": "properties" in schema or "maxProperties" in schema or schema.get(_PRESERVE) is True,
    }
    if kind in bounded and not bounded[kind]:
        raise SchemaError(f"{_dotted(path)}: no upper bound on its size, which CEL's cost limits ask for")


def _written(default: object) -> str:
    """A default as a person writes it in YAML."""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, list):
        return f"[{', '.join(_written(entry) for entry in default)}]"
    if isinstance(default, dict):
        return f"{{{', '.join(f'{key}: {_written(entry)}' for key, entry in default.items())}}}"
    return f"{default:g}" if isinstance(default, float) else str(default)


def _dotted(path: tuple[str, ...]) -> str:
    return ".".join(path)
