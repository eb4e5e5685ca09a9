"""What things cost: CPU and memory of processes, requests at the API server by account, and how busy the machine was.

The API server counts for itself: a FlowSchema per account and kind of request changes nothing but the name under which
requests are counted, so both sides are counted alike, down to watches that a client's own metrics leave out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Object = dict[str, Any]

TICKS = os.sysconf("SC_CLK_TCK")
COUNTER = re.compile(
    r'^apiserver_flowcontrol_dispatched_requests_total\{flow_schema="bench-(\w+)-(\w+)"[^}]*\} (\S+)$', re.MULTILINE
)
WRITES = ("create", "status", "update")

# In order: the first that fits counts the request. (kind, verbs, resources)
_KINDS = (
    ("lease", ["*"], ["leases"]),
    ("event", ["*"], ["events"]),
    ("status", ["*"], ["rltrainingjobs/status", "rayjobs/status", "rayclusters/status"]),
    ("get", ["get"], ["*"]),
    ("list", ["list", "watch"], ["*"]),
    ("create", ["create"], ["*"]),
    ("update", ["update", "patch", "delete"], ["*"]),
)


def flow_schemas(account: str, namespace: str) -> list[Object]:
    """FlowSchemas that count the requests of one ServiceAccount at the level that every ServiceAccount has."""
    subject = {"kind": "ServiceAccount", "serviceAccount": {"name": account, "namespace": namespace}}
    return [
        {
            "apiVersion": "flowcontrol.apiserver.k8s.io/v1",
            "kind": "FlowSchema",
            "metadata": {"name": f"bench-{account}-{kind}"},
            "spec": {
                "priorityLevelConfiguration": {"name": "workload-low"},
                "distinguisherMethod": {"type": "ByUser"},
                "matchingPrecedence": 200 + number,
                "rules": [
                    {
                        "subjects": [subject],
                        "resourceRules": [
                            {
                                "verbs": verbs,
                                "apiGroups": ["*"],
                                "resources": resources,
                                "clusterScope": True,
                                "namespaces": ["*"],
                            }
                        ],
                    }
                ],
            },
        }
        for number, (kind, verbs, resources) in enumerate(_KINDS)
    ]


def count_requests(metrics: str, account: str) -> dict[str, float]:
    """Requests by kind since the API server started, from its /metrics."""
    return {kind: float(value) for owner, kind, value in COUNTER.findall(metrics) if owner == account}


def difference(after: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    """What was added, kind by kind."""
    return {kind: count - before.get(kind, 0.0) for kind, count in after.items()}


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def memory_megabytes(pid: int) -> tuple[float, float]:
    """Resident memory now, and at its highest."""
    status = Path(f"/proc/{pid}/status").read_text()
    now, highest = (re.search(rf"^{name}:\s+(\d+) kB$", status, re.MULTILINE) for name in ("VmRSS", "VmHWM"))
    assert now, "a living process has VmRSS"
    assert highest, "a living process has VmHWM"
    return int(now[1]) / 1024, int(highest[1]) / 1024


@dataclass(frozen=True)
class MachineTime:
    """CPU seconds since boot: of the whole machine, and of the benchmark's own processes."""

    busy: float
    own: float
    clock: float

    @classmethod
    def now(cls, own: Iterable[int]) -> MachineTime:
        values = [int(value) for value in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        idle = values[3] + values[4]
        busy = (sum(values) - idle) / TICKS
        uptime = float(Path("/proc/uptime").read_text().split()[0])
        return cls(busy, sum(cpu_seconds(pid) for pid in own), uptime)

    def others_since(self, before: MachineTime) -> float:
        """Cores that were taken by what is no part of the benchmark, on average."""
        busy, own = self.busy - before.busy, self.own - before.own
        return max(0.0, busy - own) / max(self.clock - before.clock, 1e-3)
