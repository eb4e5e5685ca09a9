"""The jobs in files that a person names, judged as the operator would judge them, with the line of every error.

For the verbs that work offline. What is no RLTrainingJob is told apart by what it seems to be, so that the answer can
say what to do with it. Must not know how a verb shows anything.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rltrain_api import names
from rltrain_api.errors import ErrorCode, FieldError
from rltrain_api.job import RLTrainingJob
from rltrain_api.judge import judge as judge_data
from rltrain_api.reading import SourceDocument, UnusableInput, read_documents
from rltrain_operator.plan.limits import beyond_this_release

# The sections of SkyRL's configuration; a document with them at its top is one of SkyRL's own.
SKYRL_SECTIONS = frozenset({"data", "trainer", "generator", "environment"})
KUSTOMIZE_GROUP = "kustomize.config.k8s.io/"
KUSTOMIZE_KEYS = frozenset({"resources", "patches", "patchesStrategicMerge", "components", "namePrefix", "nameSuffix"})
# How alike a kind must be to count as a slip of "RLTrainingJob".
SLIP_SIMILARITY = 0.8
SHOWN_LENGTH = 80


@dataclass(frozen=True)
class JudgedJob:
    """One RLTrainingJob of a file: `job` is None where its form is wrong; it is valid where `errors` is empty.

    `notes` are about what is valid and the operator of this release will not carry out. Where it is not `complete`,
    there may be errors that can only be told when those are mended.
    """

    document: SourceDocument
    job: RLTrainingJob | None
    errors: tuple[FieldError, ...]
    notes: tuple[FieldError, ...] = ()
    complete: bool = True

    @property
    def name(self) -> str:
        """The job's name, or what to call it while it has none."""
        metadata = self.document.data.get("metadata")
        name = metadata.get("name") if isinstance(metadata, Mapping) else None
        return str(name) if name else "(no name)"

    def error_lines(self) -> list[str]:
        """Every error as `file:line: path: message`, in the order of the file."""
        return [f"{self.document.place(error.path)}: {error}" for error in self.errors]

    def note_lines(self) -> list[str]:
        """Every note in the same form."""
        return [f"{self.document.place(note.path)}: note: {note}" for note in self.notes]


@dataclass(frozen=True)
class JobFile:
    """What one file holds: its jobs, and the documents of other kinds."""

    jobs: tuple[JudgedJob, ...]
    others: tuple[SourceDocument, ...]


def read_job_file(path: str) -> JobFile:
    """The jobs of a file (`-`: standard input), all judged.

    Raises:
        UnusableInput: it cannot be read, or it holds no RLTrainingJob at all; the message says what it holds.
    """
    documents = read_documents(path)
    jobs: list[SourceDocument] = []
    others: list[SourceDocument] = []
    for document in documents:
        (jobs if _means_a_job(document.data) else others).append(document)
    if not jobs:
        first = others[0]
        raise UnusableInput(first.source, _instead_of_a_job(first, path), first.line_of())
    return JobFile(tuple(judge(document) for document in jobs), tuple(others))


def judge(document: SourceDocument) -> JudgedJob:
    """The job with all its errors (`rltrain_api.judge`)."""
    judgement = judge_data(document.data)
    errors = _in_order(document, [*_type_errors(document.data), *judgement.errors])
    notes = beyond_this_release(judgement.job) if judgement.job is not None else []
    return JudgedJob(document, judgement.job, errors, _in_order(document, notes), judgement.complete)


def _in_order(document: SourceDocument, errors: list[FieldError]) -> tuple[FieldError, ...]:
    """Errors by line, as a person goes through the file."""
    return tuple(sorted(errors, key=lambda error: (document.line_of(error.path), error)))


def kind_and_name(document: SourceDocument) -> str:
    """What to call a document of any kind: `ConfigMap/rewards`."""
    metadata = document.data.get("metadata")
    name = metadata.get("name") if isinstance(metadata, Mapping) else None
    kind = document.data.get("kind") or "document without a kind"
    text = f"{kind}/{name}" if name else str(kind)
    return text if len(text) <= SHOWN_LENGTH else f"{text[:SHOWN_LENGTH]}…"


def _means_a_job(data: Mapping[str, Any]) -> bool:
    """Whether a document is an RLTrainingJob, or is meant as one."""
    kind, api_version = data.get("kind"), str(data.get("apiVersion", ""))
    if kind is None:
        return api_version.startswith(f"{names.GROUP}/") or ("spec" in data and not api_version)
    alike = difflib.SequenceMatcher(None, str(kind)[:SHOWN_LENGTH].lower(), names.KIND.lower()).ratio()
    return api_version.startswith(f"{names.GROUP}/") or alike >= SLIP_SIMILARITY


def _instead_of_a_job(document: SourceDocument, path: str) -> str:
    """What a document seems to be, and how to get a job from it."""
    data = document.data
    if "kind" not in data and SKYRL_SECTIONS & data.keys():
        return f"looks like a SkyRL configuration, not a job; make one of it: kubectl rltrain convert {path}"
    is_kustomize = str(data.get("apiVersion", "")).startswith(KUSTOMIZE_GROUP)
    if is_kustomize or ("kind" not in data and KUSTOMIZE_KEYS & data.keys()):
        return "is a kustomization; render it first with `kubectl kustomize DIRECTORY`, and pass the result as -"
    if "kind" in data:
        return f"holds no {names.KIND}, but {kind_and_name(document)}"
    return f"holds no {names.KIND}: begin it with apiVersion: {names.API_VERSION} and kind: {names.KIND}"


def _type_errors(data: Mapping[str, Any]) -> list[FieldError]:
    """A file must say what it is; the API server's answers may leave it out, so the models have defaults for both."""
    wanted = {"apiVersion": names.API_VERSION, "kind": names.KIND}
    return [
        FieldError(key, ErrorCode.REQUIRED, f"is required and missing; add {key}: {value}")
        for key, value in wanted.items()
        if key not in data
    ]
