"""What is known about one environment variable: what it means, what it may hold, and who really reads it.

The types only; the entries are in `variables_*`, the search in `catalogue`. Must not know jobs, layers or presets.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum


class Reader(StrEnum):
    """A component that reads variables of its process's environment."""

    CUDA = "CUDA"
    PYTHON = "Python"
    NCCL = "NCCL"
    TORCH = "PyTorch"
    RAY = "Ray"
    SGLANG = "SGLang"
    VLLM = "vLLM"
    TOKENIZERS = "tokenizers"
    TRANSFORMERS = "transformers"
    HUB = "huggingface_hub"
    TRANSFORMER_ENGINE = "Transformer Engine"
    OPENMP = "OpenMP"
    MKL = "MKL"
    WANDB = "wandb"
    MLFLOW = "mlflow"
    SWANLAB = "swanlab"
    MODAL = "modal"
    SKYRL = "SkyRL"
    RLTRAIN = "RLTrain"


class Kind(StrEnum):
    """The type of a variable's value."""

    FLAG = "flag"  # 0 or 1
    BOOLEAN = "boolean"  # words or digits
    CHOICE = "choice"  # one of a few words
    SECONDS = "seconds"
    COUNT = "count"
    SETTINGS = "settings"  # a small language of its own
    PATH = "path"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class Values:
    """What a variable may hold.

    Args:
        kind: The type.
        words: The allowed values in words, to follow "must be".
        pattern: A regular expression that every allowed value matches as a whole.
    """

    kind: Kind
    words: str
    pattern: str = r"(?s).*"

    def allows(self, value: str) -> bool:
        """Whether the reader understands `value`."""
        return re.fullmatch(self.pattern, value) is not None


def choice(*words: str, any_case: bool = False) -> Values:
    """One of `words`; `any_case` where the reader does not tell upper from lower case."""
    pattern = "|".join(re.escape(word) for word in words)
    return Values(Kind.CHOICE, f"one of {', '.join(words)}", f"(?i:{pattern})" if any_case else pattern)


def at_least(least: int, kind: Kind = Kind.COUNT) -> Values:
    """A whole number of at least 0 or 1."""
    assert least in (0, 1), "no variable has another bound"
    unit = " of seconds" if kind is Kind.SECONDS else ""
    return Values(kind, f"a whole number{unit}, at least {least}", "[0-9]+" if least == 0 else "0*[1-9][0-9]*")


FLAG = Values(Kind.FLAG, "0 or 1", "[01]")
BOOLEAN = Values(Kind.BOOLEAN, "true or false (also 1, 0, yes, no)", "(?i:true|false|1|0|yes|no)")
SECONDS = at_least(1, Kind.SECONDS)
COUNT = at_least(1)
PATH = Values(Kind.PATH, "a path in the pods", r"[~/$.].*")
TEXT = Values(Kind.TEXT, "any text")
ALLOCATOR = Values(
    Kind.SETTINGS,
    "settings such as expandable_segments:True,max_split_size_mb:256",
    r"[a-z0-9_]+:(\[[^]]*\]|[^,:\s]+)(,[a-z0-9_]+:(\[[^]]*\]|[^,:\s]+))*",
)
INTERFACES = Values(
    Kind.SETTINGS, "names of network interfaces such as eth0, separated by commas", r"\^?=?[\w.:-]+(,[\w.:-]+)*"
)
DEVICES = Values(
    Kind.SETTINGS, "indices or identifiers of GPUs, separated by commas", r"(|-1|[A-Za-z0-9/:-]+(,[A-Za-z0-9/:-]+)*)"
)
ADDRESS = Values(Kind.TEXT, "a URI, or a directory", r"\S+")


@dataclass(frozen=True, slots=True)
class Variable:
    """One entry of the catalogue.

    Args:
        name: As the reader spells it; names are case-sensitive.
        section: Its section; `catalogue.SECTIONS` has the titles.
        meaning: What it is for, in one sentence.
        values: What it may hold.
        default: What is done when it is unset, in words.
        readers: Who reads it; empty where nobody does.
        truth: What people believe of it and is not so, or what has to be known besides.
        instead: The variable or field that does what this one does not.
        secret: Whether its value must never be shown.
        overruled: Whether somebody reads it, and setting it has no effect all the same; `truth` says why.
    """

    name: str
    section: int
    meaning: str
    values: Values
    default: str
    readers: tuple[Reader, ...] = ()
    truth: str = ""
    instead: str = ""
    secret: bool = False
    overruled: bool = False

    @property
    def read_by(self) -> str:
        """Its readers in words."""
        return ", ".join(self.readers) if self.readers else "nobody"
