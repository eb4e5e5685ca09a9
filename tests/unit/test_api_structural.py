"""The converter from pydantic models to structural schemas, and its refusals with the path of the field."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, create_model

from rltrain_api.schema_marks import DEFAULTS_IN_WORDS, DEFAULTS_OMITTED, RawObject, cel, list_map
from rltrain_api.structural import SchemaError, structural_schema

Text = Annotated[str, Field(max_length=8)]


class Inner(BaseModel):
    """An inner model."""

    model_config = ConfigDict(json_schema_extra=cel(("self.a > 0", "a must be positive")))

    a: int = Field(default=1, ge=0, le=5, description="A number.")


class Recursive(BaseModel):
    """A model that contains itself."""

    again: Recursive | None = Field(default=None, description="Itself.")


def one_field(annotation: Any, config: ConfigDict | None = None, **field: Any) -> type[BaseModel]:
    """A model with one field `x` of that type, described unless the test says otherwise."""
    arguments = {"description": "X."} | field
    return create_model("Model", __config__=config, x=(annotation, Field(**arguments)))


# Name of the case -> (type of the field, arguments of Field, schema of the field).
CONVERTED: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "text": (Text, {}, {"type": "string", "maxLength": 8}),
    "small integer": (int, {"ge": 0, "le": 9}, {"type": "integer", "minimum": 0, "maximum": 9, "format": "int32"}),
    "large integer": (int, {}, {"type": "integer", "format": "int64"}),
    "exclusive bounds": (
        float,
        {"gt": 0, "lt": 1},
        {"type": "number", "minimum": 0, "exclusiveMinimum": True, "maximum": 1, "exclusiveMaximum": True},
    ),
    "enumeration": (Literal["a", "b"], {}, {"type": "string", "enum": ["a", "b"]}),
    "constant": (Literal["a"], {}, {"type": "string", "enum": ["a"]}),
    "optional text": (Text | None, {"default": None}, {"type": "string", "maxLength": 8}),
    "time": (AwareDatetime, {}, {"type": "string", "format": "date-time"}),
    "list": (
        list[Text],
        {"max_length": 3, "default": []},
        {"type": "array", "items": {"type": "string", "maxLength": 8}, "maxItems": 3, "default": []},
    ),
    "map": (
        dict[Text, Text],
        {"max_length": 3},
        {"type": "object", "additionalProperties": {"type": "string", "maxLength": 8}, "maxProperties": 3},
    ),
    "free-form map": (RawObject, {}, {"type": "object", "x-kubernetes-preserve-unknown-fields": True}),
}


@pytest.mark.parametrize("case", CONVERTED)
def test_converted(case: str) -> None:
    annotation, field, expected = CONVERTED[case]
    schema = structural_schema(one_field(annotation, **field))
    assert schema["properties"]["x"] == {"description": "X.", **expected}


def test_nested_model_is_put_in_place_with_its_rules_and_filled_by_an_empty_object() -> None:
    schema = structural_schema(one_field(Inner, default_factory=Inner))
    assert schema["properties"]["x"] == {
        "description": "X.",
        "type": "object",
        "properties": {
            "a": {
                "type": "integer",
                "format": "int32",
                "description": "A number.",
                "minimum": 0,
                "maximum": 5,
                "default": 1,
            }
        },
        "x-kubernetes-validations": [{"rule": "self.a > 0", "message": "a must be positive"}],
        "default": {},
    }


def test_a_fields_rules_come_after_those_of_its_model() -> None:
    extra = cel(("self == oldSelf", "cannot change"))
    field = structural_schema(one_field(Inner, default_factory=Inner, json_schema_extra=extra))["properties"]["x"]
    assert [rule["rule"] for rule in field["x-kubernetes-validations"]] == ["self.a > 0", "self == oldSelf"]


def test_optional_model_has_no_default() -> None:
    field = structural_schema(one_field(Inner | None, default=None))["properties"]["x"]
    assert "default" not in field
    assert "nullable" not in field


def test_list_of_named_entries_is_a_map() -> None:
    named = one_field(Annotated[list[Inner], Field(max_length=2), list_map("a")])
    field = structural_schema(named)["properties"]["x"]
    assert field["x-kubernetes-list-type"] == "map"
    assert field["x-kubernetes-list-map-keys"] == ["a"]


# Name of the case -> (type, default, the field where defaults are said in words).
DESCRIBED: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "bool": (bool, True, {"type": "boolean", "description": "X. Default: true."}),
    "small number": (float, 1e-6, {"type": "number", "description": "X. Default: 1e-06."}),
    "list": (
        Annotated[list[float], Field(max_length=2)],
        [0.9, 0.999],
        {
            "type": "array",
            "items": {"type": "number"},
            "maxItems": 2,
            "description": "X. Default: [0.9, 0.999].",
        },
    ),
    "unset": (Text | None, None, {"type": "string", "maxLength": 8, "nullable": True, "description": "X."}),
    "unset enumeration": (
        Literal["a.b", "c"] | None,
        None,
        {"type": "string", "pattern": r"^(a\.b|c)$", "maxLength": 3, "nullable": True, "description": "X."},
    ),
    "set, but null is allowed": (
        Text | None,
        "a",
        {"type": "string", "maxLength": 8, "nullable": True, "description": "X. Default: a."},
    ),
}


@pytest.mark.parametrize("case", DESCRIBED)
def test_defaults_in_words(case: str) -> None:
    annotation, default, expected = DESCRIBED[case]
    model = one_field(annotation, ConfigDict(json_schema_extra=DEFAULTS_IN_WORDS), default=default)
    assert structural_schema(model)["properties"]["x"] == expected


def test_omitted_defaults() -> None:
    model = one_field(bool, ConfigDict(json_schema_extra=DEFAULTS_OMITTED), default=True)
    assert structural_schema(model)["properties"]["x"] == {"type": "boolean", "description": "X."}


# Name of the case -> (model, beginning of the error).
REFUSED: dict[str, tuple[type[BaseModel], str]] = {
    "union": (one_field(Text | int), "Model.x: a union"),
    "tuple": (one_field(tuple[int, int]), "Model.x: a tuple"),
    "anything": (one_field(Any), "Model.x: no type"),
    "list of anything": (one_field(Annotated[list[Any], Field(max_length=2)]), "Model.x.[]: no type"),
    "map of anything": (one_field(Annotated[dict[str, Any], Field(max_length=2)]), "Model.x: a free-form map"),
    "recursion": (Recursive, "Recursive.again"),
    "text without bound": (one_field(str), "Model.x: no upper bound"),
    "list without bound": (one_field(list[Text]), "Model.x: no upper bound"),
    "map without bound": (one_field(dict[str, Text]), "Model.x: no upper bound"),
    "text in a list without bound": (one_field(Annotated[list[str], Field(max_length=2)]), "Model.x.[]: no upper"),
    "no description": (one_field(Text, description=None), "Model.x: no description"),
    "multiple of": (one_field(int, multiple_of=2), "Model.x: the API server knows no multipleOf"),
    "fields and free keys": (
        one_field(Text, ConfigDict(json_schema_extra={"additionalProperties": {"type": "string"}})),
        "Model: a map cannot have",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_the_fields_path(case: str) -> None:
    model, beginning = REFUSED[case]
    with pytest.raises(SchemaError) as caught:
        structural_schema(model)
    assert str(caught.value).startswith(beginning)
