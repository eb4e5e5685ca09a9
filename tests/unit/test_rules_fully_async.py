"""Fully asynchronous runs: when one is meant, and the window that its workers fit."""

from __future__ import annotations

import pytest

from rltrain_api.errors import ErrorCode
from rltrain_api.rules import fully_async
from rltrain_api.validate import validate
from rule_cases import (
    ALGORITHM,
    DELETED,
    ENGINE,
    GENERATOR,
    PLACEMENT,
    TRAINER,
    UPSTREAM,
    Case,
    check_every_rule_is_broken,
    check_every_rule_is_documented,
    check_failure,
    check_remedy,
    parsed,
)

WORKERS = f"{TRAINER}.fully_async.num_parallel_generation_workers"
# Four prompts a step and up to four steps of staleness: from 4 to 20 workers.
ASYNC = {f"{TRAINER}.train_batch_size": 4, WORKERS: 20}

CASES = {
    "more workers than the window holds": Case(
        {**ASYNC, WORKERS: 21},
        WORKERS,
        ErrorCode.OUT_OF_RANGE,
        ("21 workers", "policy_mini_batch_size 4 times (max_staleness_steps 4 + 1) = 20", "use 4 to 20"),
        {WORKERS: 20},
        UPSTREAM,
    ),
    "fewer workers than a mini-batch": Case(
        {**ASYNC, WORKERS: 3},
        WORKERS,
        ErrorCode.OUT_OF_RANGE,
        ("3 workers", "policy_mini_batch_size 4", "use 4 to 20"),
        {WORKERS: 4},
        UPSTREAM,
    ),
    "default number of workers, and less staleness": Case(
        {f"{TRAINER}.train_batch_size": 4, f"{TRAINER}.fully_async.max_staleness_steps": 1},
        WORKERS,
        ErrorCode.OUT_OF_RANGE,
        ("768 workers", "= 8"),
        {WORKERS: 8},
        UPSTREAM,
    ),
    "several optimiser steps": Case(
        {**ASYNC, f"{TRAINER}.train_batch_size": 8},
        f"{TRAINER}.train_batch_size",
        ErrorCode.CONFLICT,
        ("8 differs from policy_mini_batch_size 4",),
        {f"{TRAINER}.train_batch_size": 4},
        UPSTREAM,
    ),
    "engines on the trainer's GPUs, by default": Case(
        {**ASYNC, f"{PLACEMENT}.colocate_all": DELETED, f"{ENGINE}.num_engines": 2},
        f"{PLACEMENT}.colocate_all",
        ErrorCode.CONFLICT,
        ("is unset, and SkyRL's default is true", "set it to false"),
        {f"{PLACEMENT}.colocate_all": False},
        UPSTREAM,
    ),
    "batches": Case(
        {**ASYNC, f"{GENERATOR}.batched": True},
        f"{GENERATOR}.batched",
        ErrorCode.CONFLICT,
        ("is true", "set it to false"),
        {f"{GENERATOR}.batched": False},
        UPSTREAM,
    ),
    "dynamic sampling": Case(
        {**ASYNC, f"{ALGORITHM}.dynamic_sampling.type": "filter"},
        f"{ALGORITHM}.dynamic_sampling.type",
        ErrorCode.CONFLICT,
        ("is filter", "set it to null"),
        {f"{ALGORITHM}.dynamic_sampling.type": None},
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
    check_every_rule_is_broken(fully_async, CASES.values())


def test_every_rule_is_documented() -> None:
    check_every_rule_is_documented(fully_async, CASES.values())


def test_skyrls_own_defaults_mean_a_synchronous_run() -> None:
    """A resolved configuration holds every field: the defaults of trainer.fully_async say nothing."""
    written = {WORKERS: 768, f"{TRAINER}.fully_async.max_staleness_steps": 4}
    job = parsed(written, UPSTREAM)
    assert not fully_async.asks_for_fully_async(job.spec.config)
    assert validate(job) == []


def test_an_offline_engine_is_named_once_for_what_it_lacks() -> None:
    errors = validate(parsed({**ASYNC, f"{ENGINE}.async_engine": False}, UPSTREAM))
    assert [error.path for error in errors] == [f"{ENGINE}.async_engine"]
    errors = validate(parsed({**ASYNC, f"{ENGINE}.async_engine": False, f"{GENERATOR}.batched": True}, UPSTREAM))
    assert [error.path for error in errors] == [f"{GENERATOR}.batched", f"{ENGINE}.async_engine"]
