"""kubectl on the API server that KUBECONFIG names, and what both sides say of a document: the server, and our own code.

This module must not know any single field.
"""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from rltrain_api import crdgen
from rltrain_api.errors import FieldError
from rltrain_api.job import RLTrainingJob
from rltrain_api.reading import read_documents
from rltrain_api.validate import parse_job, validate

Document = dict[str, Any]
Call = subprocess.CompletedProcess[str]

EXAMPLES = Path(__file__).parents[2] / "examples"
DRY_RUN = ("--dry-run=server", "--validate=strict")
MANAGER = "--field-manager=rltrain-api-tests"
DEADLINE_SECONDS = 30
DELETED = object()

_INVALID = re.compile(r'"(?P<name>[^" ]+)" is invalid: (?P<why>.*?)(?=\nError from server|\Z)', re.DOTALL)


def attempt(*arguments: str, document: Document | None = None, text: str = "") -> Call:
    """One call of kubectl, which may fail; `document` (as JSON) or else `text` is what it reads from `-f -`."""
    kubectl = os.environ.get("KUBECTL") or shutil.which("kubectl")
    if kubectl is None:
        pytest.fail("these tests need kubectl: put it on PATH, or its path into KUBECTL")
    return subprocess.run(
        [kubectl, *arguments],
        input=text if document is None else json.dumps(document),
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )


def run(*arguments: str, document: Document | None = None, text: str = "") -> str:
    """One call of kubectl that must succeed; what it printed."""
    call = attempt(*arguments, document=document, text=text)
    assert call.returncode == 0, f"kubectl {' '.join(arguments)}: {call.stderr}"
    return call.stdout


def try_to_create(namespace: str, document: Document) -> Call:
    """A strict dry run of creating it on the server."""
    options = ("--namespace", namespace, *DRY_RUN, "--output=json", "--filename=-")
    return attempt("create", *options, document=document)


@dataclass
class Verdicts:
    """What the API server says of many documents: the names of those it accepts, and why it refuses the others."""

    accepted: set[str] = field(default_factory=set)
    refused: dict[str, str] = field(default_factory=dict)


def try_all(namespace: str, documents: Iterable[Document]) -> Verdicts:
    """Strict dry runs of creating them all, in one call; each needs a name of its own."""
    text = "\n---\n".join(json.dumps(document) for document in documents)
    call = attempt("create", "--namespace", namespace, *DRY_RUN, "--output=name", "--filename=-", text=text)
    return Verdicts(
        accepted={line.rpartition("/")[2] for line in call.stdout.split()},
        refused={found["name"]: found["why"] for found in _INVALID.finditer(call.stderr)},
    )


def errors_of(document: Document) -> list[FieldError]:
    """What our own code says of it: errors of form, or where there are none, of what does not fit together."""
    ours = parse_job(document)
    return validate(ours) if isinstance(ours, RLTrainingJob) else ours


def assert_both_accept(namespace: str, document: Document) -> None:
    """The server and our own code take it for a valid job, and for the same one."""
    created = try_to_create(namespace, document)
    assert created.returncode == 0, created.stderr
    ours, stored = parse_job(document), parse_job(json.loads(created.stdout))
    assert isinstance(ours, RLTrainingJob), ours
    assert isinstance(stored, RLTrainingJob), stored
    assert validate(ours) == []
    assert stored.spec == ours.spec, "what the API server fills in differs from the models' defaults"


def example(file: str) -> Document:
    """The document of an example, by its path below `examples/`."""
    (only,) = read_documents(str(EXAMPLES / file))
    return only.data


def changed(base: Mapping[str, Any], changes: Mapping[str, Any]) -> Document:
    """A copy with the values at some dotted paths replaced, or removed where they are DELETED."""
    document: Document = copy.deepcopy(dict(base))
    for path, value in changes.items():
        *parents, last = path.split(".")
        inner: Any = document
        for key in parents:
            inner = inner[int(key)] if isinstance(inner, list) else inner.setdefault(key, {})
        if value is DELETED:
            del inner[last]
        else:
            inner[last] = value
    return document


def rule_messages() -> list[str]:
    """The message of every rule between fields (CEL) of the definition, each once."""
    definition = yaml.safe_load(crdgen.MANIFEST.read_text(encoding="utf-8"))
    (version,) = definition["spec"]["versions"]
    return list(dict.fromkeys(_messages(version["schema"]["openAPIV3Schema"])))


def _messages(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        for rule in schema.get("x-kubernetes-validations", []):
            yield rule["message"]
        for below in schema.values():
            yield from _messages(below)
