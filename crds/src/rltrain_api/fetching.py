"""What an initializer runs, and the sources that it may fetch from: the contract between who plans and who fetches.

A dataset and a model are fetched by a program of the trainer's image (`rltrain_trainer.fetch`), a script is run from
the ConfigMap that is mounted for it. How far a fetch is goes into its log in the one form that is written and read
here. This module must not know Kubernetes' manifests, nor how anything is fetched.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from rltrain_api.spec.storage import Fetch, Initializer

FETCH_MODULE = "rltrain_trainer.fetch"
# The program's exit code when trying again cannot help: nothing is there, access is refused, the volume is full.
EXIT_FINAL = 64
SCRIPT_DIRECTORY = "/rltrain-script"

HUB_SCHEME = "hf"
WEB_SCHEMES = ("https", "http")
OBJECT_STORES = ("s3", "gs", "abfs", "abfss")
SCHEMES = (HUB_SCHEME, *WEB_SCHEMES, *OBJECT_STORES)

Kind = Literal["dataset", "model"]

_INTERPRETERS = {".py": "python", ".sh": "bash"}
_HUB_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9._]*[A-Za-z0-9])?")
_DATASETS = "datasets/"
# Whatever stands before it on its line, such as the time. 18 digits fit the API's integers of 64 bits.
_PROGRESS = re.compile(r"\bprogress ([0-9]{1,18})(?: of ([0-9]{1,18}))? bytes$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class HubReference:
    """A repository of a hub, at a revision, and the file or directory in it that is meant; empty means all of it."""

    repository: str
    revision: str = "main"
    path: str = ""


def scheme_of(source: str) -> str:
    """The scheme of a source in lower case; empty for a path."""
    head, separator, _ = source.partition("://")
    return head.lower() if separator else ""


def parse_hub(source: str, kind: Kind) -> HubReference:
    """The repository that `hf://owner/name[@revision][/path]` names.

    A dataset's may begin with `datasets/`, as the hub's own file system writes it.

    Raises:
        ValueError: it has another form; the message says which form it should have.
    """
    rest = source.partition("://")[2]
    if rest.startswith(_DATASETS):
        if kind == "model":
            raise ValueError(f"{source!r} names a dataset; a model is hf://owner/name")
        rest = rest.removeprefix(_DATASETS)
    owner, _, rest = rest.partition("/")
    named, _, path = rest.partition("/")
    name, at, revision = named.partition("@")
    if not (_HUB_NAME.fullmatch(owner) and _HUB_NAME.fullmatch(name)) or (at and not revision):
        raise ValueError(
            f"{source!r} is not a repository of a hub; write hf://owner/name, hf://owner/name@revision or "
            "either with /path behind it"
        )
    return HubReference(f"{owner}/{name}", revision or "main", path.strip("/"))


def interpreter_of(key: str) -> str | None:
    """The program that runs a script by its name's end; None for a name that says nothing."""
    return next((program for end, program in _INTERPRETERS.items() if key.endswith(end)), None)


@dataclass(frozen=True, slots=True)
class Program:
    """What a container runs: the program and its first arguments, and further ones."""

    command: tuple[str, ...]
    arguments: tuple[str, ...] = ()


def program_of(initializer: Initializer) -> Program:
    """What an initializer runs that exactly one of command, dataset, model and script describes."""
    if initializer.command is not None:
        return Program(tuple(initializer.command), tuple(initializer.args))
    if initializer.script is not None:
        interpreter = interpreter_of(initializer.script.key)
        assert interpreter is not None, "validate() demands a key that ends in .py or .sh"
        return Program((interpreter, f"{SCRIPT_DIRECTORY}/{initializer.script.key}"), tuple(initializer.args))
    kind, fetch = fetch_of(initializer)
    # The program ends a little before the batch Job would end it, because only a program can say how far it came.
    deadline = max(1, initializer.deadline_seconds * 9 // 10)
    options = ["--from", fetch.source, "--to", fetch.to, "--deadline", str(deadline)]
    options += [] if fetch.sha256 is None else ["--sha256", fetch.sha256]
    options += [option for pattern in fetch.include for option in ("--include", pattern)]
    return Program(("python", "-m", FETCH_MODULE, kind), tuple(options))


def fetch_of(initializer: Initializer) -> tuple[Kind, Fetch]:
    """What an initializer fetches, for one that fetches."""
    if initializer.dataset is not None:
        return "dataset", initializer.dataset
    assert initializer.model is not None, "only asked of an initializer that fetches"
    return "model", initializer.model


def fetches(initializer: Initializer) -> bool:
    """Whether the initializer fetches a dataset or a model."""
    return initializer.dataset is not None or initializer.model is not None


@dataclass(frozen=True, slots=True)
class FetchProgress:
    """How many bytes have arrived, and of how many; `total` is None where the source does not say."""

    bytes: int
    total: int | None = None


def format_progress(progress: FetchProgress) -> str:
    """The line of a log that says it: `progress 1200 of 3000 bytes`, or `progress 1200 bytes`."""
    of_total = "" if progress.total is None else f" of {progress.total}"
    return f"progress {progress.bytes}{of_total} bytes"


def parse_progress(log: str) -> FetchProgress | None:
    """What the last such line of a log says, None where there is none. Nothing else of the log is kept."""
    said = _PROGRESS.findall(log)
    if not said:
        return None
    arrived, total = said[-1]
    return FetchProgress(int(arrived), int(total) if total else None)
