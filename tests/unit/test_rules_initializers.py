"""Initializers: one thing each, sources that can be read, targets that last."""

from __future__ import annotations

import pytest

from rltrain_api.errors import ErrorCode
from rltrain_api.rules import initializers
from rule_cases import (
    UPSTREAM,
    Case,
    check_every_rule_is_broken,
    check_every_rule_is_documented,
    check_failure,
    check_remedy,
)

INITIALIZERS = "spec.storage.initializers"
FIRST = f"{INITIALIZERS}[0]"
DIGEST = "0" * 64


def fetch(source: str, to: str = "/data/in", **more: object) -> list[dict[str, object]]:
    return [{"name": "one", "dataset": {"from": source, "to": to, **more}}]


CASES = {
    "nothing to do": Case(
        {INITIALIZERS: [{"name": "one"}]},
        FIRST,
        ErrorCode.REQUIRED,
        ("does nothing",),
        {INITIALIZERS: fetch("hf://owner/name")},
    ),
    "two things to do": Case(
        {INITIALIZERS: [{**fetch("hf://owner/name")[0], "command": ["true"]}]},
        FIRST,
        ErrorCode.CONFLICT,
        ("sets command and dataset",),
        {INITIALIZERS: [{"name": "one", "command": ["true"]}]},
    ),
    "arguments of nobody": Case(
        {INITIALIZERS: [{**fetch("hf://owner/name")[0], "args": ["--all"]}]},
        f"{FIRST}.args",
        ErrorCode.CONFLICT,
        ("remove them",),
        {INITIALIZERS: fetch("hf://datasets/owner/name@v1/train")},
    ),
    "unknown scheme": Case(
        {INITIALIZERS: fetch("ftp://host/file")},
        f"{FIRST}.dataset.from",
        ErrorCode.INVALID,
        ("hf://, https://, http://, s3://, gs://, abfs://, abfss:// or a path",),
        {INITIALIZERS: fetch("https://host/file")},
    ),
    "no repository": Case(
        {INITIALIZERS: fetch("hf://name")},
        f"{FIRST}.dataset.from",
        ErrorCode.INVALID,
        ("hf://owner/name",),
        {INITIALIZERS: fetch("hf://owner/name")},
    ),
    "a dataset for a model": Case(
        {INITIALIZERS: [{"name": "one", "model": {"from": "hf://datasets/owner/name", "to": "/data/in"}}]},
        f"{FIRST}.model.from",
        ErrorCode.INVALID,
        ("names a dataset",),
        {INITIALIZERS: [{"name": "one", "model": {"from": "hf://owner/name", "to": "/data/in"}}]},
    ),
    "a path on no volume": Case(
        {INITIALIZERS: fetch("/models/base")},
        f"{FIRST}.dataset.from",
        ErrorCode.INVALID,
        ("below /checkpoints or /data",),
        {INITIALIZERS: fetch("/checkpoints/base")},
    ),
    "an open source": Case(
        {INITIALIZERS: fetch("http://host/file")},
        f"{FIRST}.dataset.sha256",
        ErrorCode.REQUIRED,
        ("https://",),
        {INITIALIZERS: fetch("http://host/file", sha256=DIGEST)},
    ),
    "a digest of a repository": Case(
        {INITIALIZERS: fetch("hf://owner/name", sha256=DIGEST)},
        f"{FIRST}.dataset.sha256",
        ErrorCode.CONFLICT,
        ("@<commit>",),
        {INITIALIZERS: fetch("hf://owner/name/train.parquet", sha256=DIGEST)},
    ),
    "patterns of one file": Case(
        {INITIALIZERS: fetch("https://host/file", include=["*.parquet"])},
        f"{FIRST}.dataset.include",
        ErrorCode.CONFLICT,
        ("hub's repository",),
        {INITIALIZERS: fetch("hf://owner/name", include=["*.parquet"])},
    ),
    "a target on no volume": Case(
        {INITIALIZERS: fetch("hf://owner/name", "/tmp/in")},
        f"{FIRST}.dataset.to",
        ErrorCode.NOT_MOUNTED,
        ("under /checkpoints or /data",),
        {
            INITIALIZERS: fetch("hf://owner/name", "/cache/in"),
            "spec.storage.cache": {"claimName": "cache"},
        },
    ),
    "a target in its source": Case(
        {INITIALIZERS: fetch("/data/in", "/data/in/copy")},
        f"{FIRST}.dataset.to",
        ErrorCode.CONFLICT,
        ("outside '/data/in'",),
        {INITIALIZERS: fetch("/data/in", "/data/copy")},
    ),
    "a script of an unknown kind": Case(
        {INITIALIZERS: [{"name": "one", "script": {"configMap": "scripts", "key": "prepare"}}]},
        f"{FIRST}.script.key",
        ErrorCode.INVALID,
        (".py or .sh",),
        {INITIALIZERS: [{"name": "one", "script": {"configMap": "scripts", "key": "prepare.sh"}, "args": ["all"]}]},
    ),
    "an image that cannot fetch": Case(
        {INITIALIZERS: fetch("hf://owner/name")},
        f"{FIRST}.image",
        ErrorCode.REQUIRED,
        ("RLTrain's trainer image",),
        {INITIALIZERS: [{**fetch("hf://owner/name")[0], "image": "rltrain/trainer:0.1.0"}]},
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
    check_every_rule_is_broken(initializers, CASES.values())


def test_every_rule_is_documented() -> None:
    check_every_rule_is_documented(initializers, CASES.values())
