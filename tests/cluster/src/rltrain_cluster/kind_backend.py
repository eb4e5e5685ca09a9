"""The kind back end: nodes are containers of Docker, made by the program `kind`.

For machines that have Docker. Volumes and GPUs are as in the embedded cluster: directories of this machine, which every
node sees under the same path, and numbers in the nodes' status. This module must not know KubeRay's chart.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import yaml

from rltrain_cluster import kuberay, kueue, manifests
from rltrain_cluster.backend import ClusterStatus, Report
from rltrain_cluster.binaries import ensure_binaries
from rltrain_cluster.control_plane import start_agent
from rltrain_cluster.errors import ClusterError
from rltrain_cluster.image_archive import image_identity
from rltrain_cluster.kubectl import Kubectl
from rltrain_cluster.local_state import (
    Description,
    clear_state,
    read_description,
    take_down,
    take_up,
    write_description,
)
from rltrain_cluster.processes import ProcessTable, run
from rltrain_cluster.settings import GPU_RESOURCE, ClusterSettings, StateDirectory

BASE_CONFIGURATION = Path(__file__).with_name("kind.yaml")
CREATE_SECONDS = 300
# Where a component's output is to be had: a unit of the node's systemd, or pods by their label.
UNITS = ("kubelet", "containerd")
LABELS = {
    "kube-apiserver": "component=kube-apiserver",
    "kube-controller-manager": "component=kube-controller-manager",
    "kube-scheduler": "component=kube-scheduler",
    "etcd": "component=etcd",
    "kube-proxy": "k8s-app=kube-proxy",
    "coredns": "k8s-app=kube-dns",
}


def kind_name(cluster: str) -> str:
    return f"rltrain-{cluster}"


def configuration(base: dict[str, Any], nodes: int, volumes: Path) -> dict[str, Any]:
    """kind's configuration: one node for the control plane, `nodes` for pods, each with the volumes' directory."""
    mounts = [{"hostPath": str(volumes), "containerPath": str(volumes)}]
    workers = [{"role": "worker", "extraMounts": mounts} for _ in range(nodes)]
    return {**base, "nodes": [{"role": "control-plane"}, *workers]}


def create_command(cluster: str, configuration_file: Path, kubeconfig: Path) -> list[str]:
    return [
        *("kind", "create", "cluster", f"--name={kind_name(cluster)}", f"--config={configuration_file}"),
        *(f"--kubeconfig={kubeconfig}", f"--wait={CREATE_SECONDS}s"),
    ]


def delete_command(cluster: str, kubeconfig: Path) -> list[str]:
    return ["kind", "delete", "cluster", f"--name={kind_name(cluster)}", f"--kubeconfig={kubeconfig}"]


def load_command(cluster: str, archive: Path) -> list[str]:
    return ["kind", "load", "image-archive", str(archive), f"--name={kind_name(cluster)}"]


def inspect_command(node: str, image: str) -> list[str]:
    """Ask a node for what it has under an image's name."""
    return ["docker", "exec", node, "crictl", "inspecti", "--output=json", image]


class KindCluster:
    """One kind cluster, by its name."""

    def __init__(self, settings: ClusterSettings) -> None:
        self._settings = settings
        self._state = StateDirectory.of(settings.name)
        self._table = ProcessTable(self._state.run, self._state.logs)

    @property
    def kubeconfig(self) -> Path:
        return self._state.kubeconfig

    @property
    def _kubectl(self) -> Kubectl:
        return Kubectl(ensure_binaries(lambda _: None).path("kubectl"), self.kubeconfig)

    def up(self, report: Report) -> None:
        missing = [program for program in ("docker", "kind") if shutil.which(program) is None]
        if missing:
            raise ClusterError(f"the kind cluster cannot run here: {' and '.join(missing)} not on PATH")
        ensure_binaries(report)
        take_up(
            self._state,
            self._settings,
            dead=lambda _: self._dead(),
            unwell=lambda _: self._unwell(),
            clear=self._clear,
            create=lambda: self._create(report),
            report=report,
        )

    def _create(self, report: Report) -> None:
        state, name = self._state, self._settings.name
        clear_state(state)
        write_description(state, Description("kind", self._settings))
        state.configuration.mkdir()
        state.volumes.mkdir()
        base = yaml.safe_load(BASE_CONFIGURATION.read_text())
        file = state.configuration / "kind.yaml"
        file.write_text(yaml.safe_dump(configuration(base, self._settings.nodes, state.volumes)))
        report(f"creating kind cluster {kind_name(name)}")
        run(create_command(name, file, self.kubeconfig), what="creating the cluster", limit=CREATE_SECONDS * 3)
        self.kubeconfig.chmod(0o600)
        kubectl = self._kubectl
        kubectl.apply(manifests.cluster_objects(), "applying the cluster's own objects")
        other = '{"metadata":{"annotations":{"storageclass.kubernetes.io/is-default-class":"false"}}}'
        kubectl("patch", "storageclass", "standard", f"--patch={other}", what="choosing the default StorageClass")
        flags = [f"--kubeconfig={self.kubeconfig}", f"--root={state.volumes}"]
        start_agent(self._table, manifests.PROVISIONER, "volume_provisioner", flags)
        patch = json.dumps(manifests.gpu_patch(self._settings.gpus_per_node, GPU_RESOURCE))
        for node in self._workers():
            what = f"advertising GPUs on {node}"
            kubectl("patch", "node", node, "--subresource=status", "--type=json", f"--patch={patch}", what=what)

    def _workers(self) -> list[str]:
        selector = "--selector=!node-role.kubernetes.io/control-plane"
        nodes = self._kubectl.get("nodes", selector, what="listing nodes")["items"]
        return [node["metadata"]["name"] for node in nodes]

    def ensure_kuberay(self, report: Report) -> None:
        kuberay.ensure(self, report)

    def ensure_kueue(self, report: Report) -> None:
        kueue.ensure(self, report)

    def down(self, report: Report) -> None:
        take_down(self._state, self._settings, clear=self._clear, report=report)

    def _clear(self) -> None:
        run(delete_command(self._settings.name, self.kubeconfig), what="deleting the cluster", limit=120)
        self._table.stop(manifests.PROVISIONER, limit=5)
        clear_state(self._state)

    def _dead(self) -> list[str]:
        return [] if self._table.find(manifests.PROVISIONER) else [f"{manifests.PROVISIONER} does not run"]

    def _unwell(self) -> list[str]:
        return [] if self._kubectl.answers() else ["the API server does not answer"]

    def status(self) -> ClusterStatus:
        present = read_description(self._state)
        problems = ["not there"] if present is None else self._dead() or self._unwell()
        lines = problems or [f"{node} is Ready" for node in sorted(self._kubectl.ready_nodes())]
        return ClusterStatus(self._settings.name, "kind", not problems, self.kubeconfig, tuple(lines))

    def load_image(self, archive: Path, name: str) -> bool:
        identity = image_identity(archive, name)
        if all(self._image_of(node, name) == identity for node in self._workers()):
            return False
        run(load_command(self._settings.name, archive), what=f"loading {name}", limit=900)
        return True

    def _image_of(self, node: str, name: str) -> str | None:
        try:
            answer = run(inspect_command(node, name), what=f"looking for {name}")
        except ClusterError:  # crictl fails for an image that is not there
            return None
        return str(json.loads(answer)["status"]["id"])

    def logs(self, component: str) -> str:
        if component in UNITS:
            node = f"{kind_name(self._settings.name)}-control-plane"
            command = ["docker", "exec", node, "journalctl", f"--unit={component}", "--no-pager"]
            return run(command, what=f"reading the log of {component}")
        if component not in LABELS:
            raise ClusterError(f"no component {component}; there are: {', '.join(sorted([*UNITS, *LABELS]))}")
        selector = f"--selector={LABELS[component]}"
        return self._kubectl("logs", "--namespace=kube-system", selector, "--tail=-1", what=f"the log of {component}")

    def volume_path(self, namespace: str, claim: str) -> Path:
        return self._kubectl.volume_path(namespace, claim)
