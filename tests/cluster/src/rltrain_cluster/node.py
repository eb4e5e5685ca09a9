"""One real node: a containerd and a kubelet in a mount namespace of their own.

This module must not know how many nodes there are nor who starts the control plane.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import yaml

from rltrain_cluster import cgroups, components, namespaces
from rltrain_cluster.addresses import AddressPlan
from rltrain_cluster.binaries import Binaries
from rltrain_cluster.components import ControlPlane
from rltrain_cluster.containerd import NodeImages
from rltrain_cluster.errors import ClusterError
from rltrain_cluster.image_archive import ImageSpec, image_identity, write_docker_archive
from rltrain_cluster.namespaces import Namespace
from rltrain_cluster.processes import ProcessTable
from rltrain_cluster.settings import StateDirectory, cache_directory
from rltrain_cluster.waiting import wait_until

PAUSE_IMAGE = "rltrain.local/pause:1"
CNI_DIRECTORIES = ("/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni")
CNI_PLUGINS = ("ptp", "host-local", "loopback")
CONTAINERD_LIMIT = 60.0


def find_cni_plugins() -> str | None:
    """The directory in which the distribution keeps CNI's plugins."""
    for directory in CNI_DIRECTORIES:
        if all((Path(directory) / plugin).exists() for plugin in CNI_PLUGINS):
            return directory
    return None


def pause_archive(binaries: Binaries) -> Path:
    """The image of the container that holds every pod's namespaces: one static program."""
    archive = cache_directory() / "images" / f"pause-{binaries.directory.name}.tar"
    if not archive.exists():
        program = Path(binaries.path("pause")).read_bytes()
        spec = ImageSpec(PAUSE_IMAGE, {"/pause": (program, 0o755)}, ["/pause"], user="65535:65535")
        write_docker_archive(spec, archive)
    return archive


@dataclass(frozen=True)
class Node:
    """One node of a cluster; its processes are called containerd-NAME and kubelet-NAME."""

    name: str
    address: str
    cgroup: str
    state: StateDirectory
    table: ProcessTable

    @property
    def namespace(self) -> Namespace:
        record = self.table.find(f"namespace-{self.name}")
        if record is None:
            raise ClusterError(f"{self.name} does not run; `up` repairs the cluster")
        return Namespace(record)

    @property
    def images(self) -> NodeImages:
        return NodeImages(self.namespace, self.state.node_images(self.name))

    def _configure(self, name: str, content: str) -> Path:
        path = self.state.configuration / self.name / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        return path

    def start_containerd(self, binaries: Binaries, cluster: Namespace, plan: AddressPlan) -> None:
        """Open the node's namespace, start containerd there and wait until it can make pods."""
        store = self.state.node_images(self.name)
        store.mkdir(parents=True, exist_ok=True)
        cgroups.make(self.cgroup)
        namespace = namespaces.open_node(self.table, cluster, self.name, self.address, self.state.node(self.name))
        plugins = find_cni_plugins()
        assert plugins is not None, "checked before anything was started"
        network = json.dumps(components.cni_configuration(plan, self.state.root / "addresses"))
        networks = self._configure("cni/10-rltrain.conflist", network).parent
        text = components.containerd_configuration(store / "containerd", plugins, networks, PAUSE_IMAGE)
        configuration = self._configure("containerd.toml", text)
        process = f"containerd-{self.name}"
        self.table.start(process, namespace.inside(["containerd", f"--config={configuration}"]))

        def answers() -> bool:
            self.table.require_alive(process)
            return self.images.answers()

        what = f"waiting for containerd of {self.name}"
        wait_until(what, answers, CONTAINERD_LIMIT, explain=lambda: self.table.log_tail(process))
        self.images.remove_containers()
        archive = pause_archive(binaries)
        self.images.load(archive, PAUSE_IMAGE, image_identity(archive, PAUSE_IMAGE))

    def start_kubelet(self, binaries: Binaries, plane: ControlPlane) -> None:
        """Start kubelet; the API server and containerd must be there. The caller waits for the node to be Ready."""
        resolv_conf = self._configure("resolv.conf", "# pods ask the cluster's DNS and nobody else\n")
        document = components.kubelet_configuration(plane, self.name, self.address, f"/{self.cgroup}", resolv_conf)
        configuration = self._configure("kubelet.yaml", yaml.safe_dump(document))
        command = [
            binaries.path("kubelet"),
            f"--config={configuration}",
            f"--kubeconfig={plane.kubeconfig(self.name)}",
            f"--hostname-override={self.name}",
            f"--node-ip={self.address}",
        ]
        self.table.start(f"kubelet-{self.name}", self.namespace.inside(command))
