"""The configuration tree: SkyRL's names and defaults, strict types, and the difference between unset and set."""

from __future__ import annotations

import json
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
from pydantic import BaseModel, ValidationError

import skyrl_seed
from reference_pages import reference_page
from rltrain_api.config import ConfigModel, OptimizerConfig, SkyRLTrainConfig

# Classes that SkyRL takes from skyrl-gym; its reference page does not print them.
FROM_SKYRL_GYM = {
    "environment.skyrl_gym.text2sql": {"db_path": ("str", "/home/ray/default/sql_data")},
    "environment.skyrl_gym.search": {
        "log_requests": ("bool", False),
        "search_url": ("str", "http://127.0.0.1:8000/retrieve"),
        "topk": ("int", 3),
        "timeout": ("int", 30),
    },
}
# SkyRL's words for types, as ours.
KINDS = {
    "List[str]": "list of str",
    "List[int]": "list of int",
    "List[float]": "list of float",
    "Dict[str, Any]": "map",
    "dict": "map",
    "Union[bool, int]": "bool or int",
}

Leaf = tuple[str, object]


def skyrl_leaves() -> dict[str, Leaf]:
    """Dotted path -> (kind, default) of every leaf, from the committed table."""
    found: dict[str, Leaf] = {}
    for line in skyrl_seed.TABLE.read_text(encoding="utf-8").splitlines():
        path, written, default = line.split("\t")
        if path in FROM_SKYRL_GYM:
            found |= {f"{path}.{name}": leaf for name, leaf in FROM_SKYRL_GYM[path].items()}
            continue
        kind = written.removeprefix("Optional[").removesuffix("]") if written.startswith("Optional[") else written
        optional = " or null" if kind != written else ""
        found[path] = (KINDS.get(kind, kind) + optional, json.loads(default))
    return found


def kind_of(annotation: Any) -> str:
    """The same word for one of our annotations: bounds and choices are left out, the type remains."""
    origin, members = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return kind_of(members[0])
    if origin is Literal:
        return kind_of(type(members[0]))
    if origin is list:
        return f"list of {kind_of(members[0])}"
    if origin is dict:
        return "map"
    if origin in (Union, UnionType):
        inner = [kind_of(member) for member in members if member is not NoneType]
        return " or ".join([*inner, *(["null"] if NoneType in members else [])])
    return str(annotation.__name__)


def own_leaves(model: type[BaseModel], given: BaseModel, prefix: str = "") -> dict[str, Leaf]:
    """Dotted path -> (kind, default) of every leaf of our tree; `given` is the section as its owner makes it."""
    found: dict[str, Leaf] = {}
    for name, field in model.model_fields.items():
        path, section = f"{prefix}{name}", section_of(field.annotation)
        if section is None:
            found[path] = (kind_of(field.annotation), getattr(given, name))
        else:
            inner = getattr(given, name)
            assert inner is not None or field.default is None, f"{path}: an optional section is absent by default"
            found |= own_leaves(section, inner if inner is not None else section(), f"{path}.")
    return found


def section_of(annotation: Any) -> type[BaseModel] | None:
    members = (annotation, *get_args(annotation))
    return next((member for member in members if isinstance(member, type) and issubclass(member, BaseModel)), None)


def test_names_types_nesting_and_defaults_are_skyrls() -> None:
    own = own_leaves(SkyRLTrainConfig, SkyRLTrainConfig())
    kind, default = own["trainer.logger"]  # SkyRL says text, and takes a list all the same
    assert kind == "str or list of str"
    assert own | {"trainer.logger": ("str", default)} == skyrl_leaves()


def test_the_table_has_every_leaf() -> None:
    assert len(skyrl_seed.TABLE.read_text(encoding="utf-8").splitlines()) == 280


def test_the_table_is_what_the_reference_page_says() -> None:
    page = reference_page("skyrl-config-reference.txt")
    assert skyrl_seed.class_count(page) == 32
    assert skyrl_seed.table_from_page(page) == skyrl_seed.TABLE.read_text(encoding="utf-8").splitlines()


def test_every_section_is_a_config_model_with_its_docstring() -> None:
    def sections(model: type[BaseModel]) -> set[type[BaseModel]]:
        inner = {section for field in model.model_fields.values() if (section := section_of(field.annotation))}
        return inner.union(*(sections(section) for section in inner))

    for section in sections(SkyRLTrainConfig):
        assert issubclass(section, ConfigModel), section
        assert section.__doc__, section


def test_unset_differs_from_set_to_the_default() -> None:
    unset, given = SkyRLTrainConfig(), SkyRLTrainConfig.model_validate({"trainer": {"seed": 42}})
    assert given.trainer.seed == unset.trainer.seed == 42
    assert "seed" in given.trainer.model_fields_set
    assert "seed" not in unset.trainer.model_fields_set
    assert given.model_dump(exclude_unset=True) == {"trainer": {"seed": 42}}


def test_setting_a_model_without_its_path_leaves_the_path_unset() -> None:
    config = SkyRLTrainConfig.model_validate({"trainer": {"policy": {"model": {}}}})
    assert config.trainer.policy.model.path is None


NUMBERS: dict[str, tuple[object, float]] = {
    "float": (1e-6, 1e-6),
    "integer": (0, 0.0),
    "text without a dot, as YAML 1.1 reads 1e-6": ("1e-6", 1e-6),
    "text with a dot": ("2.5E-5", 2.5e-5),
    "text with spaces around": (" 3e-4 ", 3e-4),
    "text that begins with a dot": (".5", 0.5),
}


@pytest.mark.parametrize("case", NUMBERS)
def test_numbers_are_read(case: str) -> None:
    given, expected = NUMBERS[case]
    lr = OptimizerConfig.model_validate({"lr": given}).lr
    assert lr == expected
    assert isinstance(lr, float)


REFUSED: dict[str, dict[str, Any]] = {
    "text for an integer": {"trainer": {"seed": "42"}},
    "bool for an integer": {"trainer": {"seed": True}},
    "float for an integer": {"trainer": {"seed": 42.0}},
    "bool for a float": {"trainer": {"policy": {"optimizer_config": {"lr": True}}}},
    "word for a float": {"trainer": {"policy": {"optimizer_config": {"lr": "small"}}}},
    "hexadecimal text for a float": {"trainer": {"policy": {"optimizer_config": {"lr": "0x1"}}}},
    "text nan for a float": {"trainer": {"policy": {"optimizer_config": {"lr": "nan"}}}},
    "nan": {"trainer": {"policy": {"optimizer_config": {"lr": float("nan")}}}},
    "text that overflows to infinity": {"trainer": {"policy": {"optimizer_config": {"lr": "1e999"}}}},
    "negative text below a bound": {"trainer": {"policy": {"optimizer_config": {"lr": "-1e-6"}}}},
    "integer for a bool": {"trainer": {"bf16": 1}},
    "text for a bool": {"trainer": {"bf16": "true"}},
    "zero for a bool or count": {"trainer": {"policy": {"fsdp_config": {"reshard_after_forward": 0}}}},
    "one path for a list": {"data": {"train_data": "/data/train.parquet"}},
    "three betas": {"trainer": {"policy": {"optimizer_config": {"adam_betas": [0.9, 0.9, 0.9]}}}},
    "unknown key": {"trainer": {"sead": 42}},
    "unknown reduction": {"trainer": {"algorithm": {"loss_reduction": "mystery"}}},
    "batch of nothing": {"trainer": {"train_batch_size": 0}},
    "clip at one": {"trainer": {"algorithm": {"eps_clip_low": 1.0}}},
    "two log-probabilities": {"generator": {"sampling_params": {"logprobs": 2}}},
    "null for a number": {"trainer": {"seed": None}},
}


@pytest.mark.parametrize("case", REFUSED)
def test_values_of_another_type_or_out_of_bounds_are_refused(case: str) -> None:
    with pytest.raises(ValidationError):
        SkyRLTrainConfig.model_validate(REFUSED[case])


@pytest.mark.parametrize("value", [True, False, 1, 8])
def test_resharding_keeps_bool_and_count_apart(value: bool | int) -> None:
    config = SkyRLTrainConfig.model_validate({"trainer": {"policy": {"fsdp_config": {"reshard_after_forward": value}}}})
    read = config.trainer.policy.fsdp_config.reshard_after_forward
    assert read == value
    assert type(read) is type(value)


def test_config_does_not_change_once_read() -> None:
    with pytest.raises(ValidationError):
        SkyRLTrainConfig().trainer.seed = 1
