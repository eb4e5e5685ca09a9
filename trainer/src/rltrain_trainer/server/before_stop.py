"""What a pod does before it is stopped: the driver saves and stops first, where the pod is needed for that.

The preStop hook of a job's pods, for a node that is drained or a job that has lost its quota:
`python -m rltrain_trainer.server.before_stop --host HOST --seconds N [--follow]`. The head and the pods that train ask
the driver to save and to stop, and wait until it has. An engine may go without that (`--follow`): it waits only where
the driver is being stopped anyhow, for the step that is to be saved still needs its answers. Where nobody answers there
is nothing to save and nothing to wait for. It must import neither torch nor Ray, so that it starts at once.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any

from rltrain_api import names
from rltrain_api.wire import STOPPED_LINGER_SECONDS, DriverPhase, StopRequest

ANSWER_SECONDS = 5.0
POLL_SECONDS = 0.5
# When all pods of a job go at once, the head's hook asks about as early as an engine's looks.
FOLLOW_SECONDS = 10.0
ENDED = frozenset({DriverPhase.STOPPED.value, DriverPhase.FINISHED.value, DriverPhase.FAILED.value})


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when the driver has ended or was not there, 1 when it had not by the deadline."""
    parser = argparse.ArgumentParser(prog="before_stop", description="Ask the driver to save and to stop, and wait.")
    parser.add_argument("--host", required=True, help="where the driver is")
    parser.add_argument("--port", type=int, default=names.DRIVER_PORT)
    parser.add_argument("--seconds", type=float, required=True, help="wait no longer than this")
    parser.add_argument("--follow", action="store_true", help="ask nothing, and wait only for a driver that stops")
    options = parser.parse_args(arguments)
    token = os.environ.get(names.DRIVER_TOKEN_ENV, "")
    driver = f"http://{options.host}:{options.port}"
    if options.follow and not stops(driver, token, min(FOLLOW_SECONDS, options.seconds)):
        return 0
    return 0 if ended(driver, token, options.seconds, ask=not options.follow) else 1


def stops(driver: str, token: str, seconds: float) -> bool:
    """Whether the driver is being stopped, or is so within the seconds."""
    deadline = time.monotonic() + seconds
    while True:
        status = _status(driver, token)
        if status is None or status.get("phase") in ENDED:
            return False
        if status.get("stopping"):
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_SECONDS)


def ended(driver: str, token: str, seconds: float, *, ask: bool = True) -> bool:
    """Whether the driver at this address has ended, or was not there, within the seconds; first it is asked to stop.

    One that has stopped waits for a moment to be read by the operator, and its pod waits with it.
    """
    deadline = time.monotonic() + seconds
    status = _status(driver, token)
    if ask and status is not None and status.get("phase") not in ENDED:
        wanted = StopRequest(checkpoint=True, deadline_seconds=seconds)
        _ask(driver, token, "/stop", wanted.model_dump_json(by_alias=True).encode())
    while status is not None and status.get("phase") not in ENDED:
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_SECONDS)
        status = _status(driver, token)
    dismissal = time.monotonic() + STOPPED_LINGER_SECONDS
    while status is not None and status.get("phase") == DriverPhase.STOPPED and time.monotonic() < dismissal:
        time.sleep(POLL_SECONDS)
        status = _status(driver, token)
    return True


def _status(driver: str, token: str) -> dict[str, Any] | None:
    """The driver's status; None where nobody answers."""
    answer = _ask(driver, token, "/status")
    if answer is None:
        return None
    status: dict[str, Any] = json.loads(answer)
    return status


def _ask(driver: str, token: str, path: str, body: bytes | None = None) -> bytes | None:
    request = urllib.request.Request(driver + path, data=body, headers={"Authorization": f"Bearer {token}"})  # noqa: S310 - http, as said above
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as response:  # noqa: S310 - as above
            content: bytes = response.read()
            return content
    except (urllib.error.URLError, http.client.HTTPException, OSError):
        return None


if __name__ == "__main__":
    sys.exit(main())
