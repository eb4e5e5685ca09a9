"""SkyRL's programs: which of them an RLTrainingJob runs, and what of the others cannot be carried over.

Must not know how a program is started.
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass

from rltrain_api.convert.fields import Path
from rltrain_api.convert.report import Report


class NoTrainingError(ValueError):
    """The program does no reinforcement learning, so there is no job to make of it; the message says what it does."""


@dataclass(frozen=True, slots=True)
class Entrypoint:
    """One program: what of it is lost (empty where nothing is), or why no job can be made of it at all."""

    lost: str = ""
    refused: str = ""


_FULLY_ASYNC = (
    "the fully asynchronous trainer is not carried over: the job generates and trains in turn, and nothing reads "
    "trainer.fully_async then"
)
_ONE_STEP_OFF = "the one-step-off trainer is not carried over: the job generates and trains in turn"
_DAPO = (
    "DAPO's own trainer is not carried over: the soft punishment of overlong responses (overlong_buffer_len, "
    "overlong_buffer_penalty_factor) is not applied; everything else of DAPO is configuration"
)
_GENERATE = "the program only evaluates: the job would train; set trainer.epochs and the batch sizes that you mean"

# By the last name of the module, which survived every move of SkyRL's packages.
_BY_NAME = {
    "main_base": Entrypoint(),
    "main_generate": Entrypoint(lost=_GENERATE),
    "main_fully_async": Entrypoint(lost=_FULLY_ASYNC),
    "main_fully_async_sim": Entrypoint(lost=f"{_FULLY_ASYNC}; the simulated training step is real"),
    "main_async": Entrypoint(lost=_ONE_STEP_OFF),
    "main_dapo": Entrypoint(lost=_DAPO),
    "main_dapo_fully_async": Entrypoint(lost=f"{_DAPO}; {_FULLY_ASYNC}"),
    "main_sft": Entrypoint(
        refused="is supervised fine-tuning, which has another configuration; an RLTrainingJob is reinforcement learning"
    ),
    "serve": Entrypoint(refused="only serves a model; an RLTrainingJob trains one"),
}
# Fields that SkyRL's examples add in classes of their own; in Hydra's days `overlong_buffer` was a section.
_EXAMPLE_FIELDS = {
    "trainer.algorithm.overlong_buffer_len": "the soft punishment of overlong responses",
    "trainer.algorithm.overlong_buffer_penalty_factor": "the soft punishment of overlong responses",
    "trainer.algorithm.overlong_buffer": "the soft punishment of overlong responses",
}
_PACKAGES = ("skyrl", "skyrl_train", "examples", "integrations")


def is_entrypoint(module: str) -> bool:
    """Whether a module is one of SkyRL's programs."""
    return _name(module) in _BY_NAME and module.split(".")[0] in _PACKAGES


def is_legacy(module: str) -> bool:
    """Whether the program is of the package skyrl_train, which came before SkyRL 0.1 and read Hydra's YAML."""
    return module.split(".")[0] == "skyrl_train"


def example_field(path: Path) -> str | None:
    """What a field of one of SkyRL's examples is for, or None where the path is no such field."""
    for depth in range(1, len(path) + 1):
        purpose = _EXAMPLE_FIELDS.get(".".join(path[:depth]))
        if purpose is not None:
            return purpose
    return None


def check_entrypoint(program: str, line: int | None, report: Report) -> None:
    """Say what of a program is not carried over.

    Raises:
        NoTrainingError: no job can be made of it.
    """
    name = _name(program)
    known = _BY_NAME.get(name)
    if known is None or (not program.endswith(".py") and program.split(".")[0] not in _PACKAGES):
        report.missing(
            line,
            f"{program} is a program of your own: the job runs SkyRL's main_base with this configuration; what the "
            "program registers or subclasses is not carried over",
        )
        return
    if known.refused:
        raise NoTrainingError(f"{program} {known.refused}")
    if known.lost:
        report.missing(line, f"{program}: {known.lost}")


def _name(program: str) -> str:
    return posixpath.basename(program).removesuffix(".py").rpartition(".")[2]
