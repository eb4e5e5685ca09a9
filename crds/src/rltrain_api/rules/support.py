"""What a trainer does not do is refused by name, with what to set instead; nothing that was asked for is dropped.

`rltrain_api.rules.support_table` says what RLTrain's own trainer does; upstream's has a short table of its own. Only
what is set is looked at, and the few defaults of SkyRL that change what is computed or where it runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from rltrain_api.config import SkyRLTrainConfig
from rltrain_api.errors import ErrorCode, FieldError
from rltrain_api.rules.facts import Facts, Rule, in_config
from rltrain_api.rules.support_table import ROWS, SECTIONS, UPSTREAM_ROWS, Row, Section
from rltrain_api.rules.wording import choice, written

_ROWS_BY_PATH: Mapping[str, Row] = {row.path: row for row in ROWS}
_SECTIONS_BY_PATH: Mapping[str, Section] = {section.path: section for section in SECTIONS}
_UPSTREAM_ROWS_BY_PATH: Mapping[str, Row] = {row.path: row for row in UPSTREAM_ROWS}
_DEFAULTS = SkyRLTrainConfig()


def builtin_trainer_does_what_is_set(facts: Facts) -> Iterator[FieldError]:
    """With runtime.trainer builtin, every value that is set is one that it does. Ours."""
    if facts.runs_upstream:
        return
    refused: dict[str, FieldError] = {}
    waiting: list[tuple[Section, FieldError]] = []
    for path, value, default in _set_values(facts.config, _DEFAULTS, ""):
        row, section = _ROWS_BY_PATH.get(path), _section_of(path)
        if row is not None and value not in row.honoured and not (row.registrable and facts.spec.runtime.modules):
            refused[path] = _refusal(path, f"is {_shown(value)}", value, row.honoured, row.why)
        elif section is not None and value != default:
            error = _refusal(path, f"is {_shown(value)}", value, (), section.why)
            if section.switch == path:
                refused[path] = error
            else:
                waiting.append((section, error))
    for path, error in _refused_defaults(facts.config):
        refused.setdefault(path, error)
    yield from refused.values()
    yield from (error for section, error in waiting if section.switch not in refused)


def upstream_trainer_does_what_is_set(facts: Facts) -> Iterator[FieldError]:
    """With runtime.trainer skyrl, algorithms and engines are ones that SkyRL 0.1 has. Ours; SkyRL: C8, C9, C18, 2.5."""
    for row in UPSTREAM_ROWS:
        value = _value_at(facts.config, row.path)
        if value in row.honoured:
            continue
        own = _ROWS_BY_PATH.get(row.path)
        by_builtin = own is None or value in own.honoured
        yield in_config(
            row.path,
            ErrorCode.NOT_YET_SUPPORTED,
            f"is {_shown(value)}, which upstream's trainer does not do ({row.why}); set it to {choice(row.honoured)}"
            + (", or set spec.runtime.trainer to builtin" if by_builtin else ""),
        )


def upstream_trainer_imports_no_modules(facts: Facts) -> Iterator[FieldError]:
    """With runtime.trainer skyrl, runtime.modules is empty. Ours: SkyRL's own code is extended by an entry point."""
    if facts.spec.runtime.modules:
        yield FieldError(
            "spec.runtime.modules",
            ErrorCode.CONFLICT,
            f"{', '.join(facts.spec.runtime.modules)} would be imported by nobody, because upstream's trainer runs; "
            "remove it, or set spec.runtime.trainer to builtin",
        )


def _refused_defaults(config: SkyRLTrainConfig) -> Iterator[tuple[str, FieldError]]:
    for row in ROWS:
        if not row.unset_too:
            continue
        value = _value_at(config, row.path)
        if value not in row.honoured:
            what = f"is unset, and SkyRL's default is {_shown(value)}"
            yield row.path, _refusal(row.path, what, value, row.honoured, row.why)


def _refusal(path: str, what: str, value: object, honoured: tuple[object, ...], why: str) -> FieldError:
    upstream = _UPSTREAM_ROWS_BY_PATH.get(path)
    remedy = f"set it to {choice(honoured)}" if honoured else "remove it"
    row = _ROWS_BY_PATH.get(path)
    if row is not None and row.registrable:
        remedy += ", or name the module that registers it in spec.runtime.modules"
    if upstream is None or value in upstream.honoured:
        remedy += ", or set spec.runtime.trainer to skyrl"
    return in_config(
        path, ErrorCode.NOT_YET_SUPPORTED, f"{what}, which the builtin trainer does not do ({why}); {remedy}"
    )


def _set_values(section: BaseModel, defaults: BaseModel | None, prefix: str) -> Iterator[tuple[str, Any, Any]]:
    """(path, value, SkyRL's default) of everything that is set; a section that has a row is not looked into."""
    for name in section.model_fields_set:
        path, value = f"{prefix}{name}", getattr(section, name)
        default = getattr(defaults, name, None)
        if isinstance(value, BaseModel) and path not in _ROWS_BY_PATH:
            yield from _set_values(value, default, f"{path}.")
        else:
            yield path, value, default


def _section_of(path: str) -> Section | None:
    """The section that a leaf is below, or is itself."""
    while path:
        if path in _SECTIONS_BY_PATH:
            return _SECTIONS_BY_PATH[path]
        path = path.rpartition(".")[0]
    return None


def _value_at(config: BaseModel, path: str) -> Any:
    value: Any = config
    for name in path.split("."):
        value = getattr(value, name)
    return value


def _shown(value: object) -> str:
    return "set" if isinstance(value, BaseModel) else written(value)


RULES: tuple[Rule, ...] = (builtin_trainer_does_what_is_set,)
SKYRL_RULES: tuple[Rule, ...] = (upstream_trainer_does_what_is_set, upstream_trainer_imports_no_modules)
