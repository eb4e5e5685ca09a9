"""The definition and a namespace on the API server that KUBECONFIG names, for all tests that only need that."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from api_server import run
from rltrain_api import crdgen, names

DEFINITION = f"{names.PLURAL}.{names.GROUP}"
ESTABLISHED_SECONDS = 15


@pytest.fixture(scope="session")
def definition() -> Iterator[str]:
    """The definition, served, by its name; removed again where it was not there before.

    One that was there before, such as the chart's, is left in place, and the committed one is tried on top of it.
    """
    existing = bool(run("get", "customresourcedefinition", "--ignore-not-found", DEFINITION, "-o", "name"))
    dry_run = ["--dry-run=server"] if existing else []
    manager = ["--field-manager=rltrain-api-tests", "--force-conflicts", "--validate=strict"]
    run("apply", "--server-side", *manager, *dry_run, "-f", str(crdgen.MANIFEST))
    run("wait", "--for=condition=Established", f"--timeout={ESTABLISHED_SECONDS}s", f"crd/{DEFINITION}")
    yield DEFINITION
    if not existing:
        run("delete", "customresourcedefinition", DEFINITION)


@pytest.fixture(scope="session")
def namespace(definition: str) -> Iterator[str]:
    """A namespace in which nothing is, by its name."""
    name = f"rltrain-api-{uuid.uuid4().hex[:8]}"
    run("create", "namespace", name)
    yield name
    run("delete", "namespace", name, "--wait=false")
