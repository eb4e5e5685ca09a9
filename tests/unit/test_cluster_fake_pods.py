"""How a fake node plays pods: one step after another, from the pod and the time alone."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from rltrain_cluster.fake_pods import Delete, Patch, Step, Wait, decide

BORN = datetime.datetime(2026, 1, 1, 12, 0, 0, tzinfo=datetime.UTC)


def after(seconds: float) -> datetime.datetime:
    return BORN + datetime.timedelta(seconds=seconds)


def make_pod(
    annotations: dict[str, str] | None = None, *, policy: str = "Never", owner: str | None = None, deleted: bool = False
) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": "p", "creationTimestamp": "2026-01-01T12:00:00Z"}
    metadata["annotations"] = {f"fake.rltrain.io/{name}": value for name, value in (annotations or {}).items()}
    if owner:
        metadata["ownerReferences"] = [{"kind": owner}]
    if deleted:
        metadata["deletionTimestamp"] = "2026-01-01T12:00:05Z"
    scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T12:00:00Z"}
    return {
        "metadata": metadata,
        "spec": {
            "restartPolicy": policy,
            "initContainers": [{"name": "before", "image": "i:1"}],
            "containers": [{"name": "main", "image": "m:1"}, {"name": "side", "image": "s:1"}],
        },
        "status": {"phase": "Pending", "conditions": [scheduled]},
    }


def apply(pod: dict[str, Any], step: Step) -> dict[str, Any]:
    assert isinstance(step, Patch)
    return {**pod, "status": {**pod["status"], **step.status}}


def play(pod: dict[str, Any], now: datetime.datetime) -> dict[str, Any]:
    """Take steps until there is nothing left to do at this time."""
    for _ in range(10):
        step = decide(pod, now, "10.1.0.1")
        if isinstance(step, Wait):
            return pod
        pod = apply(pod, step)
    raise AssertionError("a pod that never comes to rest")


def summary(pod: dict[str, Any]) -> tuple[Any, ...]:
    status = pod["status"]
    main = status.get("containerStatuses", [{}])[0]
    ready = {condition["type"]: condition["status"] for condition in status["conditions"]}.get("Ready")
    state = main.get("state", {})
    told = state.get("waiting", {}).get("reason") or state.get("terminated", {}).get("exitCode")
    return status["phase"], ready, told, main.get("restartCount")


AT_REST = {
    "a plain pod runs, ready": (make_pod(), (("Running", "True", None, 0))),
    "not ready on request": (make_pod({"unready": "true"}), ("Running", "False", None, 0)),
    "an image that cannot be had": (
        make_pod({"waiting": "ImagePullBackOff"}),
        ("Pending", "False", "ImagePullBackOff", 0),
    ),
    "not started yet": (make_pod({"start-seconds": "60"}), ("Pending", None, None, None)),
    "started late": (make_pod({"start-seconds": "5"}), ("Running", "True", None, 0)),
    "a Job's pod completes": (make_pod(owner="Job"), ("Succeeded", "False", 0, 0)),
    "a Job's pod fails on request": (make_pod({"exit-code": "3"}, owner="Job"), ("Failed", "False", 3, 0)),
    "another owner's pod does not end": (make_pod(owner="RayCluster"), ("Running", "True", None, 0)),
    "an exit code ends it": (make_pod({"exit-code": "137"}), ("Failed", "False", 137, 0)),
    "a duration ends it well": (make_pod({"run-seconds": "0"}), ("Succeeded", "False", 0, 0)),
    "a duration not yet over": (make_pod({"run-seconds": "60"}), ("Running", "True", None, 0)),
    "restarted for ever": (make_pod({"exit-code": "1"}, policy="Always"), ("Running", "True", None, 1)),
    "restarted on failure": (make_pod({"exit-code": "1"}, policy="OnFailure"), ("Running", "True", None, 1)),
    "not restarted after success": (make_pod({"exit-code": "0"}, policy="OnFailure"), ("Succeeded", "False", 0, 0)),
}


@pytest.mark.parametrize("case", AT_REST, ids=list(AT_REST))
def test_pod_comes_to_rest(case: str) -> None:
    pod, expected = AT_REST[case]
    assert summary(play(pod, after(10))) == expected


def test_start_fills_in_what_controllers_read() -> None:
    status = play(make_pod(), after(1))["status"]
    assert (status["podIP"], status["startTime"]) == ("10.1.0.1", "2026-01-01T12:00:01Z")
    assert status["podIPs"] == [{"ip": "10.1.0.1"}]
    assert [item["name"] for item in status["containerStatuses"]] == ["main", "side"]
    assert status["initContainerStatuses"][0]["state"]["terminated"]["exitCode"] == 0
    assert {item["type"]: item["status"] for item in status["conditions"]} == {
        "PodScheduled": "True",
        "Initialized": "True",
        "ContainersReady": "True",
        "Ready": "True",
    }


def test_waits_for_what_is_left_of_a_duration() -> None:
    assert decide(make_pod({"start-seconds": "8"}), after(3), "") == Wait(5)
    running = play(make_pod({"run-seconds": "8"}), after(2))
    assert decide(running, after(4), "") == Wait(6)


def test_every_new_order_ends_a_restarted_container_once() -> None:
    pod = play(make_pod({"exit-code": "1"}, policy="Always"), after(1))
    assert summary(play(pod, after(60)))[3] == 1
    pod["metadata"]["annotations"]["fake.rltrain.io/exit-code"] = "2"
    again = play(pod, after(61))
    assert summary(again)[3] == 2
    last = again["status"]["containerStatuses"][0]["lastState"]["terminated"]
    assert (last["exitCode"], last["reason"]) == (2, "Error")


def test_running_pod_obeys_annotations_set_later() -> None:
    pod = play(make_pod(), after(1))
    pod["metadata"]["annotations"]["fake.rltrain.io/unready"] = "true"
    pod = play(pod, after(2))
    assert summary(pod)[:2] == ("Running", "False")
    pod["metadata"]["annotations"] |= {"fake.rltrain.io/exit-code": "137", "fake.rltrain.io/exit-reason": "OOMKilled"}
    terminated = play(pod, after(3))["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (terminated["exitCode"], terminated["reason"]) == (137, "OOMKilled")


def test_ready_keeps_the_time_of_its_last_change() -> None:
    pod = play(make_pod(), after(1))
    pod["metadata"]["annotations"]["fake.rltrain.io/unready"] = "true"
    pod = play(pod, after(9))
    times = {item["type"]: item["lastTransitionTime"] for item in pod["status"]["conditions"]}
    assert (times["Initialized"], times["Ready"]) == ("2026-01-01T12:00:01Z", "2026-01-01T12:00:09Z")


def test_deletion() -> None:
    assert decide(make_pod(deleted=True), after(6), "") == Delete()
    assert decide(make_pod({"undying": "true"}, deleted=True), after(6), "") == Wait()
