"""What pools add to their pods: labels, annotations, volumes, mounts, the patch of last resort."""

from __future__ import annotations

from typing import Any

import pytest

from rltrain_api.errors import ErrorCode
from rltrain_api.rules import templates
from rule_cases import (
    Case,
    check_every_rule_is_broken,
    check_every_rule_is_documented,
    check_failure,
    check_remedy,
)

POOL = "spec.pools.trainer"
SCRATCH = {"name": "scratch", "emptyDir": {}}
MOUNT = {"name": "scratch", "mountPath": "/scratch"}
GOOD_PATCH = {
    "metadata": {"labels": {"env": "production"}},
    "spec": {"hostIPC": True, "containers": [{"name": "ray", "stdin": True}]},
}


def patch(broken: dict[str, Any], place: str, code: ErrorCode, *words: str) -> Case:
    """A pool with a patch, and the same pool with a good one."""
    path = f"{POOL}.podPatch{place}"
    return Case({f"{POOL}.podPatch": broken}, path, code, words, {f"{POOL}.podPatch": GOOD_PATCH})


def container(**changes: Any) -> dict[str, Any]:
    """A patch of the container that the operator makes."""
    return {"spec": {"containers": [{"name": "ray", **changes}]}}


CASES = {
    "label's key": Case(
        {f"{POOL}.labels": {"my team": "a"}},
        f"{POOL}.labels",
        ErrorCode.INVALID,
        ("'my team' is not a key of labels",),
        {f"{POOL}.labels": {"example.com/team": "a"}},
    ),
    "label's value": Case(
        {f"{POOL}.labels": {"team": "a b"}},
        f"{POOL}.labels.team",
        ErrorCode.INVALID,
        ("'a b'",),
        {f"{POOL}.labels": {"team": "a-b"}},
    ),
    "annotation's key": Case(
        {f"{POOL}.annotations": {"/team": "a"}},
        f"{POOL}.annotations",
        ErrorCode.INVALID,
        ("'/team' is not a key of annotations",),
        {f"{POOL}.annotations": {"team": "any text, of course"}},
    ),
    "the operator's own label": Case(
        {f"{POOL}.labels": {"rltrain.io/role": "head"}},
        f"{POOL}.labels",
        ErrorCode.CONFLICT,
        ("rltrain.io/role is set by the operator",),
        {f"{POOL}.labels": {"example.com/role": "head"}},
    ),
    "KubeRay's own annotation": Case(
        {f"{POOL}.annotations": {"ray.io/overwrite-container-cmd": "true"}},
        f"{POOL}.annotations",
        ErrorCode.CONFLICT,
        ("ray.io/overwrite-container-cmd",),
        {f"{POOL}.annotations": {}},
    ),
    "volume without a name": Case(
        {f"{POOL}.volumes": [{"emptyDir": {}}]},
        f"{POOL}.volumes[0].name",
        ErrorCode.REQUIRED,
        ("not a volume's name",),
        {f"{POOL}.volumes": [SCRATCH]},
    ),
    "volume named as the job's": Case(
        {f"{POOL}.volumes": [{"name": "data", "emptyDir": {}}]},
        f"{POOL}.volumes[0].name",
        ErrorCode.DUPLICATE,
        ("data is the name of a volume that the operator adds",),
        {f"{POOL}.volumes": [SCRATCH]},
    ),
    "volumes of one name": Case(
        {f"{POOL}.volumes": [SCRATCH, {"name": "other", "emptyDir": {}}, SCRATCH]},
        f"{POOL}.volumes[0].name",
        ErrorCode.DUPLICATE,
        ("scratch is the name of 2 volumes",),
        {f"{POOL}.volumes": [SCRATCH]},
        others=(f"{POOL}.volumes[2].name",),
    ),
    "mount of no volume": Case(
        {f"{POOL}.volumeMounts": [MOUNT]},
        f"{POOL}.volumeMounts[0].name",
        ErrorCode.INVALID,
        ("scratch is no volume of these pods", "checkpoints"),
        {f"{POOL}.volumes": [SCRATCH]},
    ),
    "mount of what is no name": Case(
        {f"{POOL}.volumes": [SCRATCH], f"{POOL}.volumeMounts": [{**MOUNT, "name": {"a": 1}}]},
        f"{POOL}.volumeMounts[0].name",
        ErrorCode.INVALID,
        ("is no volume of these pods",),
        {f"{POOL}.volumeMounts": [MOUNT]},
    ),
    "mount at no path": Case(
        {f"{POOL}.volumes": [SCRATCH], f"{POOL}.volumeMounts": [{**MOUNT, "mountPath": "scratch"}]},
        f"{POOL}.volumeMounts[0].mountPath",
        ErrorCode.INVALID,
        ("scratch is not an absolute path",),
        {f"{POOL}.volumeMounts": [MOUNT]},
    ),
    "mount over the data": Case(
        {f"{POOL}.volumes": [SCRATCH], f"{POOL}.volumeMounts": [{**MOUNT, "mountPath": "/data/"}]},
        f"{POOL}.volumeMounts[0].mountPath",
        ErrorCode.DUPLICATE,
        ("/data/ has another volume already",),
        {f"{POOL}.volumeMounts": [MOUNT]},
    ),
    "patch of something else": patch(
        {"kind": "Pod"}, "", ErrorCode.UNKNOWN_FIELD, "no field 'kind'", "metadata and spec"
    ),
    "patch that is no map": patch({"spec": []}, ".spec", ErrorCode.WRONG_TYPE, "must be a map; got []"),
    "patch of the pods' names": patch(
        {"metadata": {"name": "a"}}, ".metadata.name", ErrorCode.CONFLICT, "only labels and annotations"
    ),
    "patch with labels that are none": patch(
        {"metadata": {"labels": ["a"]}}, ".metadata.labels", ErrorCode.WRONG_TYPE, "must be a map"
    ),
    "patch with a directive for a map": patch(
        {"spec": {"$patch": "replace"}}, ".spec", ErrorCode.INVALID, "use null to remove a field"
    ),
    "patch with a list that is none": patch(
        {"spec": {"containers": {"name": "ray"}}}, ".spec.containers", ErrorCode.WRONG_TYPE, "must be a list"
    ),
    "patch of a container without a name": patch(
        {"spec": {"containers": [{"image": "other"}]}}, ".spec.containers[0].name", ErrorCode.REQUIRED, "told apart"
    ),
    "patch of an entry that is none": patch(
        container(env=["A=1"]), ".spec.containers[0].env[0]", ErrorCode.WRONG_TYPE, "must be a map; got A=1"
    ),
    "patch with ports that are no list": patch(
        container(env=[{"name": {"a": 1}, "$patch": "delete"}], ports={}),
        ".spec.containers[0].ports",
        ErrorCode.WRONG_TYPE,
        "a list",
    ),
    "patch that takes the container": patch(
        {"spec": {"containers": [{"name": "ray", "$patch": "delete"}]}},
        ".spec.containers",
        ErrorCode.CONFLICT,
        "would remove ray",
    ),
    "patch that takes all containers": patch(
        {"spec": {"containers": None}}, ".spec.containers", ErrorCode.CONFLICT, "would remove all containers"
    ),
    "patch that takes the job's volume": patch(
        {"spec": {"volumes": [{"name": "checkpoints", "$patch": "delete"}]}},
        ".spec.volumes",
        ErrorCode.CONFLICT,
        "would remove checkpoints",
    ),
    "patch that takes a mount": patch(
        container(volumeMounts=[{"mountPath": "/data", "$patch": "delete"}]),
        ".spec.containers[0].volumeMounts",
        ErrorCode.CONFLICT,
        "would remove /data",
    ),
    "patch of the driver's token": patch(
        container(env=[{"name": "RLTRAIN_DRIVER_TOKEN", "value": "a"}]),
        ".spec.containers[0].env",
        ErrorCode.CONFLICT,
        "RLTRAIN_DRIVER_TOKEN is set by the operator",
    ),
    "patch that takes all labels": patch(
        {"metadata": {"labels": None}}, ".metadata.labels", ErrorCode.CONFLICT, "would remove all labels"
    ),
    "patch of the operator's label": patch(
        {"metadata": {"labels": {"rltrain.io/job": None}}}, ".metadata.labels", ErrorCode.CONFLICT, "rltrain.io/job"
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_broken(case: str) -> None:
    check_failure(CASES[case])


@pytest.mark.parametrize("case", CASES)
def test_put_right(case: str) -> None:
    check_remedy(CASES[case])


def test_every_rule_is_broken() -> None:
    check_every_rule_is_broken(templates, CASES.values())


def test_every_rule_is_documented() -> None:
    check_every_rule_is_documented(templates, CASES.values())
