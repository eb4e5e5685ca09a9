"""Queues: priority classes, queues and topology, each with the scheduler that reads it."""

from __future__ import annotations

import pytest

from rltrain_api.errors import ErrorCode
from rltrain_api.rules import queueing
from rule_cases import (
    DELETED,
    Case,
    check_every_rule_is_broken,
    check_every_rule_is_documented,
    check_failure,
    check_remedy,
)

SCHEDULING = "spec.scheduling"
RACK = "cloud.provider.com/topology-rack"
QUEUE = {"spec.queueName": "research"}

CASES = {
    "a workload priority without a queue": Case(
        {f"{SCHEDULING}.workloadPriorityClass": "urgent"},
        f"{SCHEDULING}.workloadPriorityClass",
        ErrorCode.CONFLICT,
        ("spec.queueName",),
        QUEUE,
    ),
    "a workload priority of Kueue's for Volcano": Case(
        {**QUEUE, SCHEDULING: {"scheduler": "volcano", "workloadPriorityClass": "urgent"}},
        f"{SCHEDULING}.workloadPriorityClass",
        ErrorCode.CONFLICT,
        ("volcano", "spec.priorityClassName"),
        {f"{SCHEDULING}.workloadPriorityClass": DELETED, "spec.priorityClassName": "urgent"},
    ),
    "KAI without a queue": Case(
        {f"{SCHEDULING}.scheduler": "kai"}, "spec.queueName", ErrorCode.REQUIRED, ("KAI",), QUEUE
    ),
    "a topology that nobody reads": Case(
        {f"{SCHEDULING}.topology": {"level": RACK}},
        f"{SCHEDULING}.topology",
        ErrorCode.CONFLICT,
        ("spec.queueName",),
        QUEUE,
    ),
    "a topology for YuniKorn": Case(
        {SCHEDULING: {"scheduler": "yunikorn", "topology": {"level": RACK}}},
        f"{SCHEDULING}.topology",
        ErrorCode.CONFLICT,
        ("YuniKorn", "remove it"),
        {f"{SCHEDULING}.topology": DELETED},
    ),
    "a rack for Volcano": Case(
        {SCHEDULING: {"scheduler": "volcano", "topology": {"level": RACK}}},
        f"{SCHEDULING}.topology.level",
        ErrorCode.INVALID,
        ("whole number",),
        {f"{SCHEDULING}.topology.level": "1"},
    ),
    "a level that is no label": Case(
        {**QUEUE, f"{SCHEDULING}.topology": {"level": "the same rack"}},
        f"{SCHEDULING}.topology.level",
        ErrorCode.INVALID,
        ("'the same rack'", RACK),
        {f"{SCHEDULING}.topology.level": RACK},
    ),
    "KAI without the name of a topology": Case(
        {**QUEUE, SCHEDULING: {"scheduler": "kai", "topology": {"level": RACK}}},
        f"{SCHEDULING}.topology.name",
        ErrorCode.REQUIRED,
        ("Topology",),
        {f"{SCHEDULING}.topology.name": "cluster"},
    ),
    "the name of a topology for Kueue": Case(
        {**QUEUE, f"{SCHEDULING}.topology": {"level": RACK, "name": "cluster"}},
        f"{SCHEDULING}.topology.name",
        ErrorCode.CONFLICT,
        ("KAI", "kueue"),
        {f"{SCHEDULING}.topology.name": DELETED},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_broken(case: str) -> None:
    check_failure(CASES[case])


@pytest.mark.parametrize("case", CASES)
def test_put_right(case: str) -> None:
    check_remedy(CASES[case])


def test_every_rule_is_broken() -> None:
    check_every_rule_is_broken(queueing, CASES.values())


def test_every_rule_is_documented() -> None:
    check_every_rule_is_documented(queueing, CASES.values())
