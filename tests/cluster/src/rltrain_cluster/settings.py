"""What a cluster is asked to be, and where it keeps its things.

This module must not know how any back end works.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from rltrain_cluster.errors import ClusterError

DEFAULT_NAME = "default"
KUBERNETES_VERSION = "1.36.3"
HELM_VERSION = "3.21.4"
KUBERAY_VERSION = "1.6.2"
KUEUE_VERSION = "0.19.0"

GPU_RESOURCE = "nvidia.com/gpu"


def cache_directory() -> Path:
    """Everything that is built, downloaded or running lies here: `RLTRAIN_CACHE`, else ~/.cache/rltrain."""
    return Path(os.environ.get("RLTRAIN_CACHE") or Path.home() / ".cache" / "rltrain").absolute()


@dataclass(frozen=True)
class ClusterSettings:
    """One cluster as asked for. `gpus_per_node` are advertised, not real: no device stands behind them."""

    name: str = DEFAULT_NAME
    nodes: int = 1
    gpus_per_node: int = 8

    def __post_init__(self) -> None:
        # The name becomes part of a network interface's name, which the kernel bounds at 15 characters.
        if not re.fullmatch(r"[a-z][a-z0-9]{0,8}", self.name):
            raise ClusterError(f"--name {self.name!r}: one to nine of a-z 0-9, beginning with a letter")
        if not 1 <= self.nodes <= 50:
            raise ClusterError(f"--nodes {self.nodes}: 1 to 50")
        if not 0 <= self.gpus_per_node <= 64:
            raise ClusterError(f"--gpus-per-node {self.gpus_per_node}: 0 to 64")

    @property
    def node_names(self) -> list[str]:
        return [f"node-{number}" for number in range(1, self.nodes + 1)]


@dataclass(frozen=True)
class StateDirectory:
    """Where one cluster keeps its state. Only `node_images` outlives `down`: imported images are a cache."""

    root: Path

    @classmethod
    def of(cls, name: str) -> StateDirectory:
        return cls(cache_directory() / "cluster" / name)

    @property
    def lock(self) -> Path:
        return self.root.with_suffix(".lock")

    @property
    def description(self) -> Path:
        return self.root / "cluster.json"

    @property
    def kubeconfig(self) -> Path:
        return self.root / "admin.kubeconfig"

    @property
    def certificates(self) -> Path:
        return self.root / "pki"

    @property
    def configuration(self) -> Path:
        return self.root / "config"

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def etcd(self) -> Path:
        return self.root / "etcd"

    @property
    def volumes(self) -> Path:
        return self.root / "volumes"

    def node(self, node: str) -> Path:
        """What a node keeps while the cluster runs."""
        return self.root / "nodes" / node

    def node_images(self, node: str) -> Path:
        """A node's content store: kept when the cluster goes down."""
        return self.root / "images" / node
