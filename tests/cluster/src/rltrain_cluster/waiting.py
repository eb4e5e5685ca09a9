"""Waiting with a limit: every wait of this package says what it waits for and gives up in time.

This module must not know what is waited for.
"""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Callable

from rltrain_cluster.errors import ClusterError


def wait_until(
    what: str,
    condition: Callable[[], bool],
    limit: float,
    *,
    interval: float = 0.1,
    explain: Callable[[], str] = lambda: "",
) -> None:
    """Return once `condition()` is true; raise ClusterError after `limit` seconds.

    `explain` is asked only on failure, for what a person needs to see next (the end of a log, a status).
    """
    deadline = time.monotonic() + limit
    while not condition():
        if time.monotonic() > deadline:
            details = explain()
            raise ClusterError(f"{what}: still waiting after {limit:g} s" + (f"\n{details}" if details else ""))
        time.sleep(interval)


def answers(url: str) -> bool:
    """Whether a server of this machine says 200; it is asked straight, whatever proxy the environment names."""
    straight = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with straight.open(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
