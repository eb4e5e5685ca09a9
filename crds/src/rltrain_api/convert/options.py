"""What the person who converts says besides the input.

Must not know what it is used for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class Options:
    """Choices that the input does not hold.

    Args:
        source: What to call the input in messages, such as its file's name.
        name: The job's name; empty takes the run's.
        image: The image of every pod; empty leaves a placeholder.
        trainer: Whose trainer runs; `auto` takes the one that can do what is asked for.
        variables: Values of variables that the input uses, such as those of its caller's shell.
    """

    source: str = "<input>"
    name: str = ""
    image: str = ""
    trainer: Literal["auto", "builtin", "skyrl"] = "auto"
    variables: Mapping[str, str] = field(default_factory=dict)
