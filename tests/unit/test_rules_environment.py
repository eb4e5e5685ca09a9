"""Environment variables: names that may be set, sources, and what a tracker needs."""

from __future__ import annotations

import pytest

from rltrain_api.errors import ErrorCode
from rltrain_api.rules import environment
from rule_cases import (
    DELETED,
    TRAINER,
    UPSTREAM,
    Case,
    check_every_rule_is_broken,
    check_every_rule_is_documented,
    check_failure,
    check_remedy,
)

WANDB = {f"{TRAINER}.logger": "wandb"}
ENV = "spec.runtime.env"
SECRET = {"secretRef": {"name": "tracker"}}


def variable(name: str, *words: str) -> Case:
    return Case({ENV: [{"name": name, "value": "x"}]}, f"{ENV}[0].name", ErrorCode.CONFLICT, (name, *words), {ENV: []})


CASES = {
    "variable of ours": variable("RLTRAIN_RUN", "remove it"),
    "variable that opens the cluster": variable("RAY_AUTH_MODE"),
    "variable that leads to another cluster": variable("RAY_ADDRESS"),
    "variable that hides GPUs": variable("CUDA_VISIBLE_DEVICES", "remove it"),
    "variable of the container runtime": variable("NVIDIA_VISIBLE_DEVICES"),
    "variable of ours in an initializer": Case(
        {"spec.storage.initializers": [{"name": "a", "command": ["a"], "env": [{"name": "RLTRAIN_X"}]}]},
        "spec.storage.initializers[0].env[0].name",
        ErrorCode.CONFLICT,
        ("RLTRAIN_X",),
        {"spec.storage.initializers": [{"name": "a", "command": ["a"], "env": [{"name": "X"}]}]},
    ),
    "variable set twice": Case(
        {ENV: [{"name": "A", "value": "1"}, {"name": "B"}, {"name": "A", "value": "2"}]},
        f"{ENV}[0].name",
        ErrorCode.DUPLICATE,
        ("A is set 2 times",),
        {ENV: [{"name": "NCCL_DEBUG", "value": "INFO"}]},
        others=(f"{ENV}[2].name",),
    ),
    "environment from nowhere": Case(
        {"spec.runtime.envFrom": [{}]},
        "spec.runtime.envFrom[0]",
        ErrorCode.CONFLICT,
        ("neither", "exactly one"),
        {"spec.runtime.envFrom": [SECRET]},
    ),
    "environment from two places": Case(
        {"spec.runtime.envFrom": [{**SECRET, "configMapRef": {"name": "b"}}]},
        "spec.runtime.envFrom[0]",
        ErrorCode.CONFLICT,
        ("both", "exactly one"),
        {"spec.runtime.envFrom": [SECRET, {"configMapRef": {"name": "proxy"}}]},
    ),
    "wandb without a key, builtin": Case(
        {f"{TRAINER}.logger": ["console", "wandb"]},
        f"{TRAINER}.logger",
        ErrorCode.CONFLICT,
        ("WANDB_API_KEY", "without which wandb takes nothing", "set logger to console"),
        {ENV: [{"name": "WANDB_MODE", "value": "offline"}]},
    ),
    "wandb without a key, builtin and by default": Case(
        {f"{TRAINER}.logger": DELETED},
        f"{TRAINER}.logger",
        ErrorCode.CONFLICT,
        ("is unset, and SkyRL's default is wandb",),
        {ENV: [{"name": "SKYRL_DISABLE_WANDB", "value": "1"}]},
    ),
    "wandb without a key": Case(
        WANDB,
        f"{TRAINER}.logger",
        ErrorCode.CONFLICT,
        ("is wandb", "WANDB_API_KEY", "spec.runtime.envFrom"),
        {"spec.runtime.envFrom": [SECRET]},
        UPSTREAM,
    ),
    "wandb without a key, by default": Case(
        {f"{TRAINER}.logger": DELETED},
        f"{TRAINER}.logger",
        ErrorCode.CONFLICT,
        ("is unset, and SkyRL's default is wandb",),
        {f"{TRAINER}.logger": "tensorboard"},
        UPSTREAM,
    ),
    "wandb without a key, offline": Case(
        {**WANDB, ENV: [{"name": "WANDB_MODE", "value": "offline"}]},
        f"{TRAINER}.logger",
        ErrorCode.CONFLICT,
        ("with WANDB_MODE offline too, where any text will do",),
        {ENV: [{"name": "WANDB_MODE", "value": "offline"}, {"name": "WANDB_API_KEY", "value": "none"}]},
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
    check_every_rule_is_broken(environment, CASES.values())


def test_every_rule_is_documented() -> None:
    check_every_rule_is_documented(environment, CASES.values())
