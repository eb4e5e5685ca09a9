"""Host processes that outlive the command which started them: start, find again, stop.

A process is remembered by its id and its start time, so that an id which the kernel has given to somebody else in the
meantime is never mistaken for ours. This module must not know what the processes are.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rltrain_cluster.errors import ClusterError

# In the environment of every process that is started, and so of its children: whose they are.
MARK = "RLTRAIN_CLUSTER_RUN"
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def plain_environment() -> dict[str, str]:
    """An environment without the caller's settings: a proxy's address, for one, would catch the cluster's own calls."""
    return {"PATH": SYSTEM_PATH, "HOME": str(Path.home()), "LANG": "C.UTF-8"}


@dataclass(frozen=True)
class ProcessRecord:
    """One started process: `started` is field 22 of /proc/PID/stat, in clock ticks since boot."""

    name: str
    pid: int
    started: int


def start_time(pid: int) -> int | None:
    """Clock ticks since boot at which `pid` started; None if there is no such living process (a zombie is dead)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, *fields = stat.rpartition(")")[2].split()  # the name in parentheses may itself hold spaces
    return None if state in "ZX" else int(fields[18])


def is_alive(record: ProcessRecord) -> bool:
    return start_time(record.pid) == record.started


class ProcessTable:
    """The processes of one cluster: their records lie in `run`, their output in `logs`."""

    def __init__(self, run: Path, logs: Path) -> None:
        self._run = run
        self._logs = logs

    def log_path(self, name: str) -> Path:
        return self._logs / f"{name}.log"

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> ProcessRecord:
        """Start `command` in its own session, detached from the terminal and from this process."""
        self._run.mkdir(parents=True, exist_ok=True)
        self._logs.mkdir(parents=True, exist_ok=True)
        with self.log_path(name).open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**plain_environment(), **(environment or {}), MARK: str(self._run)},
                cwd="/",
            )
        started = start_time(process.pid)
        if started is None:
            raise ClusterError(f"{name}: ended at once\n{self.log_tail(name)}")
        record = ProcessRecord(name, process.pid, started)
        path = self._run / f"{name}.json"
        path.with_suffix(".tmp").write_text(json.dumps(asdict(record)))
        path.with_suffix(".tmp").rename(path)
        return record

    def records(self) -> dict[str, ProcessRecord]:
        """All processes that were started and not stopped, dead ones included."""
        found = (ProcessRecord(**json.loads(path.read_text())) for path in sorted(self._run.glob("*.json")))
        return {record.name: record for record in found}

    def strays(self) -> list[ProcessRecord]:
        """Living processes that descend from those of this table but are not in it."""
        mark = f"{MARK}={self._run}".encode()
        known = {record.pid for record in self.records().values()}
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) in known:
                continue
            try:
                marked = mark in (entry / "environ").read_bytes().split(b"\0")
            except OSError:  # ended in the meantime, or somebody else's
                continue
            started = start_time(int(entry.name))
            if marked and started is not None:
                found.append(ProcessRecord("a process of the cluster", int(entry.name), started))
        return found

    def find(self, name: str) -> ProcessRecord | None:
        """The record of a living process, else None."""
        record = self.records().get(name)
        return record if record and is_alive(record) else None

    def require_alive(self, name: str) -> None:
        if self.find(name) is None:
            raise ClusterError(f"{name}: ended unexpectedly\n{self.log_tail(name)}")

    def stop(self, name: str, limit: float) -> None:
        """SIGTERM, then after `limit` seconds SIGKILL; the record goes when the process has gone."""
        record = self.records().get(name)
        if record is None:
            return
        end_processes([record], limit)
        (self._run / f"{name}.json").unlink()

    def read_log(self, name: str) -> str:
        """The whole output of a process; ClusterError names those that there are."""
        path = self.log_path(name)
        if not path.exists():
            known = ", ".join(sorted(file.stem for file in self._logs.glob("*.log"))) or "none: the cluster is not up"
            raise ClusterError(f"no component {name}; there are: {known}")
        return path.read_text(errors="replace")

    def log_tail(self, name: str, lines: int = 15) -> str:
        path = self.log_path(name)
        if not path.exists():
            return f"({path} does not exist)"
        return f"the end of {path}:\n" + "\n".join(path.read_text(errors="replace").splitlines()[-lines:])


def end_processes(records: Iterable[ProcessRecord], limit: float) -> None:
    """Ask the processes to end, wait up to `limit` seconds in all, then kill those that are left and wait for them."""
    left = [record for record in records if is_alive(record)]
    for chosen, seconds in ((signal.SIGTERM, limit), (signal.SIGKILL, 10.0)):
        if chosen == signal.SIGTERM and limit <= 0:
            continue
        for record in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(record.pid, chosen)
        deadline = time.monotonic() + seconds
        while left and time.monotonic() < deadline:
            time.sleep(0.02)
            left = [record for record in left if is_alive(record)]
        if not left:
            return
    names = ", ".join(f"{record.name} ({record.pid})" for record in left)
    raise ClusterError(f"cannot end {names}: still there 10 s after SIGKILL; look for a hung device or file system")


def run(
    command: Sequence[str],
    *,
    what: str,
    limit: float = 60.0,
    text: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run a command to its end and return its output; on failure raise ClusterError with what it said.

    Without `environment` it gets this process's own.
    """
    try:
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=limit, check=False, env=environment
        )
    except FileNotFoundError as error:
        raise ClusterError(f"{what}: {command[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"{what}: no end after {limit:g} s: {' '.join(command)}") from error
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip())[-2000:]
        raise ClusterError(f"{what}: {' '.join(command[:6])} … ended with {done.returncode}: {said}")
    return done.stdout
