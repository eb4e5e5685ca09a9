"""What a person needs to see when a demonstration fails: conditions, events, pods, and the end of the logs that matter.

Looks and changes nothing; a look that fails says why and does not hide the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from rltrain_api import names
from rltrain_cluster.errors import ClusterError
from rltrain_cluster.kubectl import Kubectl

LOG_LINES = 30
EVENTS = 15
LOOK_LIMIT = 20.0  # seconds for one look


def diagnose_job(kubectl: Kubectl, namespace: str, job: str) -> Iterator[str]:
    """Sections about one job: conditions, recent warnings, pods, the last words of the driver and the initializers."""
    selector = f"--selector={names.JOB_LABEL}={job}"
    inside = f"--namespace={namespace}"
    found = _look(lambda: kubectl.get(f"{names.PLURAL}.{names.GROUP}", job, inside, what="reading the job"))
    yield from _section("conditions of the job", condition_lines(found.get("status", {})) or found.get("failed", ()))
    events = _look(lambda: kubectl.get("events", inside, what="reading the events"))
    about = [event for event in events.get("items", []) if event["involvedObject"]["name"].startswith(job)]
    yield from _section("recent warnings", warning_lines(about) or events.get("failed", ()))
    pods = _look(lambda: kubectl.get("pods", inside, selector, what="reading the pods"))
    yield from _section("pods of the job", pod_lines(pods.get("items", [])) or pods.get("failed", ()))
    submission = found.get("status", {}).get("submissionId")
    heads = [pod for pod in pods.get("items", []) if _role(pod) == names.ROLE_HEAD]
    if submission and heads:
        log = f"/tmp/ray/session_latest/logs/job-driver-{submission}.log"
        tail = ("exec", heads[0]["metadata"]["name"], inside, "--", "tail", f"--lines={LOG_LINES}", log)
        yield from _section("last lines of the driver", _output(kubectl, tail))
    for pod in pods.get("items", []):
        phase = pod["status"].get("phase")
        if phase == "Failed" or (phase == "Running" and _role(pod) == names.ROLE_INITIALIZER):
            name = pod["metadata"]["name"]
            yield from _section(
                f"last lines of {name}", _output(kubectl, ("logs", name, inside, f"--tail={LOG_LINES}"))
            )


def diagnose_operator(kubectl: Kubectl, namespace: str) -> Iterator[str]:
    """Sections about the operator: its pods, recent warnings around them, its last words."""
    inside = f"--namespace={namespace}"
    pods = _look(lambda: kubectl.get("pods", inside, what="reading the operator's pods"))
    yield from _section("pods of the operator", pod_lines(pods.get("items", [])) or pods.get("failed", ()))
    events = _look(lambda: kubectl.get("events", inside, what="reading the events"))
    yield from _section("recent warnings about it", warning_lines(events.get("items", [])) or events.get("failed", ()))
    for pod in pods.get("items", []):
        name = pod["metadata"]["name"]
        yield from _section(f"last lines of {name}", _output(kubectl, ("logs", name, inside, f"--tail={LOG_LINES}")))


def condition_lines(status: Mapping[str, Any]) -> list[str]:
    """One line per condition, and the last failure with its remedy."""
    lines = [
        f"{c['type']}={c['status']}  {c.get('reason', '')}: {c.get('message', '')}"
        for c in status.get("conditions", [])
    ]
    failure = status.get("lastFailure")
    if failure:
        lines.append(f"last failure: {failure.get('reason')}: {failure.get('message', '')}")
        lines.append(f"  what to do: {failure.get('remedy', '')}")
    return lines


def warning_lines(events: Iterable[Mapping[str, Any]]) -> list[str]:
    """The newest events of type Warning, oldest first."""
    warnings = [event for event in events if event.get("type") == "Warning"]
    warnings.sort(key=lambda event: str(event.get("lastTimestamp") or event["metadata"]["creationTimestamp"]))
    return [
        f"{e['involvedObject']['kind']}/{e['involvedObject']['name']}: {e.get('reason')}: {e.get('message')}"
        for e in warnings[-EVENTS:]
    ]


def pod_lines(pods: Iterable[Mapping[str, Any]]) -> list[str]:
    """One line per pod: its phase and, of every container that is not well, why."""
    return [f"{pod['metadata']['name']}: {', '.join(_pod_state(pod['status']))}" for pod in pods]


def _pod_state(status: Mapping[str, Any]) -> list[str]:
    said = [str(status.get("phase", "Unknown"))]
    said += [
        f"{condition['type']}: {condition.get('reason', '')} {condition.get('message', '')}".rstrip()
        for condition in status.get("conditions", [])
        if condition["type"] == "PodScheduled" and condition["status"] != "True"
    ]
    for container in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
        state = container.get("state", {})
        if "waiting" in state:
            waiting = state["waiting"]
            said.append(f"{container['name']} waits: {waiting.get('reason')} {waiting.get('message', '')}".rstrip())
        elif state.get("terminated", {}).get("exitCode"):
            ended = state["terminated"]
            said.append(f"{container['name']} ended: {ended.get('reason')}, exit code {ended['exitCode']}")
        if container.get("restartCount"):
            said.append(f"{container['name']} restarted {container['restartCount']} times")
    return said


def _role(pod: Mapping[str, Any]) -> str | None:
    role: str | None = pod["metadata"].get("labels", {}).get(names.ROLE_LABEL)
    return role


def _look(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except ClusterError as error:
        return {"failed": [str(error)]}


def _output(kubectl: Kubectl, arguments: tuple[str, ...]) -> list[str]:
    try:
        return kubectl(*arguments, what="reading the log", limit=LOOK_LIMIT).splitlines()
    except ClusterError as error:
        return [str(error)]


def _section(title: str, lines: Iterable[str]) -> Iterator[str]:
    yield f"--- {title}"
    known = list(lines)
    yield from (f"    {line}" for line in known or ["none"])
