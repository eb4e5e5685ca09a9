"""What kind of input a text is, from how it looks.

Must not read it.
"""

from __future__ import annotations

import re
from enum import StrEnum

from rltrain_api.convert.launch import looks_like_override

_STARTS_SOMETHING = re.compile(
    r"^\s*(\w+=\S*\s+)*(uv\s+run|uvx|(\S*/)?python[0-9.]*|ray\s+job|srun|torchrun|exec|nohup)\s", re.M
)
_SHELL_LINE = re.compile(r"^(#!|#SBATCH|export\s|set\s+-|source\s|: \"?\$\{|[A-Z_]+=)", re.M)
_YAML_LINE = re.compile(r"^[\"']?(data|trainer|generator|environment|defaults|apiVersion|kind)[\"']?\s*:", re.M)


class Kind(StrEnum):
    """The kinds of input that can be converted."""

    AUTO = "auto"
    SCRIPT = "script"
    OVERRIDES = "overrides"
    YAML = "yaml"
    RESOLVED = "resolved"


def detect_kind(text: str) -> Kind | None:
    """The kind of a text, or None where it cannot be told; a resolved configuration is YAML at first sight."""
    if text.startswith("#!") or _STARTS_SOMETHING.search(text):
        return Kind.SCRIPT
    if text.lstrip().startswith("{") or _YAML_LINE.search(text):
        return Kind.YAML
    lines = [line.strip() for line in text.splitlines()]
    meant = [line for line in lines if line and not line.startswith("#")]
    if meant and all(looks_like_override(line.lstrip("\"'")) for line in meant):
        return Kind.OVERRIDES
    return Kind.SCRIPT if _SHELL_LINE.search(text) else None
