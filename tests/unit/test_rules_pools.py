"""Pools: resources, /dev/shm, GPUs of a pod, node labels, tolerations."""

from __future__ import annotations

import pytest

from rltrain_api.errors import ErrorCode
from rltrain_api.rules import pools
from rule_cases import (
    ENGINE,
    PLACEMENT,
    UPSTREAM,
    Case,
    Changes,
    check_every_rule_is_broken,
    check_every_rule_is_documented,
    check_failure,
    check_remedy,
)

HEAD = "spec.pools.head"
TRAINERS = "spec.pools.trainer"
INFERENCE = "spec.pools.inference"
TAINT = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}


def toleration(place: str, changes: Changes, path: str, code: ErrorCode, word: str, remedy: Changes) -> Case:
    """A pool with one good toleration and one that differs from it by `changes`."""
    return Case(
        {f"{place}.tolerations": [TAINT, {**TAINT, **changes}]},
        f"{place}.tolerations[1]{path}",
        code,
        (word,),
        {f"{place}.tolerations": [TAINT, {**TAINT, **remedy}]},
    )


CASES = {
    "no CPU": Case(
        {f"{HEAD}.resources": {"cpu": 0}},
        f"{HEAD}.resources.cpu",
        ErrorCode.OUT_OF_RANGE,
        ("0 CPU",),
        {f"{HEAD}.resources.cpu": 2},
    ),
    "memory in thousandths": Case(
        {f"{TRAINERS}.resources": {"memory": "512m"}},
        f"{TRAINERS}.resources.memory",
        ErrorCode.OUT_OF_RANGE,
        ("512m is 0.512 bytes", "512Mi"),
        {f"{TRAINERS}.resources.memory": "512Mi"},
    ),
    "initializer without memory": Case(
        {"spec.storage.initializers": [{"name": "a", "command": ["a"], "resources": {"memory": "1Mi"}}]},
        "spec.storage.initializers[0].resources.memory",
        ErrorCode.OUT_OF_RANGE,
        ("1Mi is 1048576 bytes",),
        {"spec.storage.initializers.0.resources.memory": "16Mi"},
    ),
    "shared memory larger than memory": Case(
        {"spec.pools.inference": {"resources": {"memory": "2Gi"}, "shmSize": "3Gi"}},
        "spec.pools.inference.shmSize",
        ErrorCode.OUT_OF_RANGE,
        ("3Gi is more than resources.memory 2Gi",),
        {"spec.pools.inference.shmSize": "2048Mi"},
    ),
    "shared memory without bound": Case(
        {f"{HEAD}.shmSize": "0"},
        f"{HEAD}.shmSize",
        ErrorCode.OUT_OF_RANGE,
        ("no bound", "remove it"),
        {f"{HEAD}.shmSize": None},
    ),
    "pods of several engines of the builtin trainer": Case(
        {f"{INFERENCE}.gpusPerNode": 4},
        f"{INFERENCE}.gpusPerNode",
        ErrorCode.NOT_YET_SUPPORTED,
        ("4 differs from the 1 GPU of an engine",),
        {f"{INFERENCE}.gpusPerNode": 1},
    ),
    "pods for the builtin trainer's environments": Case(
        {"spec.pools.environment": {"replicas": 2}},
        "spec.pools.environment",
        ErrorCode.NOT_YET_SUPPORTED,
        ("in the head pod",),
        {"spec.pools.environment": None},
    ),
    "RDMA devices without a name": Case(
        {f"{TRAINERS}.network": {"rdmaCount": 8}},
        f"{TRAINERS}.network.rdmaCount",
        ErrorCode.CONFLICT,
        ("8 devices without a name", "rdma/ib"),
        {f"{TRAINERS}.network": {"rdmaCount": 8, "rdmaResource": "rdma/ib"}},
    ),
    "engines that leave a part of a pod": Case(
        {f"{ENGINE}.tensor_parallel_size": 4, f"{INFERENCE}.gpusPerNode": 6},
        f"{INFERENCE}.gpusPerNode",
        ErrorCode.NOT_DIVISIBLE,
        ("6 GPUs of a pod and the 4 of an engine",),
        {f"{INFERENCE}.gpusPerNode": 8},
        UPSTREAM,
    ),
    "engines in smaller pods than the policy": Case(
        {f"{PLACEMENT}.policy_num_gpus_per_node": 4, f"{INFERENCE}.gpusPerNode": 2},
        f"{INFERENCE}.gpusPerNode",
        ErrorCode.CONFLICT,
        ("2 is less than the 4 GPUs of a trainer pod", "4 or more"),
        {f"{INFERENCE}.gpusPerNode": None},
        UPSTREAM,
    ),
    "node label's key": Case(
        {f"{HEAD}.nodeSelector": {"a b": "c"}},
        f"{HEAD}.nodeSelector",
        ErrorCode.INVALID,
        ("'a b'",),
        {f"{HEAD}.nodeSelector": {"example.com/a": "c"}},
    ),
    "node label's key without a name": Case(
        {f"{HEAD}.nodeSelector": {"example.com/": "c"}},
        f"{HEAD}.nodeSelector",
        ErrorCode.INVALID,
        ("'example.com/'",),
        {f"{HEAD}.nodeSelector": {"example.com/pool": "a_b.c-1", "zone": ""}},
    ),
    "node label's value": Case(
        {f"{HEAD}.nodeSelector": {"zone": "-a"}},
        f"{HEAD}.nodeSelector.zone",
        ErrorCode.INVALID,
        ("'-a'",),
        {f"{HEAD}.nodeSelector.zone": "a"},
    ),
    "toleration with a misspelt field": toleration(
        TRAINERS, {"efect": "NoSchedule"}, "", ErrorCode.UNKNOWN_FIELD, "no field 'efect'", {"effect": "NoExecute"}
    ),
    "toleration with a number for text": toleration(
        TRAINERS,
        {"operator": "Equal", "value": 1},
        ".value",
        ErrorCode.WRONG_TYPE,
        "must be a string; put it in quotes; got 1",
        {"operator": "Equal", "value": "1"},
    ),
    "toleration for a truth of seconds": toleration(
        TRAINERS,
        {"effect": "NoExecute", "tolerationSeconds": True},
        ".tolerationSeconds",
        ErrorCode.WRONG_TYPE,
        "must be an integer",
        {"effect": "NoExecute", "tolerationSeconds": 60},
    ),
    "toleration with an unknown operator": toleration(
        HEAD, {"operator": "exists"}, ".operator", ErrorCode.INVALID, "must be one of Exists, Equal", {}
    ),
    "toleration with an unknown effect": toleration(
        HEAD, {"effect": "NoScheduling"}, ".effect", ErrorCode.INVALID, "NoScheduling", {"effect": "PreferNoSchedule"}
    ),
    "toleration of a key that is none": toleration(
        HEAD, {"key": "gpu node"}, ".key", ErrorCode.INVALID, "'gpu node' is not a taint's key", {"key": "gpu-node"}
    ),
    "toleration of a value that is none": toleration(
        HEAD,
        {"operator": "Equal", "value": "a,b"},
        ".value",
        ErrorCode.INVALID,
        "'a,b' is not a label's value",
        {"operator": "Equal", "value": "a.b"},
    ),
    "toleration without a key": toleration(
        HEAD,
        {"operator": "Equal", "key": "", "value": "a"},
        ".key",
        ErrorCode.REQUIRED,
        "operator Equal compares",
        {"operator": "Exists", "key": ""},
    ),
    "toleration with a value that nobody compares": toleration(
        HEAD, {"value": "a"}, ".value", ErrorCode.CONFLICT, "asks for the key only", {"operator": "Equal", "value": "a"}
    ),
    "toleration that compares a word as a number": toleration(
        HEAD,
        {"operator": "Gt", "value": "a"},
        ".value",
        ErrorCode.INVALID,
        "operator Gt",
        {"operator": "Gt", "value": "5"},
    ),
    "toleration for a time without an eviction": toleration(
        HEAD,
        {"tolerationSeconds": 60},
        ".tolerationSeconds",
        ErrorCode.CONFLICT,
        "effect is NoSchedule",
        {"effect": "NoExecute", "tolerationSeconds": 60},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_broken(case: str) -> None:
    check_failure(CASES[case])


@pytest.mark.parametrize("case", CASES)
def test_put_right(case: str) -> None:
    check_remedy(CASES[case])


def test_every_rule_is_broken() -> None:
    check_every_rule_is_broken(pools, CASES.values())


def test_every_rule_is_documented() -> None:
    check_every_rule_is_documented(pools, CASES.values())
