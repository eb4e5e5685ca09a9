"""Start a control plane: certificates, etcd, the API server, the controllers and the scheduler, in that order.

The same for real nodes (inside the cluster's network namespace, as root) and for fake ones (on loopback, as anybody).
This module must not know what nodes are.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rltrain_cluster import components, manifests
from rltrain_cluster.binaries import Binaries
from rltrain_cluster.certificates import Authority, Identity
from rltrain_cluster.components import ControlPlane
from rltrain_cluster.kubectl import Kubectl
from rltrain_cluster.processes import ProcessTable, plain_environment
from rltrain_cluster.settings import StateDirectory, cache_directory
from rltrain_cluster.waiting import wait_until

API_LIMIT = 120.0
ACCOUNT_LIMIT = 60.0
# Clients before the API server, the API server before etcd: the other way round, it waits for etcd for ever.
STOP_ORDER = ("kube-scheduler", "kube-controller-manager", "kube-apiserver", "etcd")
STOP_LIMITS = {"kube-apiserver": 3.0}  # it may wait for open connections for a minute

Wrap = Callable[[Sequence[str]], list[str]]


def cluster_kubectl(binaries: Binaries, kubeconfig: Path) -> Kubectl:
    """kubectl on a cluster of ours, apart from the caller's environment."""
    environment = plain_environment() | {"KUBECACHEDIR": str(cache_directory() / "kubectl")}
    return Kubectl(binaries.path("kubectl"), kubeconfig, environment)


def write_certificates(
    plane: ControlPlane,
    state: StateDirectory,
    context: str,
    service: str,
    users: Mapping[str, str],
    nodes: Mapping[str, str],
) -> None:
    """Every certificate and kubeconfig of a cluster. `users`: user by file name; `nodes`: address by node."""
    authority = Authority(plane.certificates)
    authority.issue_service_account_keys()
    name = "kubernetes.default.svc"
    own = ["localhost", "127.0.0.1", plane.address]
    servers = [
        Identity("etcd", "etcd", hosts=own),
        Identity(
            "apiserver",
            "kube-apiserver",
            hosts=[*own, service, "kubernetes", "kubernetes.default", name, f"{name}.{components.CLUSTER_DOMAIN}"],
        ),
        Identity("apiserver-kubelet", "kube-apiserver-kubelet-client", "system:masters"),
        Identity("front-proxy", "front-proxy-client"),
    ]
    clients = [
        Identity("admin", "admin", "system:masters"),
        Identity("controller-manager", "system:kube-controller-manager", "system:masters"),
        Identity("scheduler", "system:kube-scheduler"),
        *(Identity(file, user) for file, user in users.items()),
        *(
            Identity(node, f"system:node:{node}", "system:nodes", hosts=[node, address])
            for node, address in nodes.items()
        ),
    ]
    for identity in (*servers, *clients):
        authority.issue(identity)
    for identity in clients:
        authority.write_kubeconfig(identity.name, plane.server, Path(plane.kubeconfig(identity.name)), context)
    shutil.copy2(plane.kubeconfig("admin"), state.kubeconfig)


def start_agent(table: ProcessTable, name: str, module: str, flags: Sequence[str]) -> None:
    """Start one of this package's own agents, on the machine and not where the control plane lives."""
    packages = str(Path(__file__).resolve().parents[1])
    command = [sys.executable, "-m", f"rltrain_cluster.{module}", *flags]
    table.start(name, command, {"PYTHONPATH": packages, "PYTHONUNBUFFERED": "1"})


@dataclass(frozen=True)
class ControlPlaneProcesses:
    """The control plane of one cluster; `wrap` brings a command to where its processes live."""

    plane: ControlPlane
    state: StateDirectory
    table: ProcessTable
    binaries: Binaries
    wrap: Wrap

    @property
    def kubectl(self) -> Kubectl:
        return cluster_kubectl(self.binaries, self.state.kubeconfig)

    def start(self, name: str, flags: Sequence[str]) -> None:
        self.table.start(name, self.wrap([self.binaries.path(name), *flags]))

    def start_api(self) -> None:
        """Start etcd and the API server; `wait_for_api` waits for them."""
        self.start("etcd", components.etcd_flags(self.plane))
        self.start("kube-apiserver", components.api_server_flags(self.plane))

    def wait_for_api(self) -> None:
        def answers() -> bool:
            for name in ("etcd", "kube-apiserver"):
                self.table.require_alive(name)
            return self.kubectl.answers()

        what = "waiting for the API server"
        wait_until(what, answers, API_LIMIT, explain=lambda: self.table.log_tail("kube-apiserver"))

    def start_controllers(self) -> None:
        """Apply the cluster's own objects and start what works on them; the API server must be ready."""
        self.kubectl.apply(manifests.cluster_objects(), "applying the cluster's own objects")
        self.start("kube-controller-manager", components.controller_manager_flags(self.plane))
        self.start("kube-scheduler", components.scheduler_flags(self.plane))
        self.state.volumes.mkdir(exist_ok=True)
        flags = [f"--kubeconfig={self.plane.kubeconfig(manifests.PROVISIONER)}", f"--root={self.state.volumes}"]
        self.start_agent(manifests.PROVISIONER, "volume_provisioner", flags)

    def start_agent(self, name: str, module: str, flags: Sequence[str]) -> None:
        start_agent(self.table, name, module, flags)

    def wait_for_nodes(self, expected: set[str], explain: Callable[[], str]) -> None:
        def ready() -> bool:
            for name in self.table.records():
                self.table.require_alive(name)
            return self.kubectl.ready_nodes() == expected

        wait_until("waiting for the nodes to be Ready", ready, API_LIMIT, explain=explain)

    def wait_for_account(self) -> None:
        """Until the default ServiceAccount is there, no pod is admitted."""

        def has_account() -> bool:
            found = self.kubectl("get", "serviceaccounts", "--namespace=default", "--output=name", what="waiting")
            return "serviceaccount/default" in found.split()

        def explain() -> str:
            return self.table.log_tail("kube-controller-manager")

        wait_until("waiting for the default ServiceAccount", has_account, ACCOUNT_LIMIT, explain=explain)


def stop_control_plane(table: ProcessTable) -> None:
    """End what there is of a control plane, in an order in which nothing waits for what is gone."""
    for name in (manifests.PROVISIONER, *STOP_ORDER):
        table.stop(name, STOP_LIMITS.get(name, 5.0))
