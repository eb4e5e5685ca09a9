"""How a fake node plays a pod: a pure function from the pod as it is, and the time, to the next step.

A pod runs at once, for ever, and is ready, unless annotations say otherwise; they may be set while it runs, which is
how a test injects a failure:

    fake.rltrain.io/start-seconds: "5"          stays Pending so long after it was scheduled
    fake.rltrain.io/waiting: ImagePullBackOff   stays Pending for this reason
    fake.rltrain.io/unready: "true"             runs without being ready
    fake.rltrain.io/run-seconds: "3"            ends so long after its start (with exit code 0 if none is given)
    fake.rltrain.io/exit-code: "137"            ends with this code, at once or after run-seconds
    fake.rltrain.io/exit-reason: OOMKilled      the reason that its end is reported with
    fake.rltrain.io/undying: "true"             stays Terminating when deleted

Pods of Jobs end with exit code 0 without being told. What the restart policy restarts is restarted at once, and ends
again only when its annotations change. This module must not know the API server.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Any

Object = dict[str, Any]
Time = datetime.datetime

PREFIX = "fake.rltrain.io/"
START_SECONDS = f"{PREFIX}start-seconds"
WAITING = f"{PREFIX}waiting"
UNREADY = f"{PREFIX}unready"
RUN_SECONDS = f"{PREFIX}run-seconds"
EXIT_CODE = f"{PREFIX}exit-code"
EXIT_REASON = f"{PREFIX}exit-reason"
UNDYING = f"{PREFIX}undying"


@dataclass(frozen=True)
class Patch:
    """Merge this into the pod's status."""

    status: Object


@dataclass(frozen=True)
class Delete:
    """The pod's processes have ended: remove the object."""


@dataclass(frozen=True)
class Wait:
    """Nothing to do until something changes, or for so many seconds."""

    seconds: float | None = None


Step = Patch | Delete | Wait


def decide(pod: Object, now: Time, address: str) -> Step:
    """The next step in the life of `pod`; `address` is the IP that it gets when it starts."""
    notes = _annotations(pod)
    status = pod.get("status", {})
    if "deletionTimestamp" in pod["metadata"]:
        return Wait() if notes.get(UNDYING) == "true" else Delete()
    if status.get("phase") in ("Succeeded", "Failed"):
        return Wait()
    started = _running_since(status)
    if started is None:
        return _start(pod, notes, now, address)
    return _run(pod, notes, now, started)


def _start(pod: Object, notes: dict[str, str], now: Time, address: str) -> Step:
    if WAITING in notes:
        state = {"waiting": {"reason": notes[WAITING], "message": f"annotation {WAITING}"}}
        return _unless_there(pod, Patch(_status(pod, "Pending", state, ready=False, now=now)))
    begin = _parse(pod["metadata"]["creationTimestamp"])
    left = float(notes.get(START_SECONDS, "0")) - (now - begin).total_seconds()
    if left > 0:
        return Wait(left)
    ready = notes.get(UNREADY) != "true"
    status = _status(pod, "Running", {"running": {"startedAt": _text(now)}}, ready=ready, now=now)
    given = pod.get("status", {}).get("podIP") or address
    return Patch({**status, "startTime": _text(now), "podIP": given, "podIPs": [{"ip": given}]})


def _run(pod: Object, notes: dict[str, str], now: Time, started: Time) -> Step:
    order = _exit_order(pod, notes)
    if order is not None and _last_order(pod) != order:
        left = float(notes.get(RUN_SECONDS, "0")) - (now - started).total_seconds()
        if left > 0:
            return Wait(left)
        return _end(pod, notes, now, started, order)
    ready = notes.get(UNREADY) != "true"
    state = {"running": {"startedAt": _text(started)}}
    return _unless_there(pod, Patch(_status(pod, "Running", state, ready=ready, now=now)))


def _end(pod: Object, notes: dict[str, str], now: Time, started: Time, order: str) -> Patch:
    code = int(notes.get(EXIT_CODE, "0"))
    terminated = {
        "exitCode": code,
        "reason": notes.get(EXIT_REASON, "Completed" if code == 0 else "Error"),
        "message": order,
        "startedAt": _text(started),
        "finishedAt": _text(now),
    }
    policy = pod["spec"].get("restartPolicy", "Always")
    if policy == "Always" or (policy == "OnFailure" and code != 0):
        status = _status(
            pod,
            "Running",
            {"running": {"startedAt": _text(now)}},
            ready=notes.get(UNREADY) != "true",
            now=now,
        )
        for container in status["containerStatuses"]:
            container["restartCount"] += 1
            container["lastState"] = {"terminated": terminated}
        return Patch(status)
    phase = "Succeeded" if code == 0 else "Failed"
    return Patch(_status(pod, phase, {"terminated": terminated}, ready=False, now=now))


def _exit_order(pod: Object, notes: dict[str, str]) -> str | None:
    """What tells the pod to end, as a text that changes whenever the order does; None if nothing does."""
    of_job = any(owner["kind"] == "Job" for owner in pod["metadata"].get("ownerReferences", []))
    if EXIT_CODE not in notes and RUN_SECONDS not in notes and not of_job:
        return None
    return f"exit {notes.get(EXIT_CODE, '0')} after {notes.get(RUN_SECONDS, '0')} s"


def _last_order(pod: Object) -> str | None:
    """The order that the containers' last end obeyed."""
    for container in pod.get("status", {}).get("containerStatuses", []):
        message = container.get("lastState", {}).get("terminated", {}).get("message")
        return str(message) if message else None
    return None


def _status(pod: Object, phase: str, state: Object, *, ready: bool, now: Time) -> Object:
    """The part of a status that follows from the containers' state; other conditions stay as they are."""
    before = {status["name"]: status for status in pod.get("status", {}).get("containerStatuses", [])}
    containers = [
        {
            "name": container["name"],
            "image": container["image"],
            "imageID": container["image"],
            "ready": ready,
            "started": "running" in state,
            "restartCount": before.get(container["name"], {}).get("restartCount", 0),
            "lastState": before.get(container["name"], {}).get("lastState", {}),
            "state": state,
        }
        for container in pod["spec"]["containers"]
    ]
    initialized = phase != "Pending"
    finished = {"exitCode": 0, "reason": "Completed", "startedAt": _text(now), "finishedAt": _text(now)}
    initial = [
        {
            "name": container["name"],
            "image": container["image"],
            "imageID": container["image"],
            "ready": True,
            "restartCount": 0,
            "state": {"terminated": finished},
        }
        for container in pod["spec"].get("initContainers", [])
        if initialized
    ]
    wanted = {"Initialized": initialized, "ContainersReady": ready, "Ready": ready}
    return {
        "phase": phase,
        "conditions": _conditions(pod, wanted, now),
        "containerStatuses": containers,
        **({"initContainerStatuses": initial} if initial and not _initialized(pod) else {}),
    }


def _initialized(pod: Object) -> bool:
    return bool(pod.get("status", {}).get("initContainerStatuses"))


def _conditions(pod: Object, wanted: dict[str, bool], now: Time) -> list[Object]:
    present = {condition["type"]: condition for condition in pod.get("status", {}).get("conditions", [])}
    result = [condition for name, condition in present.items() if name not in wanted]
    for name, value in wanted.items():
        condition = present.get(name)
        if condition is None or condition["status"] != str(value):
            condition = {"type": name, "status": str(value), "lastTransitionTime": _text(now)}
        result.append(condition)
    return result


def _unless_there(pod: Object, patch: Patch) -> Step:
    """The patch, or nothing to do where the pod looks like that already."""
    status = pod.get("status", {})

    def looks(status: Object) -> tuple[Any, ...]:
        states = [(item["name"], item["ready"], item["state"]) for item in status.get("containerStatuses", [])]
        ready = [(item["type"], item["status"]) for item in status.get("conditions", [])]
        return status.get("phase"), states, sorted(ready)

    return Wait() if looks(status) == looks(patch.status) else patch


def _running_since(status: Object) -> Time | None:
    for container in status.get("containerStatuses", []):
        running = container.get("state", {}).get("running")
        return _parse(running["startedAt"]) if running else None
    return None


def _annotations(pod: Object) -> dict[str, str]:
    return dict(pod["metadata"].get("annotations") or {})


def _parse(text: str) -> Time:
    return datetime.datetime.fromisoformat(text)


def _text(time: Time) -> str:
    return time.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
