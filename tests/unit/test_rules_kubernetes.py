"""Names that children can carry: the job, claims, batch Jobs, the queue."""

from __future__ import annotations

import pytest

from rltrain_api import names
from rltrain_api.errors import ErrorCode
from rltrain_api.rules import kubernetes
from rule_cases import (
    DELETED,
    Case,
    check_every_rule_is_broken,
    check_every_rule_is_documented,
    check_failure,
    check_remedy,
)

LONGEST = "j" * names.MAX_JOB_NAME_LENGTH
FETCH = {"name": "fetch", "command": ["fetch"]}

CASES = {
    "name missing": Case(
        {"metadata.name": DELETED}, "metadata.name", ErrorCode.REQUIRED, ("add it",), {"metadata.name": "job"}
    ),
    "name begins with a digit": Case(
        {"metadata.name": "1job"}, "metadata.name", ErrorCode.INVALID, ("begin with",), {"metadata.name": "job1"}
    ),
    "name with a dot": Case(
        {"metadata.name": "a.b"}, "metadata.name", ErrorCode.INVALID, ("a-z, 0-9",), {"metadata.name": "a-b"}
    ),
    "name ends with a dash": Case(
        {"metadata.name": "job-"}, "metadata.name", ErrorCode.INVALID, ("end with",), {"metadata.name": "j"}
    ),
    "name too long": Case(
        {"metadata.name": f"{LONGEST}j"},
        "metadata.name",
        ErrorCode.OUT_OF_RANGE,
        ("46 characters", "45", "shorter"),
        {"metadata.name": LONGEST},
    ),
    "initializer's Job too long": Case(
        {"metadata.name": LONGEST, "spec.storage.initializers": [{**FETCH, "name": "i" * 13}]},
        "spec.storage.initializers[0].name",
        ErrorCode.OUT_OF_RANGE,
        ("64 characters of at most 63", "by 1"),
        {"spec.storage.initializers.0.name": "i" * 12},
    ),
    "claim too long": Case(
        {
            "metadata.name": LONGEST,
            "spec.storage.data": [
                {"name": "d" * 20, "mountPath": "/data", "claimTemplate": {"storage": "10Gi"}},
            ],
        },
        "spec.storage.data[0].name",
        ErrorCode.OUT_OF_RANGE,
        ("66 characters of at most 63", "by 3"),
        {"spec.storage.data": [{"name": "d" * 20, "mountPath": "/data", "claimName": "data"}]},
    ),
    "two initializers of one name": Case(
        {"spec.storage.initializers": [FETCH, FETCH]},
        "spec.storage.initializers[0].name",
        ErrorCode.DUPLICATE,
        ("'fetch' is the name of 2 initializers",),
        {"spec.storage.initializers": [FETCH, {**FETCH, "name": "convert"}]},
        others=("spec.storage.initializers[1].name",),
    ),
    "queue that no label can name": Case(
        {"spec.queueName": "q" * 64},
        "spec.queueName",
        ErrorCode.OUT_OF_RANGE,
        ("64 characters", "63"),
        {"spec.queueName": "q" * 63},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_broken(case: str) -> None:
    check_failure(CASES[case])


@pytest.mark.parametrize("case", CASES)
def test_put_right(case: str) -> None:
    check_remedy(CASES[case])


def test_every_rule_is_broken() -> None:
    check_every_rule_is_broken(kubernetes, CASES.values())


def test_every_rule_is_documented() -> None:
    check_every_rule_is_documented(kubernetes, CASES.values())
