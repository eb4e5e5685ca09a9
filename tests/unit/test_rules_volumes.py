"""Volumes: one source, a size, and mounts that neither collide nor hide anything."""

from __future__ import annotations

import pytest

from rltrain_api.errors import ErrorCode
from rltrain_api.rules import volumes
from rule_cases import (
    DELETED,
    PLACEMENT,
    TRAINER,
    Case,
    check_every_rule_is_broken,
    check_every_rule_is_documented,
    check_failure,
    check_remedy,
)

STORAGE = "spec.storage"
CLAIM = {"storage": "10Gi"}
DATA = {"name": "data", "mountPath": "/data", "claimName": "data"}
MORE = {"name": "more", "mountPath": "/more", "claimName": "more"}

CASES = {
    "no source": Case(
        {f"{STORAGE}.checkpoints": {}},
        f"{STORAGE}.checkpoints",
        ErrorCode.CONFLICT,
        ("sets none of claimTemplate, claimName, url",),
        {f"{STORAGE}.checkpoints.claimTemplate": CLAIM},
    ),
    "two sources": Case(
        {f"{STORAGE}.data.0.claimTemplate": CLAIM},
        f"{STORAGE}.data[0]",
        ErrorCode.CONFLICT,
        ("sets claimTemplate and claimName; set claimTemplate",),
        {f"{STORAGE}.data.0.claimName": DELETED},
    ),
    "an object store and a volume": Case(
        {f"{STORAGE}.checkpoints.url": "s3://bucket/runs", f"{TRAINER}.ckpt_path": "s3://bucket/runs/job"},
        f"{STORAGE}.checkpoints",
        ErrorCode.CONFLICT,
        ("sets claimName and url", "url for an object store"),
        {f"{STORAGE}.checkpoints": {"url": "s3://bucket/runs"}},
    ),
    "volume of nothing": Case(
        {f"{STORAGE}.checkpoints": {"claimTemplate": {"storage": "0Gi"}}},
        f"{STORAGE}.checkpoints.claimTemplate.storage",
        ErrorCode.OUT_OF_RANGE,
        ("size 0Gi",),
        {f"{STORAGE}.checkpoints.claimTemplate.storage": "1Gi"},
    ),
    "several nodes and a disk for one": Case(
        {
            f"{PLACEMENT}.policy_num_nodes": 2,
            f"{STORAGE}.checkpoints": {"claimTemplate": {**CLAIM, "accessModes": ["ReadWriteOnce"]}},
        },
        f"{STORAGE}.checkpoints.claimTemplate.accessModes",
        ErrorCode.CONFLICT,
        ("policy_num_nodes is 2", "ReadWriteMany"),
        {f"{STORAGE}.checkpoints.claimTemplate.accessModes": ["ReadWriteMany"]},
    ),
    "pools that exclude each other": Case(
        {
            f"{STORAGE}.cache": {"claimTemplate": {**CLAIM, "accessModes": ["ReadWriteOnce"]}},
            "spec.pools": {"trainer": {"nodeSelector": {"gpu": "a"}}, "inference": {"nodeSelector": {"gpu": "b"}}},
        },
        f"{STORAGE}.cache.claimTemplate.accessModes",
        ErrorCode.CONFLICT,
        ("pools.trainer wants nodes with gpu=a, and pools.inference with gpu=b",),
        {"spec.pools.inference.nodeSelector": {"gpu": "a", "zone": "b"}},
    ),
    "pods on their nodes' networks": Case(
        {
            f"{STORAGE}.data.0": {
                "name": "data",
                "mountPath": "/data",
                "claimTemplate": {**CLAIM, "accessModes": ["ReadWriteOnce"]},
            },
            "spec.pools": {
                "trainer": {"network": {"hostNetwork": True}},
                "inference": {"network": {"hostNetwork": True}},
            },
        },
        f"{STORAGE}.data[0].claimTemplate.accessModes",
        ErrorCode.CONFLICT,
        ("2 pods use their node's own network",),
        {"spec.pools.inference.network.hostNetwork": False},
    ),
    "deletion of what was there before": Case(
        {f"{STORAGE}.checkpoints.deletePolicy": "Delete"},
        f"{STORAGE}.checkpoints.deletePolicy",
        ErrorCode.CONFLICT,
        ("the claim checkpoints was there before the job",),
        {f"{STORAGE}.checkpoints.claimName": DELETED, f"{STORAGE}.checkpoints.claimTemplate": CLAIM},
    ),
    "mount where another job's checkpoints are seen": Case(
        {
            f"{STORAGE}.checkpoints.resumeFrom": {"job": "other", "step": 4},
            f"{STORAGE}.data": [DATA, {**MORE, "mountPath": "/resume"}],
        },
        f"{STORAGE}.data[1].mountPath",
        ErrorCode.CONFLICT,
        ("hide /resume",),
        {f"{STORAGE}.data.1.mountPath": "/resumed"},
    ),
    "data volume named as the cache": Case(
        {f"{STORAGE}.data.0.name": "cache"},
        f"{STORAGE}.data[0].name",
        ErrorCode.CONFLICT,
        ("storage.cache",),
        {f"{STORAGE}.data.0.name": "caches"},
    ),
    "mount path with a detour": Case(
        {f"{STORAGE}.data": [DATA, {**MORE, "mountPath": "/data/../more"}]},
        f"{STORAGE}.data[1].mountPath",
        ErrorCode.INVALID,
        ("'/more'",),
        {f"{STORAGE}.data.1.mountPath": "/more"},
    ),
    "mount path with two slashes": Case(
        {f"{STORAGE}.data": [DATA, {**MORE, "mountPath": "//more"}]},
        f"{STORAGE}.data[1].mountPath",
        ErrorCode.INVALID,
        ("write it as '/more'",),
        {f"{STORAGE}.data.1.mountPath": "/data/more"},
    ),
    "mount over the devices": Case(
        {f"{STORAGE}.data": [DATA, {**MORE, "mountPath": "/dev/shm"}]},
        f"{STORAGE}.data[1].mountPath",
        ErrorCode.CONFLICT,
        ("hide /dev",),
        {f"{STORAGE}.data.1.mountPath": "/devices"},
    ),
    "mount over Ray's directory": Case(
        {f"{STORAGE}.data": [DATA, {**MORE, "mountPath": "/tmp/ray/session"}]},
        f"{STORAGE}.data[1].mountPath",
        ErrorCode.CONFLICT,
        ("hide /tmp/ray",),
        {f"{STORAGE}.data.1.mountPath": "/tmp/rays"},
    ),
    "two volumes on one directory": Case(
        {f"{STORAGE}.data": [DATA, {**MORE, "mountPath": "/data"}]},
        f"{STORAGE}.data[1].mountPath",
        ErrorCode.DUPLICATE,
        ("'/data'", "spec.storage.data[0]"),
        {f"{STORAGE}.data.1.mountPath": "/data/more"},
    ),
    "data where checkpoints are": Case(
        {f"{STORAGE}.data": [DATA, {**MORE, "mountPath": "/checkpoints"}]},
        f"{STORAGE}.data[1].mountPath",
        ErrorCode.DUPLICATE,
        ("spec.storage.checkpoints",),
        {f"{STORAGE}.data.1.mountPath": "/checkpoints-of-old"},
    ),
    "data volume named checkpoints": Case(
        {f"{STORAGE}.data.0.name": "checkpoints"},
        f"{STORAGE}.data[0].name",
        ErrorCode.CONFLICT,
        ("storage.checkpoints", "another one"),
        {f"{STORAGE}.data.0.name": "checkpoint"},
    ),
    "data volume named as that of /dev/shm": Case(
        {f"{STORAGE}.data.0.name": "shared-memory"},
        f"{STORAGE}.data[0].name",
        ErrorCode.CONFLICT,
        ("/dev/shm",),
        {f"{STORAGE}.data.0.name": "shared"},
    ),
    "two volumes of one name": Case(
        {f"{STORAGE}.data": [DATA, {**MORE, "name": "data"}]},
        f"{STORAGE}.data[0].name",
        ErrorCode.DUPLICATE,
        ("'data' is the name of 2 volumes",),
        {f"{STORAGE}.data.1.name": "more"},
        others=(f"{STORAGE}.data[1].name",),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_broken(case: str) -> None:
    check_failure(CASES[case])


@pytest.mark.parametrize("case", CASES)
def test_put_right(case: str) -> None:
    check_remedy(CASES[case])


def test_every_rule_is_broken() -> None:
    check_every_rule_is_broken(volumes, CASES.values())


def test_every_rule_is_documented() -> None:
    check_every_rule_is_documented(volumes, CASES.values())
