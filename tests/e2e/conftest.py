"""The end-to-end tier: a real cluster with KubeRay, our images in its nodes, our chart installed, real jobs.

`make test-e2e` makes the cluster "test"; RLTRAIN_E2E_CLUSTER names another one that is up (say, "default").
"""

import os
from collections.abc import Iterator

import pytest

from rltrain_cluster import clusters, images
from rltrain_cluster.demo import Tools, install_operator
from rltrain_e2e import NAMESPACE, Jobs


@pytest.fixture(scope="session")
def tools() -> Tools:
    cluster = clusters.find(os.environ.get("RLTRAIN_E2E_CLUSTER", "test"))
    cluster.ensure_kuberay(print)
    archives = {image: images.build(image, print) for image in images.RECIPES}
    for archive in archives.values():
        cluster.load_image(archive.path, archive.name)
    tools = Tools.of(cluster)
    install_operator(tools, archives["operator"])
    return tools


@pytest.fixture(scope="session")
def jobs(tools: Tools) -> Iterator[Jobs]:
    """The tier's jobs, in a namespace that is removed at the end."""
    kubectl = tools.kubectl
    kubectl.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}], "a namespace")
    yield Jobs(tools)
    kubectl("delete", "namespace", NAMESPACE, "--timeout=180s", what="removing the tests' namespace", limit=190)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test here needs the cluster, and the quickstart's run is long."""
    for item in items:
        if "tests/e2e" in item.path.as_posix():
            item.add_marker(pytest.mark.cluster)
            item.add_marker(pytest.mark.timeout(1500))
