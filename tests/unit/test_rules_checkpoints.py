"""Checkpoints: what is kept, and where a run begins."""

from __future__ import annotations

import pytest

from rltrain_api.errors import ErrorCode
from rltrain_api.rules import checkpoints
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

RESUME_FROM = "spec.storage.checkpoints.resumeFrom"
RETAIN = "spec.storage.checkpoints.retain"

CASES = {
    "no checkpoint kept": Case(
        {f"{TRAINER}.max_ckpts_to_keep": 0},
        f"{TRAINER}.max_ckpts_to_keep",
        ErrorCode.OUT_OF_RANGE,
        ("-1",),
        {f"{TRAINER}.max_ckpts_to_keep": 3},
    ),
    "resume from nowhere": Case(
        {f"{TRAINER}.resume_mode": "from_path"},
        f"{TRAINER}.resume_path",
        ErrorCode.REQUIRED,
        ("global_step_N",),
        {f"{TRAINER}.resume_path": "/checkpoints/other/global_step_40/"},
    ),
    "resume path that is no checkpoint": Case(
        {f"{TRAINER}.resume_mode": "from_path", f"{TRAINER}.resume_path": "/checkpoints/job"},
        f"{TRAINER}.resume_path",
        ErrorCode.INVALID,
        ("'/checkpoints/job'", "global_step_N"),
        {f"{TRAINER}.resume_path": "/checkpoints/job/global_step_4"},
    ),
    "resume path without a step's number": Case(
        {f"{TRAINER}.resume_mode": "from_path", f"{TRAINER}.resume_path": "/checkpoints/job/global_step_last"},
        f"{TRAINER}.resume_path",
        ErrorCode.INVALID,
        ("N being a number",),
        {f"{TRAINER}.resume_path": "/data/global_step_0"},
    ),
    "resume path that is not used": Case(
        {f"{TRAINER}.resume_path": "/checkpoints/job/global_step_4"},
        f"{TRAINER}.resume_path",
        ErrorCode.CONFLICT,
        ("ignored", "latest"),
        {f"{TRAINER}.resume_mode": "from_path"},
    ),
    "resume path of a fresh run": Case(
        {f"{TRAINER}.resume_path": "/checkpoints/job/global_step_4", f"{TRAINER}.resume_mode": None},
        f"{TRAINER}.resume_path",
        ErrorCode.CONFLICT,
        ("resume_mode is null",),
        {f"{TRAINER}.resume_path": None},
    ),
    "two beginnings": Case(
        {f"{RESUME_FROM}": {"job": "other", "step": 40}, f"{TRAINER}.resume_mode": "none"},
        RESUME_FROM,
        ErrorCode.CONFLICT,
        ("step 40 of other", "resume_mode is none"),
        {f"{TRAINER}.resume_mode": "latest"},
    ),
    "path out of the volume": Case(
        {f"{RESUME_FROM}": {"job": "other", "step": 40, "path": "../runs"}},
        f"{RESUME_FROM}.path",
        ErrorCode.INVALID,
        ("write 'runs'",),
        {f"{RESUME_FROM}.path": "runs"},
    ),
    "path from the root": Case(
        {f"{RESUME_FROM}": {"job": "other", "step": 40, "path": "/checkpoints/other"}},
        f"{RESUME_FROM}.path",
        ErrorCode.INVALID,
        ("write 'checkpoints/other'",),
        {f"{RESUME_FROM}.path": "other"},
    ),
    "another job's step in two places": Case(
        {f"{RESUME_FROM}": {"job": "other", "step": 40, "url": "s3://bucket/other", "path": "other"}},
        f"{RESUME_FROM}.url",
        ErrorCode.CONFLICT,
        ("'s3://bucket/other'", "remove one"),
        {f"{RESUME_FROM}.path": DELETED},
    ),
    "two that say what is kept": Case(
        {RETAIN: {"last": 3, "every": 100}, f"{TRAINER}.max_ckpts_to_keep": 2},
        RETAIN,
        ErrorCode.CONFLICT,
        ("max_ckpts_to_keep is 2", "retain.last: 2"),
        {f"{TRAINER}.max_ckpts_to_keep": DELETED},
    ),
    "the best steps of upstream's trainer": Case(
        {RETAIN: {"best": {"metric": "eval/all/avg_score"}}},
        RETAIN,
        ErrorCode.NOT_YET_SUPPORTED,
        ("newest config.trainer.max_ckpts_to_keep",),
        {RETAIN: DELETED},
        UPSTREAM,
    ),
    "another job's step and upstream's trainer": Case(
        {f"{RESUME_FROM}": {"job": "other", "step": 40}},
        RESUME_FROM,
        ErrorCode.NOT_YET_SUPPORTED,
        ("global_step_40", "in every attempt"),
        {f"{RESUME_FROM}": None},
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
    check_every_rule_is_broken(checkpoints, CASES.values())


def test_every_rule_is_documented() -> None:
    check_every_rule_is_documented(checkpoints, CASES.values())
