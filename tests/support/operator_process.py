"""Our operator and its webhook as processes of this machine, for tests on a real API server."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rltrain_cluster.control_plane_only import free_ports
from rltrain_cluster.waiting import answers, wait_until

REPOSITORY = Path(__file__).parents[2]
READY_SECONDS = 60
END_SECONDS = 30


@dataclass(frozen=True)
class Running:
    """A process of ours, and where it writes."""

    process: subprocess.Popen[bytes]
    log: Path

    def end(self) -> int:
        """Ask it to end, and wait for that; its exit status."""
        self.process.terminate()
        return self.process.wait(END_SECONDS)


@contextmanager
def running_operator(kubeconfig: Path, directory: Path, *options: str) -> Iterator[Running]:
    """The operator with these options beside the ones it needs, ready; its key and log are in the directory."""
    metrics, health = free_ports(2)
    command = [*operator_command(kubeconfig, directory), f"--metrics-port={metrics}", f"--health-port={health}"]
    with running("our operator", [*command, *options], directory, health) as found:
        yield found


def operator_command(kubeconfig: Path, directory: Path) -> list[str]:
    """How the operator is started, up to its ports; its key is in the directory."""
    key = directory / "key"
    if not key.exists():
        key.write_text(secrets.token_hex(32))
    return [sys.executable, "-m", "rltrain_operator", f"--kubeconfig={kubeconfig}", f"--token-key-file={key}"]


@contextmanager
def running_webhook(kubeconfig: Path, directory: Path, port: int, *options: str) -> Iterator[Running]:
    """The webhook's server with these options, ready."""
    (health,) = free_ports(1)
    command = [sys.executable, "-m", "rltrain_operator.webhook", f"--kubeconfig={kubeconfig}", f"--port={port}"]
    with running("our webhook", [*command, f"--health-port={health}", *options], directory, health) as found:
        yield found


def environment() -> dict[str, str]:
    """An environment in which our packages are found."""
    packages = os.pathsep.join(str(REPOSITORY / room / "src") for room in ("crds", "operator"))
    return {**os.environ, "PYTHONPATH": packages}


@contextmanager
def running(what: str, command: Sequence[str], directory: Path, health: int) -> Iterator[Running]:
    """A process that says on /readyz when it is ready; its log is in the directory, and printed at the end."""
    log = directory / "log"
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment())
    found = Running(process, log)
    try:
        ready = f"http://127.0.0.1:{health}/readyz"
        wait_until(what, lambda: answers(ready), READY_SECONDS, explain=lambda: log.read_text()[-3000:])
        yield found
    finally:
        found.end()
        print(log.read_text()[-20000:])
