"""Every field of a pool, and the pod that comes of it."""

from __future__ import annotations

from typing import Any

import pytest

from pod_shapes import SHAPES, TRAINER
from rltrain_api.validate import validate
from rltrain_operator.plan import plan_initializer, plan_ray_cluster
from rule_cases import BUILTIN, UPSTREAM, Changes, parsed

# Which pods wait for the driver's last checkpoint, and where they find it.
SERVICE = "job-head-svc.default.svc"
LEAVING: dict[str, tuple[str, str, list[str] | None, int]] = {
    "head": (BUILTIN, "head", ["--host", "127.0.0.1", "--seconds", "300"], 330),
    "trainer": (BUILTIN, "trainer", ["--host", SERVICE, "--seconds", "300"], 330),
    "inference": (BUILTIN, "inference", ["--host", SERVICE, "--seconds", "300", "--follow"], 330),
    "upstream's head": (UPSTREAM, "head", None, 30),
    "upstream's trainer": (UPSTREAM, "trainer", None, 30),
}


@pytest.mark.parametrize("case", LEAVING)
def test_who_waits_for_the_last_checkpoint(case: str) -> None:
    ground, group, arguments, grace = LEAVING[case]
    template = template_of({"spec.stopGracePeriodSeconds": 300}, group, ground)
    command = value_at(template, "ray.lifecycle.preStop.exec.command")
    assert template["spec"]["terminationGracePeriodSeconds"] == grace
    assert (None if command is None else command[3:]) == arguments


def template_of(changes: Changes, group: str = "trainer", ground: str = BUILTIN) -> dict[str, Any]:
    spec = plan_ray_cluster(parsed(changes, ground))["spec"]
    if group == "head":
        head: dict[str, Any] = spec["headGroupSpec"]["template"]
        return head
    (found,) = [entry["template"] for entry in spec["workerGroupSpecs"] if entry["groupName"] == group]
    return dict(found)


def value_at(template: dict[str, Any], path: str) -> Any:
    """What is at a path; an entry of a list is found by its name, and a quoted key may hold dots."""
    begin, *quoted = path.split(".'")
    keys = [*begin.split("."), *(key.rstrip("'") for key in quoted)]
    if keys[0] == "ray":
        keys = ["spec", "containers", *keys]
    inner: Any = template
    for key in keys:
        if inner is None:
            return None
        if isinstance(inner, list):
            inner = next((entry for entry in inner if entry["name"] == key), None)
        else:
            inner = inner.get(key)
    return inner


@pytest.mark.parametrize("case", SHAPES)
def test_pod(case: str) -> None:
    changes, expected = SHAPES[case]
    template = template_of(changes)
    assert {path: value_at(template, path) for path in expected} == expected


@pytest.mark.parametrize("case", SHAPES)
def test_the_job_is_valid(case: str) -> None:
    assert validate(parsed(SHAPES[case][0])) == []


@pytest.mark.parametrize(
    "case", [case for case, (changes, _) in SHAPES.items() if any(TRAINER in at for at in changes)]
)
def test_other_pools_are_as_they_were(case: str) -> None:
    changes, _ = SHAPES[case]
    for group in ("head", "inference"):
        assert template_of(changes, group) == template_of({}, group)


def test_the_ray_container_is_the_first() -> None:
    """KubeRay takes the first container for Ray's."""
    changes, _ = SHAPES["a patch"]
    assert [container["name"] for container in template_of(changes)["spec"]["containers"]] == ["ray", "exporter"]


def test_initializers_are_pulled_with_the_same_secrets() -> None:
    initializer = {"name": "a", "command": ["a"]}
    changes = {
        "spec.runtime.imagePullSecrets": [{"name": "registry"}],
        "spec.storage.initializers": [initializer],
    }
    job = parsed(changes)
    manifest = plan_initializer(job, job.spec.storage.initializers[0])
    assert manifest["spec"]["template"]["spec"]["imagePullSecrets"] == [{"name": "registry"}]
