"""The verb `watch`: follow a job to its end, then say how it went.

Exit codes: 0 the job is Complete, 1 it ended otherwise, 2 it cannot be watched, 3 `--timeout` passed first.
"""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime

from rltrain_api.status import Phase
from rltrain_operator.cli.cluster import Cluster, Unavailable, add_cluster_arguments, connect
from rltrain_operator.cli.errors import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_TIMEOUT,
    CommandError,
)
from rltrain_operator.cli.follow import Ending, follow
from rltrain_operator.cli.lines import duration
from rltrain_operator.cli.screen import Screen
from rltrain_operator.cli.view import Outcome


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of `watch`."""
    parser.add_argument("name", help="the RLTrainingJob")
    parser.add_argument("--timeout", type=_positive_seconds, metavar="SECONDS", help="stop watching after so long")
    add_cluster_arguments(parser)


def run(arguments: argparse.Namespace, screen: Screen) -> int:
    """Follow the job; the exit code says how it ended."""
    from rltrain_operator.cli.source import EventQueue

    cluster = connect(arguments.context, arguments.namespace)
    job = read_existing_job(cluster, arguments.name)
    try:
        with EventQueue(cluster, job) as events:
            ending = follow(events.next, screen, lambda: datetime.now(UTC), arguments.timeout)
    except KeyboardInterrupt:
        screen.close()
        print(f"no longer watching; the job goes on: {again(arguments.name, cluster.namespace)}", file=sys.stderr)
        return EXIT_INTERRUPTED
    if ending.outcome is None:
        print(_still(ending, arguments.timeout, again(arguments.name, cluster.namespace)), file=sys.stderr)
        return EXIT_TIMEOUT
    _show_summary(ending, cluster, screen)
    return EXIT_OK if ending.outcome is Outcome.COMPLETE else EXIT_FAILED


def read_existing_job(cluster: Cluster, name: str) -> dict[str, object]:
    """The job as JSON.

    Raises:
        CommandError: there is none of that name, or the cluster cannot be asked.
    """
    try:
        job = cluster.read_job(name)
    except Unavailable as error:
        raise CommandError(str(error), "Is the cluster up, and is the context the right one?") from error
    if job is None:
        raise CommandError(
            f"no RLTrainingJob {name!r} in namespace {cluster.namespace!r}",
            "`kubectl get rltj --all-namespaces` lists what there is.",
        )
    return job


def again(name: str, namespace: str) -> str:
    """The command that takes the watch up again."""
    return f"kubectl rltrain watch {name} --namespace {namespace}"


def _show_summary(ending: Ending, cluster: Cluster, screen: Screen) -> None:
    """The summary; a history that cannot be read costs the curve's ends and not the exit code."""
    from rltrain_operator.cli.history import read_history
    from rltrain_operator.cli.summary import summary

    assert ending.view is not None, "a job that ended was seen"
    history = None
    try:
        history = read_history(cluster, ending.view.name)
    except (CommandError, Unavailable) as error:
        screen.line(f"the curve cannot be read: {error}")
    screen.line()
    for line in summary(ending.view, history, datetime.now(UTC)):
        screen.line(line)


def _still(ending: Ending, timeout_seconds: float, command: str) -> str:
    phase = ending.view.status.phase if ending.view and ending.view.status.phase else Phase.PENDING
    step = ending.view.progress.step if ending.view else None
    where = f" at step {step}" if step is not None else ""
    return f"still {phase}{where} after {duration(timeout_seconds)}; the job goes on: {command}"


def _positive_seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds greater than 0")
    return seconds
