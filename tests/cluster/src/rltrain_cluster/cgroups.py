"""Control groups for the nodes: one subtree per cluster, on hosts with hierarchy version 1 or 2.

This module must not know Kubernetes.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from rltrain_cluster.errors import ClusterError
from rltrain_cluster.waiting import wait_until

MOUNT = Path("/sys/fs/cgroup")
NEEDED = ("cpu", "cpuset", "memory", "pids")  # kubelet refuses to start a pod without these


def is_version_2() -> bool:
    return (MOUNT / "cgroup.controllers").exists()


def hierarchies() -> list[Path]:
    """The roots below which a cluster's subtree is made: one on version 2, one per controller on version 1."""
    if is_version_2():
        return [MOUNT]
    return sorted({path.resolve() for path in MOUNT.iterdir() if (path / "cgroup.procs").exists()})


def make(subtree: str) -> None:
    """Make `subtree` (relative, such as `rltrain-default/node-1`) with every controller that kubelet uses."""
    if not hierarchies():
        raise ClusterError(
            f"{MOUNT}: no control groups are mounted; kubelet cannot run here (try --backend controlplane)"
        )
    for root in hierarchies():
        current = root
        for part in Path(subtree).parts:
            if is_version_2():
                _pass_on_controllers(current)
            current = current / part
            current.mkdir(exist_ok=True)
            for name in ("cpuset.cpus", "cpuset.mems"):  # empty in a new group of version 1, where empty means none
                file = current / name
                if not is_version_2() and file.exists() and not file.read_text().strip():
                    file.write_text((current.parent / name).read_text())


def _pass_on_controllers(group: Path) -> None:
    have = set((group / "cgroup.controllers").read_text().split())
    missing = [name for name in NEEDED if name not in have]
    if missing:
        raise ClusterError(f"{group}: the controllers {', '.join(missing)} are not available; kubelet cannot run here")
    wanted = [name for name in have if name in (*NEEDED, "hugetlb", "io")]
    try:
        (group / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in wanted))
    except OSError as error:  # in a container, the visible top group has members of its own and may not be divided
        raise ClusterError(f"{group}: cannot divide this control group ({error}); kubelet cannot run here") from error


def members(subtree: str) -> set[int]:
    """The ids of all processes in `subtree` and below it."""
    found: set[int] = set()
    for root in hierarchies():
        for group in groups_below(root / subtree):
            with contextlib.suppress(OSError):  # the group went away in the meantime
                found.update(int(line) for line in (group / "cgroup.procs").read_text().split())
    return found


def groups_below(top: Path) -> list[Path]:
    """`top` and all groups in it, the innermost first; groups that go away meanwhile do not matter."""
    return [Path(directory) for directory, _, _ in os.walk(top, topdown=False)]


def kill(subtree: str) -> None:
    """Kill everything in `subtree`, and wait until it is gone."""

    def empty() -> bool:
        left = members(subtree)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not left

    wait_until("killing the pods that are left", empty, limit=20)


def remove(subtree: str) -> None:
    """Remove `subtree` from every hierarchy; nothing may run in it any more."""

    def gone() -> bool:
        left = [group for root in hierarchies() for group in groups_below(root / subtree)]
        for group in left:
            with contextlib.suppress(OSError):  # gone already, or its last process is not reaped yet
                group.rmdir()
        return not left

    wait_until(f"removing the control groups {subtree}", gone, limit=20)
