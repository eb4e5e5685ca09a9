"""Images: the usual slips in a reference, each in its own words."""

from __future__ import annotations

import pytest

from rltrain_api.errors import ErrorCode
from rltrain_api.rules import images
from rule_cases import (
    Case,
    check_every_rule_is_broken,
    check_every_rule_is_documented,
    check_failure,
    check_remedy,
)

IMAGE = "spec.runtime.image"
DIGEST = f"sha256:{'0a' * 32}"


def reference(wrong: str, word: str, right: str) -> Case:
    return Case({IMAGE: wrong}, IMAGE, ErrorCode.INVALID, (word,), {IMAGE: right})


CASES = {
    "with a space": reference("trainer: 1.2", "has a space in it", "trainer:1.2"),
    "with a protocol": reference("https://registry.io/a/b:1", "write registry.io/a/b:1", "registry.io/a/b:1"),
    "with a short digest": reference("a/b@sha256:00", "has the digest sha256:00", f"a/b@{DIGEST}"),
    "with half a digest": reference("a/b:1@", "has the digest ''", f"a/b:1@{DIGEST}"),
    "without a tag behind its colon": reference("a/b:", "has the tag ''", "a/b"),
    "with a tag that begins with a dash": reference("a/b:-1", "has the tag -1", "a/b:1-x_Y.z"),
    "with a host that is none": reference("my_registry.io/a:1", "has the host my_registry.io", "my-registry.io/a:1"),
    "with a port that is none": reference("registry:port/a:1", "has the host registry:port", "registry:5000/a:1"),
    "with capital letters": reference(
        "registry.io/Team/Trainer:1", "write registry.io/team/trainer:1", "registry.io/team/trainer:1"
    ),
    "with an empty part": reference("registry.io//a", "has '' in its name", "[fd00::1]:5000/a"),
    "with two dots": reference("a..b", "has a..b in its name", "localhost/a.b"),
    "too long": reference("a" * 256, "256 characters of at most 255", "a" * 255),
    "of one role": Case(
        {"spec.runtime.images": {"inference": "vllm/vllm-openai:V 0"}},
        "spec.runtime.images.inference",
        ErrorCode.INVALID,
        ("has a space in it",),
        {"spec.runtime.images": {"head": "a", "trainer": "b:1", "inference": f"c:1@{DIGEST}"}},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_broken(case: str) -> None:
    check_failure(CASES[case])


@pytest.mark.parametrize("case", CASES)
def test_put_right(case: str) -> None:
    check_remedy(CASES[case])


def test_every_rule_is_broken() -> None:
    check_every_rule_is_broken(images, CASES.values())


def test_every_rule_is_documented() -> None:
    check_every_rule_is_documented(images, CASES.values())
