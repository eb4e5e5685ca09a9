"""Support: every leaf of SkyRL's tree is done, done for some values, or refused by name."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from rltrain_api.config import SkyRLTrainConfig
from rltrain_api.errors import ErrorCode
from rltrain_api.rules import support
from rltrain_api.rules.facts import Facts
from rltrain_api.rules.support_table import HONOURED, ROWS, SECTIONS, UPSTREAM_ROWS, Row
from rltrain_api.rules.wording import choice
from rltrain_api.validate import validate
from rule_cases import (
    ALGORITHM,
    CONFIG,
    DELETED,
    DOCUMENTATION,
    ENGINE,
    GENERATOR,
    PLACEMENT,
    TRAINER,
    UPSTREAM,
    Case,
    Changes,
    check_every_rule_is_broken,
    check_every_rule_is_documented,
    check_failure,
    check_remedy,
    parsed,
)

REPOSITORY = Path(__file__).parents[2]
STILL_TO_COME = ErrorCode.NOT_YET_SUPPORTED


def refused(path: str, value: object, *words: str, remedy: Changes | None = None) -> Case:
    """A value that the builtin trainer does not do; without a remedy of its own the field goes back to the ground's."""
    return Case({path: value}, path, STILL_TO_COME, words, remedy if remedy is not None else {path: DELETED})


CASES = {
    "Megatron": refused(f"{TRAINER}.strategy", "megatron", "FSDP2"),
    "engines on the trainer's GPUs": refused(
        f"{PLACEMENT}.colocate_all", True, "is true", "set it to false", remedy={f"{PLACEMENT}.colocate_all": False}
    ),
    "engines on the trainer's GPUs, by default": refused(
        f"{PLACEMENT}.colocate_all",
        DELETED,
        "is unset, and SkyRL's default is true",
        "set it to false",
        remedy={f"{PLACEMENT}.colocate_all": False},
    ),
    "vLLM": refused(
        f"{ENGINE}.backend",
        "vllm",
        "is vllm, which the builtin trainer does not do",
        "set it to builtin, or set spec.runtime.trainer to skyrl",
        remedy={f"{ENGINE}.backend": "builtin"},
    ),
    "vLLM, by default": refused(
        f"{ENGINE}.backend",
        DELETED,
        "is unset, and SkyRL's default is vllm",
        remedy={f"{ENGINE}.backend": "builtin"},
    ),
    "SGLang": refused(f"{ENGINE}.backend", "sglang", "is sglang", remedy={f"{ENGINE}.backend": "builtin"}),
    "engines of two GPUs": refused(f"{ENGINE}.tensor_parallel_size", 2, "is 2", "set it to 1"),
    "an estimator that nobody registers": refused(
        f"{ALGORITHM}.advantage_estimator",
        "best",
        "is best",
        "set it to grpo, rloo, gae, reinforce++ or maxrl, or name the module that registers it",
        remedy={"spec.runtime.modules": ["estimators"]},
    ),
    "a loss that nobody registers": refused(
        f"{ALGORITHM}.policy_loss_type",
        "best",
        "rollout_is or dppo, or name the module",
        remedy={"spec.runtime.modules": ["losses"]},
    ),
    "upstream with a loss of its later releases": Case(
        {f"{ALGORITHM}.policy_loss_type": "dppo"},
        f"{ALGORITHM}.policy_loss_type",
        STILL_TO_COME,
        ("SkyRL 0.1 has no others", "spec.runtime.trainer to builtin"),
        {f"{ALGORITHM}.policy_loss_type": "gspo"},
        UPSTREAM,
    ),
    "upstream with an estimator of its later releases": Case(
        {f"{ALGORITHM}.advantage_estimator": "maxrl"},
        f"{ALGORITHM}.advantage_estimator",
        STILL_TO_COME,
        ("grpo, rloo, gae or reinforce++",),
        {f"{ALGORITHM}.advantage_estimator": "rloo"},
        UPSTREAM,
    ),
    "upstream with a reduction of its later releases": Case(
        {f"{ALGORITHM}.loss_reduction": "prompt_mean"},
        f"{ALGORITHM}.loss_reduction",
        STILL_TO_COME,
        ("token_mean, sequence_mean or seq_mean_token_sum_norm",),
        {"spec.runtime.trainer": "builtin", f"{ENGINE}.backend": "builtin"},
        UPSTREAM,
    ),
    "further sampling parameters": refused(
        f"{GENERATOR}.sampling_params.additional_kwargs", {"best_of": 3}, 'is {"best_of": 3}', "set it to null or {}"
    ),
    "further sampling parameters of evaluation": refused(
        f"{GENERATOR}.eval_sampling_params.additional_kwargs", {"best_of": 3}, "set it to null or {}"
    ),
    "types of numbers": refused(
        f"{TRAINER}.policy.fsdp_config.mixed_precision.param_dtype", "fp16", "is fp16", "set it to bf16 or fp32"
    ),
    "a slow tokenizer": refused(f"{TRAINER}.disable_fast_tokenizer", True, "is true", "fast tokenizers only"),
    "adapters that never move": refused(
        f"{TRAINER}.policy.model.lora.init_method", "zero", "at rest for ever", "xavier"
    ),
    "a bound that engines do not have": refused(f"{ENGINE}.max_num_seqs", 64, "is 64", "remove it"),
    "an environment that nobody registers": refused(
        f"{CONFIG}.environment.env_class",
        "countdown",
        "name the module that registers it in spec.runtime.modules",
        remedy={"spec.runtime.modules": ["countdown.environment"]},
    ),
    "upstream with modules": Case(
        {"spec.runtime.modules": ["rewards"]},
        "spec.runtime.modules",
        ErrorCode.CONFLICT,
        ("rewards would be imported by nobody", "remove it"),
        {"spec.runtime.modules": []},
        UPSTREAM,
    ),
    "upstream with builtin engines": Case(
        {f"{ENGINE}.backend": "builtin"},
        f"{ENGINE}.backend",
        STILL_TO_COME,
        ("upstream's trainer does not do", "set it to vllm, or set spec.runtime.trainer to builtin"),
        {"spec.runtime.trainer": "builtin"},
        UPSTREAM,
    ),
    "upstream with SGLang": Case(
        {f"{ENGINE}.backend": "sglang"},
        f"{ENGINE}.backend",
        STILL_TO_COME,
        ("is sglang", "set it to vllm"),
        {f"{ENGINE}.backend": "vllm"},
        UPSTREAM,
    ),
    "upstream with gloo": Case(
        {f"{ENGINE}.weight_sync_backend": "gloo"},
        f"{ENGINE}.weight_sync_backend",
        STILL_TO_COME,
        ("is gloo", "set it to nccl, or set spec.runtime.trainer to builtin"),
        {f"{ENGINE}.weight_sync_backend": "nccl"},
        UPSTREAM,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_broken(case: str) -> None:
    check_failure(CASES[case])


@pytest.mark.parametrize("case", CASES)
def test_put_right(case: str) -> None:
    check_remedy(CASES[case])


def test_every_rule_is_broken() -> None:
    check_every_rule_is_broken(support, CASES.values())


def test_every_rule_is_documented() -> None:
    check_every_rule_is_documented(support, CASES.values())


def leaves(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every leaf of SkyRL's tree with its dotted path; sections that may be null are looked into as well."""
    for name, info in model.model_fields.items():
        section = next((part for part in (info.annotation, *get_args(info.annotation)) if is_section(part)), None)
        if section is None:
            yield f"{prefix}{name}", info
        else:
            yield from leaves(section, f"{prefix}{name}.")


def is_section(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


LEAVES = dict(leaves(SkyRLTrainConfig))
# What fits one field or another: bounds differ, and the first that does fit is taken.
CANDIDATES = (True, False, 2, 1, 0, 0.5, 1.5, "zeta", ["zeta"], ["zeta", "eta"], [2], [0.5, 0.5], {"zeta": 1}, None)


def is_within(path: str, place: str) -> bool:
    return path == place or path.startswith(f"{place}.")


def another_value(path: str, unlike: Sequence[object]) -> Any:
    """A valid value of a field that is none of these."""
    info = LEAVES[path]
    form: Any = Annotated[(info.annotation, *info.metadata)] if info.metadata else info.annotation
    adapter: TypeAdapter[object] = TypeAdapter(form, config={"strict": True})
    options = [option for part in (info.annotation, *get_args(info.annotation)) for option in get_args(part)]
    for value in (*(option for option in options if isinstance(option, str)), *CANDIDATES):
        with contextlib.suppress(ValidationError):
            adapter.validate_python(value)
            if all(value != other or isinstance(value, bool) != isinstance(other, bool) for other in unlike):
                return value
    raise AssertionError(f"{path}: no candidate fits")


def defaults_of(path: str) -> list[object]:
    """SkyRL's default of a leaf; none for one of a section that is null by default."""
    value: Any = SkyRLTrainConfig()
    for name in path.split("."):
        if value is None:
            return []
        value = getattr(value, name)
    return [value]


def refusals(changes: Changes) -> list[str]:
    """The fields that the rule refuses, by their paths in SkyRL's tree."""
    errors = list(support.builtin_trainer_does_what_is_set(Facts(parsed(changes))))
    assert all(error.code is STILL_TO_COME for error in errors)
    return [error.path.removeprefix(f"{CONFIG}.") for error in errors]


def test_every_leaf_has_one_place() -> None:
    """A field that the trainer learns, or that SkyRL gains, must be put somewhere."""
    places = {
        path: [
            *(["honoured"] if path in HONOURED else []),
            *(row.path for row in ROWS if is_within(path, row.path)),
            *(section.path for section in SECTIONS if is_within(path, section.path)),
        ]
        for path in LEAVES
    }
    assert {path: found for path, found in places.items() if len(found) != 1} == {}


def test_every_place_is_in_the_tree() -> None:
    named = [*HONOURED, *(row.path for row in (*ROWS, *UPSTREAM_ROWS)), *(section.path for section in SECTIONS)]
    assert [place for place in named if not any(is_within(path, place) for path in LEAVES)] == []
    assert len(named) == len({*named}) + len(UPSTREAM_ROWS)


def test_every_switch_is_refused_by_itself() -> None:
    """A section is silent where its switch is named; so the switch must be one that can be named."""
    switches = {section.switch for section in SECTIONS if section.switch is not None}
    refusable = {row.path for row in ROWS} | {path for path in LEAVES for s in SECTIONS if is_within(path, s.path)}
    assert switches <= refusable


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.path)
def test_a_row_does_its_values_and_no_other(row: Row) -> None:
    for value in row.honoured:
        assert row.path not in refusals({f"{CONFIG}.{row.path}": value})
    section = next((path for path in LEAVES if path.startswith(f"{row.path}.")), None)
    if section is None:
        assert refusals({f"{CONFIG}.{row.path}": another_value(row.path, row.honoured)}) == [row.path]
    else:
        assert refusals({f"{CONFIG}.{row.path}": {}}) == [row.path]


@pytest.mark.parametrize("path", [path for path in LEAVES if any(is_within(path, s.path) for s in SECTIONS)])
def test_a_leaf_of_a_section_may_have_skyrls_default_only(path: str) -> None:
    defaults = defaults_of(path)
    for default in defaults:
        assert refusals({f"{CONFIG}.{path}": default}) == []
    assert refusals({f"{CONFIG}.{path}": another_value(path, defaults)}) == [path]


@pytest.mark.parametrize("path", sorted(HONOURED))
def test_an_honoured_leaf_may_have_any_value(path: str) -> None:
    assert refusals({f"{CONFIG}.{path}": another_value(path, [])}) == []


# Honoured without being read by us: skyrl-gym's environments read their own settings, and of one field the models allow
# a single value.
UNREAD = {
    "environment.skyrl_gym.search.log_requests",
    "environment.skyrl_gym.search.search_url",
    "environment.skyrl_gym.text2sql.db_path",
    "trainer.sequence_parallel_backend",
}


def test_what_is_honoured_is_read_by_the_trainer_or_the_plan() -> None:
    rooms = ("trainer/src", "operator/src/rltrain_operator/plan")
    sources = [path.read_text(encoding="utf-8") for room in rooms for path in (REPOSITORY / room).rglob("*.py")]
    read = {name for source in sources for name in re.findall(r"\.(\w+)\b", source)}
    assert {path for path in HONOURED if path.rpartition(".")[2] not in read} == UNREAD


def test_skyrls_defaults_are_refused_only_where_they_change_what_is_done() -> None:
    assert sorted(refusals({CONFIG: {}})) == [
        "generator.inference_engine.backend",
        "trainer.placement.colocate_all",
    ]


SETTINGS_OF_REFUSED_FEATURES: dict[str, tuple[Changes, list[str]]] = {
    "Megatron": (
        {
            "trainer.strategy": "megatron",
            "trainer.policy.megatron_config.tensor_model_parallel_size": 4,
            "trainer.ref.megatron_config.tensor_model_parallel_size": 4,
        },
        ["trainer.strategy"],
    ),
    "settings alone": (
        {"trainer.policy.megatron_config.tensor_model_parallel_size": 4},
        ["trainer.policy.megatron_config.tensor_model_parallel_size"],
    ),
}


@pytest.mark.parametrize("case", SETTINGS_OF_REFUSED_FEATURES)
def test_settings_of_a_refused_feature_are_not_named_beside_it(case: str) -> None:
    changes, named = SETTINGS_OF_REFUSED_FEATURES[case]
    assert sorted(refusals({f"{CONFIG}.{path}": value for path, value in changes.items()})) == sorted(named)


def test_nobody_is_sent_to_a_trainer_that_cannot_do_it_either() -> None:
    (by_builtin,) = validate(parsed({f"{ENGINE}.backend": "sglang"}))
    (by_upstream,) = validate(parsed({f"{ENGINE}.backend": "sglang"}, UPSTREAM))
    assert "spec.runtime.trainer" not in by_builtin.message
    assert "spec.runtime.trainer" not in by_upstream.message


def test_the_documentation_says_what_the_builtin_trainer_does() -> None:
    """docs/validation.md has a line for every row and section: | `path` | values that are done | why |"""
    text = DOCUMENTATION.read_text(encoding="utf-8")
    for row in ROWS:
        values = choice(row.honoured) if row.honoured else "none"
        assert f"| `{row.path}` | {values} | {row.why} |" in text, row.path
    for section in SECTIONS:
        assert f"| `{section.path}` | SkyRL's default | {section.why} |" in text, section.path
