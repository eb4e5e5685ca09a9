"""The definition and a namespace on the API server that KUBECONFIG names, for all tests that only need that."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator

import pytest

from api_server import attempt, run
from rltrain_api import crdgen, names

DEFINITION = f"{names.PLURAL}.{names.GROUP}"
SERVED_SECONDS = 30


@pytest.fixture(scope="module")
def definition() -> Iterator[str]:
    """The definition, served, by its name; removed again where it was not there before: a chart would not take it over.

    One that was there before, such as the chart's, is left in place, and the committed one is tried on top of it.
    """
    existing = bool(run("get", "customresourcedefinition", "--ignore-not-found", DEFINITION, "-o", "name"))
    dry_run = ["--dry-run=server"] if existing else []
    manager = ["--field-manager=rltrain-api-tests", "--force-conflicts", "--validate=strict"]
    run("apply", "--server-side", *manager, *dry_run, "-f", str(crdgen.MANIFEST))
    _await_service()
    yield DEFINITION
    if not existing:
        run("delete", "customresourcedefinition", DEFINITION)


def _await_service() -> None:
    """Wait until jobs can be listed: the API server takes a moment between taking the definition and serving it."""
    deadline = time.monotonic() + SERVED_SECONDS
    while (call := attempt("get", DEFINITION, "--all-namespaces")).returncode != 0:
        assert time.monotonic() < deadline, f"{DEFINITION} is not served after {SERVED_SECONDS} s: {call.stderr}"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def namespace(definition: str) -> Iterator[str]:
    """A namespace in which nothing is, by its name."""
    name = f"rltrain-api-{uuid.uuid4().hex[:8]}"
    run("create", "namespace", name)
    yield name
    run("delete", "namespace", name, "--wait=false")
