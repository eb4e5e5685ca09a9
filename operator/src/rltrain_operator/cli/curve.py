"""The verb `curve`: what a job has learned so far, as a chart in the terminal and as a picture.

Works while the job runs and after its cluster is gone: the history is kept in a ConfigMap.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rltrain_operator.cli.cluster import Unavailable, add_cluster_arguments, connect
from rltrain_operator.cli.errors import EXIT_OK, CommandError
from rltrain_operator.cli.plot import MIN_WIDTH, chart
from rltrain_operator.cli.screen import Screen
from rltrain_operator.cli.watch import read_existing_job

if TYPE_CHECKING:
    from rltrain_api.wire import History

DEFAULT_WIDTH = 100
MAX_WIDTH = 500


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of `curve`."""
    parser.add_argument("name", help="the RLTrainingJob")
    parser.add_argument("--png", type=Path, metavar="FILE", help="write the curve as a picture, too")
    parser.add_argument(
        "--width", type=_columns, metavar="N", help=f"columns to use (default: the terminal's, at most {DEFAULT_WIDTH})"
    )
    add_cluster_arguments(parser)


def run(arguments: argparse.Namespace, screen: Screen) -> int:
    """Draw the chart, and the picture if one is asked for."""
    from rltrain_operator.cli.history import read_history

    cluster = connect(arguments.context, arguments.namespace)
    try:
        history = read_history(cluster, arguments.name)
    except Unavailable as error:
        raise CommandError(str(error), "Is the cluster up, and is the context the right one?") from error
    if history is None or not has_curve(history):
        read_existing_job(cluster, arguments.name)
        raise CommandError(
            f"{arguments.name} has no curve yet",
            f"The first point comes with the first evaluation or step: kubectl rltrain watch {arguments.name}",
        )
    width = arguments.width or min(DEFAULT_WIDTH, screen.width)
    for line in curve_lines(history, arguments.name, width=width, unicode=screen.is_unicode):
        screen.line(line)
    if arguments.png:
        _write_picture(history, arguments.name, arguments.png)
        screen.line(f"picture: {arguments.png}")
    return EXIT_OK


def has_curve(history: History) -> bool:
    """Whether there is a point to draw."""
    return any(point.reward is not None or point.eval_score is not None for point in history.points)


def curve_lines(history: History, job: str, *, width: int, unicode: bool) -> Sequence[str]:
    """The chart of a history that has a curve (`has_curve`), `width` columns wide, in ASCII alone unless `unicode`."""
    return chart(
        job,
        [(point.step, point.reward) for point in history.points if point.reward is not None],
        [(point.step, point.eval_score) for point in history.points if point.eval_score is not None],
        labels=("reward", "eval", "step"),
        width=width,
        unicode=unicode,
    )


def _write_picture(history: History, job: str, path: Path) -> None:
    from rltrain_operator.cli.picture import write

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(history, job, path)
    except OSError as error:
        raise CommandError(f"cannot write {path}: {error.strerror or error}", "Name a file you may write.") from error


def _columns(text: str) -> int:
    columns = int(text) if text.isdecimal() and text.isascii() else 0
    if not MIN_WIDTH <= columns <= MAX_WIDTH:
        raise argparse.ArgumentTypeError(f"{text!r} is no width between {MIN_WIDTH} and {MAX_WIDTH}")
    return columns
