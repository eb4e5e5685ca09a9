"""What can be said of a variable and its value without running anything. Must not know jobs, layers or presets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rltrain_api.env.catalogue import find, near_miss
from rltrain_api.env.refused import refused_in_pods
from rltrain_api.env.secrecy import shown

_SKYRL_PREFIX = "SKYRL_"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to know about a variable: an error (pods do not get it) or a warning (they do)."""

    name: str
    level: Literal["error", "warning"]
    message: str

    def __str__(self) -> str:
        """Name and message on one line."""
        return f"{self.name} {self.message}"


def check_variable(name: str, value: str) -> list[Finding]:
    """What is wrong or doubtful about a variable that somebody sets for pods; names nobody knows are fine.

    An error where pods must not have it; a warning where it has no effect, where the reader does not understand the
    value, and where the name is almost that of a known variable. No message quotes the value of a secret.
    """
    refusal = refused_in_pods(name)
    if refusal is not None:
        return [Finding(name, "error", refusal)]
    variable = find(name)
    if variable is None:
        return _unknown(name)
    if not variable.readers or variable.overruled:
        problem = "has no effect" if variable.readers else "is read by nobody"
        remedy = f" Use {variable.instead}." if variable.instead else ""
        return [Finding(name, "warning", f"{problem}. {variable.truth}{remedy}")]
    if not variable.values.allows(value):
        return [Finding(name, "warning", f"must be {variable.values.words}; got {shown(name, value) or 'nothing'}")]
    return []


def _unknown(name: str) -> list[Finding]:
    near = near_miss(name)
    if near is not None and near.name.upper() == name.upper():
        return [Finding(name, "warning", f"is not {near.name}: names of variables are case-sensitive; rename it")]
    if near is not None:
        return [Finding(name, "warning", f"is not known; did you mean {near.name}?")]
    if name.startswith(_SKYRL_PREFIX):
        return [Finding(name, "warning", "is read by no release of SkyRL; `kubectl rltrain env --explain` lists them")]
    return []
