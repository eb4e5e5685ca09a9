"""From a name to a cluster: which back end it has, whether it is asked for or already there.

This module must not know how any back end works.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from rltrain_cluster.backend import Backend
from rltrain_cluster.control_plane_only import ControlPlaneCluster
from rltrain_cluster.embedded import EmbeddedCluster
from rltrain_cluster.errors import ClusterError
from rltrain_cluster.existing import ExistingCluster
from rltrain_cluster.kind_backend import KindCluster
from rltrain_cluster.local_state import Description, read_description
from rltrain_cluster.settings import DEFAULT_NAME, ClusterSettings, StateDirectory

DEFAULT_BACKEND = "embedded"
BACKENDS: dict[str, Callable[[ClusterSettings], Backend]] = {
    "embedded": EmbeddedCluster,
    "kind": KindCluster,
    "existing": ExistingCluster,
    "controlplane": ControlPlaneCluster,
}


def recorded(name: str) -> Description | None:
    """What is written down about the cluster that was taken up under this name."""
    return read_description(StateDirectory.of(name))


def wanted(name: str, backend: str | None, nodes: int | None, gpus_per_node: int | None) -> Backend:
    """The cluster to take up: what is not said is as CLUSTER says, else as in the one there, else as by default."""
    present = recorded(name)
    base = present.settings if present else ClusterSettings(name)
    settings = ClusterSettings(
        name,
        base.nodes if nodes is None else nodes,
        base.gpus_per_node if gpus_per_node is None else gpus_per_node,
    )
    kind = backend or os.environ.get("CLUSTER") or (present.backend if present else DEFAULT_BACKEND)
    if kind not in BACKENDS:
        raise ClusterError(f"CLUSTER={kind}: no such back end; there are {', '.join(sorted(BACKENDS))}")
    if present and kind != present.backend:
        raise ClusterError(f"cluster {name} is there with back end {present.backend}, not {kind}; take it down first")
    return BACKENDS[kind](settings)


def find(name: str = DEFAULT_NAME) -> Backend:
    """The cluster that was taken up under this name; if there is none, the default one that could be."""
    present = recorded(name) or Description(DEFAULT_BACKEND, ClusterSettings(name))
    return BACKENDS[present.backend](present.settings)


def load_image(archive: Path, name: str, cluster: str = DEFAULT_NAME) -> bool:
    """Bring the image called `name` in a docker archive into every node; False if all of them have it already."""
    return find(cluster).load_image(archive, name)
