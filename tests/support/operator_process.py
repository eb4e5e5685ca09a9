"""Our operator as a process of this machine, for tests on a real API server."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rltrain_cluster.control_plane_only import free_ports
from rltrain_cluster.waiting import answers, wait_until

REPOSITORY = Path(__file__).parents[2]
READY_SECONDS = 60


@contextmanager
def running_operator(kubeconfig: Path, directory: Path, *options: str) -> Iterator[None]:
    """The operator with these options beside the ones it needs, ready; its key and log are in the directory."""
    key, log = directory / "key", directory / "log"
    key.write_bytes(secrets.token_bytes(32))
    metrics, health = free_ports(2)
    command = [
        *(sys.executable, "-m", "rltrain_operator", f"--kubeconfig={kubeconfig}", f"--token-key-file={key}"),
        *(f"--metrics-port={metrics}", f"--health-port={health}", *options),
    ]
    packages = os.pathsep.join(str(REPOSITORY / room / "src") for room in ("crds", "operator"))
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, "PYTHONPATH": packages})
    try:
        ready = f"http://127.0.0.1:{health}/readyz"
        wait_until("our operator", lambda: answers(ready), READY_SECONDS, explain=lambda: log.read_text()[-3000:])
        yield
    finally:
        process.terminate()
        process.wait(30)
        print(log.read_text()[-20000:])
