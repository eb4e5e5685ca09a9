"""Exports of a script as the environment of pods: plain values in the open, secrets by reference, the rest left behind.

Values of secrets are neither kept nor shown. Must not know how a script is read.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from rltrain_api.convert.launch import Setting
from rltrain_api.convert.report import Report
from rltrain_api.env import check_variable, is_secret, refused_in_pods

# What describes the machine of the person who wrote the script: beginnings and whole names -> why pods do not need it.
_OF_THE_MACHINE = (
    (("PATH", "HOME", "PWD", "SHELL", "USER", "TERM", "TMPDIR", "HOSTNAME"), "it describes your machine"),
    (("UV_", "VIRTUAL_ENV", "CONDA_", "PYENV_", "POETRY_"), "packages come with the image"),
    (("SLURM_", "SBATCH_", "SRUN_"), "it describes a Slurm job"),
    (
        ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK", "LOCAL_RANK", "NODE_RANK"),
        "the trainer sets it for each of its processes",
    ),
    (("RAY_RUNTIME_ENV_HOOK",), "packages come with the image"),
)
_PATHS_OF_LIBRARIES = ("PYTHONPATH", "LD_LIBRARY_PATH", "LD_PRELOAD", "CUDA_HOME")


@dataclass(slots=True)
class PodEnvironment:
    """What pods get: variables with values, and the names of those that must come from a Secret."""

    values: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, int | None] = field(default_factory=dict)  # name -> line


def read_environment(settings: Iterable[Setting], report: Report) -> PodEnvironment:
    """Sort the variables that a program was given; the last setting of a name counts."""
    environment = PodEnvironment()
    for setting in {setting.name: setting for setting in settings}.values():
        name, line = setting.name, setting.line
        if is_secret(name, setting.value or ""):
            environment.secrets[name] = line
            continue
        reason = _left_behind(name)
        if reason is not None:
            report.note(line, f"{name} is left out: {reason}")
        elif setting.value is None:
            report.missing(line, f"{name} is not carried over: {setting.problem}")
        else:
            environment.values[name] = setting.value.replace("$(", "$$(")  # which Kubernetes would expand
            _check(setting, setting.value, report)
    return environment


def _left_behind(name: str) -> str | None:
    refusal = refused_in_pods(name)
    if refusal is not None:
        return f"it {refusal.partition(';')[0]}"
    for names, reason in _OF_THE_MACHINE:
        if any(name == other or (other.endswith("_") and name.startswith(other)) for other in names):
            return reason
    return None


def _check(setting: Setting, value: str, report: Report) -> None:
    if setting.name in _PATHS_OF_LIBRARIES:
        report.check(setting.line, f"{setting.name} is carried over: its paths must exist in the image")
    elif value.startswith("~") or ":~" in value:
        report.check(setting.line, f"{setting.name} is in a home directory, which pods neither share nor keep")
    for finding in check_variable(setting.name, value):
        report.check(setting.line, str(finding))
