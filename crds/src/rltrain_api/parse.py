"""From a document to a job: every error of form at once, each with its dotted path and what to do about it.

The document is what the API server or a YAML reader gives: plain dicts, lists, strings, numbers. `spec.overrides` are
applied to `spec.config` first, so that `job.spec.config` is the configuration that counts; an error in a value that an
override has set names that override. This module turns pydantic's errors into ours; it must not know rules between
fields (`rltrain_api.validate`).
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from rltrain_api.errors import ErrorCode, FieldError
from rltrain_api.job import RLTrainingJob
from rltrain_api.misplaced import place_of
from rltrain_api.model_tree import section_in
from rltrain_api.overrides import OverrideError, apply_overrides, flatten, parse_override
from rltrain_api.spec.base import (
    DNS_LABEL_PATTERN,
    ENV_NAME_PATTERN,
    EXTENDED_RESOURCE_PATTERN,
    MOUNT_PATH_PATTERN,
    QUANTITY_PATTERN,
    SUBDOMAIN_PATTERN,
)
from rltrain_api.spec.storage import CONFIG_KEY_PATTERN, SHA256_PATTERN

_CONFIG_PATH = "spec.config"
_SHOWN_VALUE_LENGTH = 80
# The fields that may hold values of two types, and what those are.
_UNIONS = {
    "reshard_after_forward": "must be true, false or an integer of at least 1",
    "logger": "must be one of wandb, mlflow, swanlab, tensorboard, console, or a list of these",
}

_RANGE_ERRORS = frozenset(
    {
        "greater_than",
        "greater_than_equal",
        "less_than",
        "less_than_equal",
        "too_long",
        "too_short",
        "string_too_long",
        "string_too_short",
        "finite_number",
    }
)
_FORM_ERRORS = frozenset({"literal_error", "string_pattern_mismatch", "enum", "string_unicode"})

# What to do, by pydantic's type of error; `{}` takes the error's context.
_REMEDIES: dict[str, str] = {
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "too_long": "may have at most {max_length} entries",
    "too_short": "needs at least {min_length} entries",
    "string_too_long": "may have at most {max_length} characters",
    "string_too_short": "must not be empty",
    "finite_number": "must be a finite number",
    "literal_error": "must be one of {expected}",
    "enum": "must be one of {expected}",
    "int_type": "must be an integer, written without quotes or a decimal point",
    "float_type": "must be a number",
    "bool_type": "must be true or false, without quotes",
    "string_type": "must be a string; put it in quotes",
    "list_type": "must be a list",
    "dict_type": "must be a map",
    "model_type": "must be a map of fields",
    "model_attributes_type": "must be a map of fields",
    "timezone_aware": "must be a time with a zone, such as 2026-01-31T12:00:00Z",
}

# What a pattern asks for, in words.
_PATTERNS: dict[str, str] = {
    QUANTITY_PATTERN: "must be a quantity such as 500m, 2 or 4Gi",
    DNS_LABEL_PATTERN: "may hold only a-z, 0-9 and '-', and must begin and end with a letter or digit",
    SUBDOMAIN_PATTERN: "may hold only a-z, 0-9, '-' and '.', and must begin and end with a letter or digit",
    EXTENDED_RESOURCE_PATTERN: "must be a resource's full name, such as nvidia.com/gpu",
    ENV_NAME_PATTERN: "may hold only letters, digits, '_', '-' and '.', and must not begin with a digit",
    SHA256_PATTERN: "must be a SHA-256 digest: 64 digits 0-9 and a-f",
    CONFIG_KEY_PATTERN: "may hold only letters, digits, '-', '_' and '.'",
    MOUNT_PATH_PATTERN: "must be an absolute path without ':' that does not end in '/'",
}


def parse_job(document: Mapping[str, Any]) -> RLTrainingJob | list[FieldError]:
    """The job that a document describes, or every error of form in it, sorted by path.

    Keys are those of the wire (camelCase outside `spec.config`). Never raises for a document of plain data.
    """
    overridden = override_document(document)
    errors = list(overridden.errors)
    try:
        job = RLTrainingJob.model_validate(overridden.document, by_alias=True, by_name=False)
    except ValidationError as error:
        errors += [overridden.blame(found) for found in field_errors(error)]
    return sorted(errors) if errors else job


@dataclass(frozen=True, slots=True)
class Overridden:
    """A document with its overrides applied, what was wrong with them, and which path each one has set."""

    document: Mapping[str, Any]
    errors: tuple[FieldError, ...] = ()
    origins: Mapping[str, str] = field(default_factory=dict)  # "spec.config.trainer.epochs" -> "spec.overrides[0]"

    def blame(self, error: FieldError) -> FieldError:
        """The error at the override that caused it, where one did; otherwise the error as it is."""
        path = error.path
        while path not in self.origins:
            path, dot, _ = path.rpartition(".")
            if not dot:
                return error
        inside = error.path.removeprefix(f"{_CONFIG_PATH}.")
        return replace(error, path=self.origins[path], message=f"{inside}: {error.message}")


def override_document(document: Mapping[str, Any]) -> Overridden:
    """The document with `spec.overrides` applied to `spec.config`; where either has another form, it is left alone."""
    spec = document.get("spec") if isinstance(document, Mapping) else None
    if not isinstance(spec, Mapping):
        return Overridden(document)
    texts, config = spec.get("overrides"), spec.get("config")
    if not texts or not isinstance(config, Mapping) or not _is_list_of_text(texts):
        return Overridden(document)
    errors: list[FieldError] = []
    origins: dict[str, str] = {}
    for index, text in enumerate(texts):
        try:
            override = parse_override(text)
            config = apply_overrides(config, [override])
        except OverrideError as error:
            errors.append(FieldError(f"spec.overrides[{index}]", ErrorCode.INVALID, str(error)))
            continue
        for leaf in (override, *flatten(apply_overrides({}, [override]))):
            origins[f"{_CONFIG_PATH}.{leaf.key}"] = f"spec.overrides[{index}]"
    return Overridden({**document, "spec": {**spec, "config": config}}, tuple(errors), origins)


def _is_list_of_text(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(entry, str) for entry in value)


def field_errors(error: ValidationError) -> list[FieldError]:
    """Pydantic's errors about an RLTrainingJob as ours, one for each path, sorted."""
    by_path: dict[str, FieldError] = {}
    for details in error.errors(include_url=False):
        found = _field_error(details)
        by_path.setdefault(found.path, found)
    return sorted(by_path.values())


def _field_error(details: ErrorDetails) -> FieldError:
    location, kind = details["loc"], details["type"]
    union = next((index for index, part in enumerate(location[:-1]) if part in _UNIONS), None)
    if union is not None:  # pydantic ends the path with the name of the union's member that it tried
        path, remedy = dotted(location[: union + 1]), _UNIONS[str(location[union])]
        return FieldError(path, ErrorCode.WRONG_TYPE, f"{remedy}; got {_shown(details)}")
    path = dotted(location)
    if kind == "missing":
        return FieldError(path, ErrorCode.REQUIRED, "is required and missing; add it")
    if kind == "extra_forbidden":
        return _unknown_field(path, location)
    code = ErrorCode.WRONG_TYPE
    if kind in _RANGE_ERRORS:
        code = ErrorCode.OUT_OF_RANGE
    elif kind in _FORM_ERRORS:
        code = ErrorCode.INVALID
    return FieldError(path, code, f"{_what_is_wanted(details)}; got {_shown(details)}")


def _what_is_wanted(details: ErrorDetails) -> str:
    context = details.get("ctx", {})
    if details["input"] is None:
        return "must not be null; remove it to get the default, or give it a value"
    if details["type"] == "string_pattern_mismatch":
        return _PATTERNS.get(context["pattern"], f"must match the pattern {context['pattern']}")
    remedy = _REMEDIES.get(details["type"])
    return remedy.format(**context) if remedy is not None else details["msg"]


def dotted(location: tuple[int | str, ...]) -> str:
    """A path as people write it: `spec.storage.data[0].name`; the whole document is called `document`."""
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text or "document"


def _shown(details: ErrorDetails) -> str:
    if details["loc"][-1:] == ("value",):  # of a variable, which may be a secret, and errors reach status and Events
        return f"a value of another type ({type(details['input']).__name__})"
    value = repr(details["input"])
    return value if len(value) <= _SHOWN_VALUE_LENGTH else f"{value[:_SHOWN_VALUE_LENGTH]}…"


def _unknown_field(path: str, location: tuple[int | str, ...]) -> FieldError:
    place = place_of(path)
    if place is not None:
        words = f"there is no such field here; it belongs below {place}, indented accordingly"
        return FieldError(path, ErrorCode.UNKNOWN_FIELD, words)
    key = str(location[-1])
    near = difflib.get_close_matches(key, _keys_at(RLTrainingJob, location[:-1]), n=1, cutoff=0.6)
    remedy = f"did you mean {near[0]!r}?" if near else "remove it"
    return FieldError(path, ErrorCode.UNKNOWN_FIELD, f"there is no such field; {remedy}")


def _keys_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The keys that the section at `location` has, as they are written in a document."""
    for part in location:
        if isinstance(part, int):
            continue
        annotations = {field.alias or name: field.annotation for name, field in model.model_fields.items()}
        section = section_in(annotations.get(part))
        if section is None:
            return []
        model = section
    return [field.alias or name for name, field in model.model_fields.items()]
