"""The definition and a namespace on the API server that KUBECONFIG names, for all tests that only need that."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator

import pytest

from api_server import attempt, run
from rltrain_api import crdgen, names
from rltrain_cluster import clusters
from rltrain_cluster.kubectl import Kubectl
from rltrain_cluster.testing import kubectl_of, silent, temporary_cluster

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


@pytest.fixture(scope="session")
def control_plane() -> Iterator[Kubectl]:
    """An API server on loopback with KubeRay and our definition, for processes of this machine and their webhooks.

    RLTRAIN_INTEGRATION_CLUSTER names one with the back end `controlplane` that is up and stays.
    """
    standing = os.environ.get("RLTRAIN_INTEGRATION_CLUSTER")
    if standing is not None:
        cluster = clusters.find(standing)
        cluster.ensure_kuberay(silent)
        yield _with_definition(kubectl_of(cluster))
        return
    with temporary_cluster("operators", "controlplane", nodes=1, gpus_per_node=64, with_kuberay=True) as cluster:
        yield _with_definition(kubectl_of(cluster))


def _with_definition(kubectl: Kubectl) -> Kubectl:
    kubectl("apply", "--server-side", "--force-conflicts", f"--filename={crdgen.MANIFEST}", what="our definition")
    established = ("wait", "--for=condition=Established", "--timeout=60s", f"customresourcedefinition/{DEFINITION}")
    kubectl(*established, what="our definition to be served", limit=70)
    return kubectl
