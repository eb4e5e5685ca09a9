"""The strategic merge patch, list by list, as Kubernetes makes it."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from rltrain_operator.plan.patch import merged

RAY = {
    "name": "ray",
    "image": "a",
    "args": ["1", "2"],
    "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
}
POD = {
    "containers": [RAY],
    "volumes": [{"name": "data", "emptyDir": {}}],
    "tolerations": [{"key": "a"}],
    "nodeSelector": {"zone": "a", "gpu": "h100"},
}
Document = dict[str, Any]

CASES: dict[str, tuple[Document, Document]] = {
    "a field is set": ({"hostIPC": True}, {**POD, "hostIPC": True}),
    "a field is removed": ({"nodeSelector": None}, {key: POD[key] for key in POD if key != "nodeSelector"}),
    "a field that is not there is removed": ({"dnsPolicy": None}, POD),
    "maps are merged": ({"nodeSelector": {"zone": "b"}}, {**POD, "nodeSelector": {"zone": "b", "gpu": "h100"}}),
    "a key of a map is removed": ({"nodeSelector": {"zone": None}}, {**POD, "nodeSelector": {"gpu": "h100"}}),
    "a map in place of nothing": ({"dnsConfig": {"a": None, "b": 1}}, {**POD, "dnsConfig": {"b": 1}}),
    "tolerations are replaced": ({"tolerations": [{"key": "b"}]}, {**POD, "tolerations": [{"key": "b"}]}),
    "arguments are replaced": (
        {"containers": [{"name": "ray", "args": ["3"]}]},
        {**POD, "containers": [{**RAY, "args": ["3"]}]},
    ),
    "variables are merged by name": (
        {"containers": [{"name": "ray", "env": [{"name": "C", "value": "3"}, {"name": "A", "value": "0"}]}]},
        {
            **POD,
            "containers": [
                {
                    **RAY,
                    "env": [{"name": "A", "value": "0"}, {"name": "B", "value": "2"}, {"name": "C", "value": "3"}],
                }
            ],
        },
    ),
    "a variable is removed": (
        {"containers": [{"name": "ray", "env": [{"name": "A", "$patch": "delete"}]}]},
        {**POD, "containers": [{**RAY, "env": [{"name": "B", "value": "2"}]}]},
    ),
    "a container is added": (
        {"containers": [{"name": "side", "image": "b"}]},
        {**POD, "containers": [RAY, {"name": "side", "image": "b"}]},
    ),
    "a list in place of nothing": (
        {"imagePullSecrets": [{"name": "a"}]},
        {**POD, "imagePullSecrets": [{"name": "a"}]},
    ),
    "what is not there is not removed": ({"volumes": [{"name": "other", "$patch": "delete"}]}, POD),
    "a volume becomes another": (
        {"volumes": [{"name": "data", "emptyDir": None, "hostPath": {"path": "/a"}}]},
        {**POD, "volumes": [{"name": "data", "hostPath": {"path": "/a"}}]},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_merged(case: str) -> None:
    patch, expected = CASES[case]
    target, change = copy.deepcopy(POD), copy.deepcopy(patch)
    assert merged(target, change) == expected
    assert (target, change) == (POD, patch), "neither argument is changed"


@pytest.mark.parametrize("case", CASES)
def test_once_more_changes_nothing(case: str) -> None:
    patch, expected = CASES[case]
    assert merged(expected, patch) == expected


def test_mounts_are_told_apart_by_their_paths() -> None:
    """One volume may be mounted twice."""
    mounts = [{"name": "data", "mountPath": "/a"}, {"name": "data", "mountPath": "/b"}]
    patch = {"volumeMounts": [{"mountPath": "/b", "readOnly": True}]}
    assert merged({"volumeMounts": mounts}, patch)["volumeMounts"] == [mounts[0], {**mounts[1], "readOnly": True}]
