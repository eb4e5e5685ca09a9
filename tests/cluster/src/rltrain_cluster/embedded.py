"""The embedded back end: a whole cluster on this machine, with real nodes, without Docker.

etcd, the control plane, kube-proxy and CoreDNS are processes in the cluster's own network namespace; every node is a
containerd and a kubelet with mounts of its own. What lives outside of that namespace is one virtual cable, one subtree
of control groups, one process that provisions volumes, and the state directory.
"""

from __future__ import annotations

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Network
from pathlib import Path

import yaml

from rltrain_cluster import cgroups, components, kuberay, kueue, manifests, namespaces
from rltrain_cluster.addresses import AddressPlan, choose_plan
from rltrain_cluster.backend import ClusterStatus, Report
from rltrain_cluster.binaries import Binaries, ensure_binaries
from rltrain_cluster.components import ControlPlane
from rltrain_cluster.containerd import NodeImages
from rltrain_cluster.control_plane import (
    ControlPlaneProcesses,
    cluster_kubectl,
    stop_control_plane,
    write_certificates,
)
from rltrain_cluster.errors import ClusterError
from rltrain_cluster.image_archive import image_identity
from rltrain_cluster.local_state import (
    Description,
    clear_state,
    image_lock,
    read_description,
    take_down,
    take_up,
    write_description,
)
from rltrain_cluster.namespaces import Namespace
from rltrain_cluster.node import Node, find_cni_plugins
from rltrain_cluster.processes import ProcessTable, end_processes
from rltrain_cluster.settings import GPU_RESOURCE, ClusterSettings, StateDirectory, cache_directory
from rltrain_cluster.waiting import answers, wait_until

PROGRAMS_NEEDED = {
    "containerd": "containerd",
    "ctr": "containerd",
    "containerd-shim-runc-v2": "containerd",
    "runc": "runc",
    "iptables": "iptables",
    "ip": "iproute2",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "mount": "mount",
}


def missing_requirements() -> list[str]:
    """What this machine lacks, a line each; empty if the embedded cluster can run."""
    lines = []
    if os.geteuid() != 0:
        lines.append("nodes need root (without it: --backend controlplane, an API server with fake nodes)")
    packages = {package for name, package in PROGRAMS_NEEDED.items() if shutil.which(name) is None}
    if find_cni_plugins() is None:
        packages.add("containernetworking-plugins")
    if packages:
        lines.append(f"packages are missing: apt-get install {' '.join(sorted(packages))}")
    return lines


class EmbeddedCluster:
    """One cluster of this machine, by its name."""

    def __init__(self, settings: ClusterSettings) -> None:
        self._settings = settings
        self._state = StateDirectory.of(settings.name)
        self._table = ProcessTable(self._state.run, self._state.logs)

    @property
    def kubeconfig(self) -> Path:
        return self._state.kubeconfig

    def up(self, report: Report) -> None:
        missing = missing_requirements()
        if missing:
            raise ClusterError("the embedded cluster cannot run here: " + "; ".join(missing))
        binaries = ensure_binaries(report)
        take_up(
            self._state,
            self._settings,
            dead=self._dead,
            unwell=self._unwell,
            clear=self._clear,
            create=lambda: self._create(binaries, report),
            report=report,
        )

    def _create(self, binaries: Binaries, report: Report) -> None:
        if namespaces.has_cable(self._settings.name):
            raise ClusterError(
                f"a cluster {self._settings.name} of another cache directory than {cache_directory()} runs on this "
                "machine; choose another --name"
            )
        plan = choose_plan(namespaces.networks_in_use())
        clear_state(self._state)
        details = {"pods": str(plan.pods), "services": str(plan.services)}
        write_description(self._state, Description("embedded", self._settings, details))
        report(f"starting {self._settings.nodes} node(s) on {plan.pods}, Services on {plan.services}")
        cluster = namespaces.open_cluster(self._table, self._settings.name, plan)
        control = self._control_plane(binaries, cluster, plan)
        control.start_api()
        nodes = [self._node(name, plan.node(number)) for number, name in enumerate(self._settings.node_names, start=1)]
        with ThreadPoolExecutor() as pool:  # containerd starts while the API server does
            ready = [pool.submit(node.start_containerd, binaries, cluster, plan) for node in nodes]
            control.wait_for_api()
            report("the API server answers")
            control.start_controllers()
            self._start_network(control, plan)
            for future in ready:
                future.result()
        for node in nodes:
            node.start_kubelet(binaries, control.plane)
        explain = "\n".join
        names = set(self._settings.node_names)
        control.wait_for_nodes(
            names, lambda: explain(self._table.log_tail(f"kubelet-{name}") for name in sorted(names))
        )
        self._advertise_gpus(control)
        names_ready = f"http://{plan.gateway}:{components.DNS_READY_PORT}/ready"
        wait_until(
            "waiting for CoreDNS", lambda: answers(names_ready), 60, explain=lambda: self._table.log_tail("coredns")
        )
        control.wait_for_account()
        report("all nodes are Ready")

    def _control_plane(self, binaries: Binaries, cluster: Namespace, plan: AddressPlan) -> ControlPlaneProcesses:
        state = self._state
        state.configuration.mkdir()
        plane = ControlPlane(
            address=plan.gateway,
            service_range=str(plan.services),
            certificates=state.certificates,
            kubeconfigs=state.configuration,
            data=state.etcd,
        )
        nodes = {name: plan.node(number) for number, name in enumerate(self._settings.node_names, start=1)}
        users = {
            name: manifests.user(name) for name in (manifests.KUBE_PROXY, manifests.COREDNS, manifests.PROVISIONER)
        }
        write_certificates(plane, state, f"rltrain-{self._settings.name}", plan.kubernetes_service, users, nodes)
        return ControlPlaneProcesses(plane, state, self._table, binaries, cluster.inside)

    def _start_network(self, control: ControlPlaneProcesses, plan: AddressPlan) -> None:
        """Services and names: kube-proxy once for all nodes, which share one network namespace, and CoreDNS."""
        proxy = self._state.configuration / "kube-proxy.yaml"
        proxy.write_text(yaml.safe_dump(components.kube_proxy_configuration(control.plane, plan)))
        names = self._state.configuration / "Corefile"
        names.write_text(components.corefile(plan.gateway, control.plane.kubeconfig(manifests.COREDNS)))
        node = self._settings.node_names[0]
        control.start(manifests.KUBE_PROXY, [f"--config={proxy}", f"--hostname-override={node}"])
        control.start(manifests.COREDNS, [f"-conf={names}"])

    def _advertise_gpus(self, control: ControlPlaneProcesses) -> None:
        patch = json.dumps(manifests.gpu_patch(self._settings.gpus_per_node, GPU_RESOURCE))
        for name in self._settings.node_names:
            what = f"advertising GPUs on {name}"
            control.kubectl("patch", "node", name, "--subresource=status", "--type=json", f"--patch={patch}", what=what)

    def _node(self, name: str, address: str) -> Node:
        return Node(name, address, f"{self._cgroup}/{name}", self._state, self._table)

    @property
    def _cgroup(self) -> str:
        return f"rltrain-{self._settings.name}"

    def ensure_kuberay(self, report: Report) -> None:
        kuberay.ensure(self, report)

    def ensure_kueue(self, report: Report) -> None:
        kueue.ensure(self, report)

    def down(self, report: Report) -> None:
        stays = f"; imported images stay in {self._state.root / 'images'}"
        take_down(self._state, self._settings, clear=self._clear, report=report, stays=stays)

    def _clear(self) -> None:
        """End everything, whatever of it there is: kubelets before their pods, clients before what they call."""
        records = self._table.records()

        def stop(prefix: str, limit: float) -> None:
            for name in records:
                if name.startswith(prefix):
                    self._table.stop(name, limit)

        stop("kubelet-", limit=5)
        cgroups.kill(self._cgroup)
        for prefix in ("containerd-", manifests.KUBE_PROXY, manifests.COREDNS):
            stop(prefix, limit=5)
        stop_control_plane(self._table)
        end_processes(self._table.strays(), limit=0)  # what containerd leaves behind: a shim for every pod
        stop("namespace", limit=0)
        namespaces.remove_cable(self._settings.name)
        cgroups.remove(self._cgroup)
        clear_state(self._state)

    def _dead(self, present: Description) -> list[str]:
        """Which of the cluster's processes are gone."""
        expected = ["namespace", "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"]
        expected += [manifests.KUBE_PROXY, manifests.COREDNS, manifests.PROVISIONER]
        for name in present.settings.node_names:
            expected += [f"{part}-{name}" for part in ("namespace", "containerd", "kubelet")]
        return [f"{name} does not run" for name in expected if self._table.find(name) is None]

    def _unwell(self, present: Description) -> list[str]:
        """What of the living cluster does not answer."""
        kubectl = cluster_kubectl(ensure_binaries(lambda _: None), self.kubeconfig)
        if not kubectl.answers():
            return ["the API server does not answer"]
        lost = set(present.settings.node_names) - kubectl.ready_nodes()
        return [f"{name} is not Ready" for name in sorted(lost)]

    def status(self) -> ClusterStatus:
        present = read_description(self._state)
        if present is None:
            return ClusterStatus(self._settings.name, "embedded", False, self.kubeconfig, ("not there",))
        problems = self._dead(present) or self._unwell(present)
        plan = AddressPlan(IPv4Network(present.details["pods"]), IPv4Network(present.details["services"]))
        lines = problems or [
            f"pods and nodes {plan.pods}, Services {plan.services}, this machine {plan.host}",
            *(f"{name} is Ready" for name in present.settings.node_names),
        ]
        return ClusterStatus(self._settings.name, "embedded", not problems, self.kubeconfig, tuple(lines))

    def logs(self, component: str) -> str:
        return self._table.read_log(component)

    def load_image(self, archive: Path, name: str) -> bool:
        present = self._require_up()
        identity = image_identity(archive, name)

        def load(images: NodeImages) -> bool:
            return images.load(archive.absolute(), name, identity)

        with image_lock(self._state), ThreadPoolExecutor() as pool:
            stores = [self._node(node, "").images for node in present.settings.node_names]
            return any(list(pool.map(load, stores)))

    def volume_path(self, namespace: str, claim: str) -> Path:
        self._require_up()
        return cluster_kubectl(ensure_binaries(lambda _: None), self.kubeconfig).volume_path(namespace, claim)

    def _require_up(self) -> Description:
        present = read_description(self._state)
        if present is None:
            raise ClusterError(f"cluster {self._settings.name} is not up (python -m rltrain_cluster up)")
        return present
