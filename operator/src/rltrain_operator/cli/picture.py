"""The curve of a run as a picture: reward and evaluation over the training step, drawn by matplotlib without a display.

`figure` is pure (history in, figure out); `write` makes the file. Must not know where the history comes from.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rltrain_api.wire import History

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INCHES = (8.0, 4.5)
DOTS_PER_INCH = 150
REWARD_COLOUR = "#4c72b0"
EVAL_COLOUR = "#c44e52"


def figure(history: History, job: str) -> Figure:
    """A figure with both series of `history` on one pair of axes; a series without points is left out."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    picture = Figure(figsize=INCHES, dpi=DOTS_PER_INCH, layout="constrained")
    axes = picture.add_subplot()
    rewards = [(point.step, point.reward) for point in history.points if point.reward is not None]
    evals = [(point.step, point.eval_score) for point in history.points if point.eval_score is not None]
    if rewards:
        axes.plot(*zip(*rewards, strict=True), color=REWARD_COLOUR, linewidth=1.5, label="reward (mean of the step)")
    if evals:
        axes.plot(
            *zip(*evals, strict=True),
            color=EVAL_COLOUR,
            linewidth=1.5,
            linestyle="--",
            marker="o",
            markersize=5,
            label="evaluation (mean score)",
        )
        for step, score in {evals[0], evals[-1]}:
            # Below its point, where the legend's corner and the reward's noise leave most room.
            axes.annotate(
                f"{score:.3f}", (step, score), (0, -16), textcoords="offset points", ha="center", color=EVAL_COLOUR
            )
    axes.set_title(f"{job}: reward and evaluation")
    axes.set_xlabel("training step")
    axes.set_ylabel("score")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(x=0.04, y=0.14)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", frameon=False)
    return picture


def write(history: History, job: str, path: Path) -> None:
    """Write the figure as PNG.

    Raises:
        OSError: the file cannot be written.
    """
    # A figure made without pyplot draws PNG through Agg, whatever backend (and display) the environment asks for.
    figure(history, job).savefig(path, format="png")
