"""What is written down about a cluster of this machine, and the lock that lets one command at a time change it.

This module must not know how a cluster is started or ended.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from rltrain_cluster.backend import Report
from rltrain_cluster.errors import ClusterError
from rltrain_cluster.settings import ClusterSettings, StateDirectory

RECOVERY_SECONDS = 60.0


@dataclass(frozen=True)
class Description:
    """Written before anything of a cluster is made, so that whatever was made can be found and cleared away.

    `details` belong to the back end.
    """

    backend: str
    settings: ClusterSettings
    details: Mapping[str, Any] = field(default_factory=dict)


def read_description(state: StateDirectory) -> Description | None:
    """What is written down about the cluster of `state`; None if it is down."""
    if not state.description.exists():
        return None
    document = json.loads(state.description.read_text())
    return Description(document["backend"], ClusterSettings(**document["settings"]), document["details"])


def write_description(state: StateDirectory, description: Description) -> None:
    """Write it whole or not at all."""
    state.root.mkdir(parents=True, exist_ok=True)
    scratch = state.description.with_suffix(".tmp")
    scratch.write_text(json.dumps(asdict(description), indent=1))
    scratch.rename(state.description)


def lasting_problem(dead: Callable[[], list[str]], unwell: Callable[[], list[str]]) -> str | None:
    """Why a cluster that is there must be made again; None if it is well, or becomes so in time.

    What is dead stays dead. A node or an API server that does not answer may only be busy, and what runs on the cluster
    is not thrown away for that: it has `RECOVERY_SECONDS`.
    """
    deadline = time.monotonic() + RECOVERY_SECONDS
    while True:
        problems = dead()
        if problems:
            return problems[0]
        problems = unwell()
        if not problems:
            return None
        if time.monotonic() > deadline:
            return problems[0]
        time.sleep(1)


def require_same_settings(present: Description, wanted: ClusterSettings) -> None:
    if present.settings != wanted:
        raise ClusterError(
            f"cluster {wanted.name} is up with {present.settings.nodes} node(s) of {present.settings.gpus_per_node} "
            f"GPUs; for {wanted.nodes} of {wanted.gpus_per_node} take it down first (down --name {wanted.name})"
        )


def require_owner(state: StateDirectory) -> None:
    """A cluster is ended by whoever started it: others could neither signal its processes nor remove its files."""
    owner = state.description.stat().st_uid
    if os.geteuid() not in (0, owner):
        raise ClusterError(f"{state.root}: this cluster belongs to user {owner}; only they or root can end it")


def clear_state(state: StateDirectory) -> None:
    """Remove all but imported images; the description goes last: while it is there, there is something to clear."""
    for path in state.root.glob("*"):
        if path.name in ("images", state.description.name):
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    state.description.unlink(missing_ok=True)


def take_up(
    state: StateDirectory,
    settings: ClusterSettings,
    *,
    dead: Callable[[Description], list[str]],
    unwell: Callable[[Description], list[str]],
    clear: Callable[[], None],
    create: Callable[[], None],
    report: Report,
) -> None:
    """Leave a cluster that is well alone, clear a broken one away, and make it where there is none."""
    with locked(state, settings.name):
        present = read_description(state)
        if present is not None:
            problem = lasting_problem(lambda: dead(present), lambda: unwell(present))
            if problem is None:
                require_same_settings(present, settings)
                return
            report(f"clearing away a broken cluster ({problem})")
            clear()
        create()


def take_down(
    state: StateDirectory, settings: ClusterSettings, *, clear: Callable[[], None], report: Report, stays: str = ""
) -> None:
    """End a cluster if it is there; `stays` says what is left of it on purpose."""
    with locked(state, settings.name):
        if read_description(state) is None:
            report(f"no cluster {settings.name} is there")
            return
        require_owner(state)
        clear()
        report(f"cluster {settings.name} is gone{stays}")


@contextmanager
def locked(state: StateDirectory, name: str) -> Iterator[None]:
    """One `up` or `down` of a cluster at a time: a second one says so and ends."""
    state.lock.parent.mkdir(parents=True, exist_ok=True)
    with state.lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ClusterError(f"cluster {name} is being taken up or down by another command ({state.lock})") from error
        yield


@contextmanager
def image_lock(state: StateDirectory) -> Iterator[None]:
    """One import at a time: the others wait their turn."""
    with state.lock.with_suffix(".images.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
