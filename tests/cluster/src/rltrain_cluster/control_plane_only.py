"""The control-plane back end: a real API server with fake nodes, for anybody, on loopback.

No root, no containers, no network of its own: etcd, the API server, the controllers, the scheduler, KubeRay's
operator, Kueue's controller and the agent that plays the nodes are ordinary processes of the user. Good for tests of
what the API server and the controllers do, for thousands of pods, and for failures on command (see `fake_pods` and
`fake_nodes`).
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import yaml

from rltrain_cluster import kueue, manifests
from rltrain_cluster.backend import ClusterStatus, Report
from rltrain_cluster.binaries import Binaries, ensure_binaries, ensure_kueue
from rltrain_cluster.components import (
    FAKE_NODES_GRACE_SECONDS,
    FAKE_NODES_TOLERATION_SECONDS,
    ControlPlane,
)
from rltrain_cluster.control_plane import (
    ControlPlaneProcesses,
    cluster_kubectl,
    stop_control_plane,
    write_certificates,
)
from rltrain_cluster.errors import ClusterError
from rltrain_cluster.kuberay import apply_definitions
from rltrain_cluster.local_state import (
    Description,
    clear_state,
    locked,
    read_description,
    take_down,
    take_up,
    write_description,
)
from rltrain_cluster.processes import ProcessTable
from rltrain_cluster.settings import ClusterSettings, StateDirectory
from rltrain_cluster.waiting import answers, wait_until

LOOPBACK = "127.0.0.1"
SERVICES = "10.96.0.0/16"  # addresses that nothing routes: there is no network behind them
FIRST_SERVICE = "10.96.0.1"
KUBERAY = "kuberay-operator"  # its process, its kubeconfig, its user
KUEUE = "kueue"  # the same


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on right now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for candidate in sockets:
            candidate.bind((LOOPBACK, 0))
        return [int(candidate.getsockname()[1]) for candidate in sockets]


def unwrapped(command: Sequence[str]) -> list[str]:
    """Nothing stands between this machine and the control plane."""
    return list(command)


def kuberay_flags(kubeconfig: str, metrics_port: int, health_port: int) -> list[str]:
    """KubeRay's operator as a process of the machine, which reaches Ray heads through the API server only."""
    return [
        f"--kubeconfig={kubeconfig}",
        "--use-kubernetes-proxy",
        "--enable-leader-election=false",
        "--reconcile-concurrency=4",
        f"--metrics-addr={LOOPBACK}:{metrics_port}",
        f"--health-probe-bind-address={LOOPBACK}:{health_port}",
    ]


def kueue_flags(kubeconfig: str, config: str) -> list[str]:
    """Kueue's controller as a process of the machine; what the queues show of themselves wants a network of pods."""
    return [f"--kubeconfig={kubeconfig}", f"--config={config}", "--feature-gates=VisibilityOnDemand=false"]


class ControlPlaneCluster:
    """One API server with fake nodes, by its name."""

    def __init__(self, settings: ClusterSettings) -> None:
        self._settings = settings
        self._state = StateDirectory.of(settings.name)
        self._table = ProcessTable(self._state.run, self._state.logs)

    @property
    def kubeconfig(self) -> Path:
        return self._state.kubeconfig

    def up(self, report: Report) -> None:
        binaries = ensure_binaries(report)
        take_up(
            self._state,
            self._settings,
            dead=lambda _: self._dead(),
            unwell=lambda _: self._unwell(),
            clear=self._clear,
            create=lambda: self._create(binaries, report),
            report=report,
        )

    def _create(self, binaries: Binaries, report: Report) -> None:
        state, settings = self._state, self._settings
        clear_state(state)
        api, etcd, peer, controllers, scheduler = free_ports(5)
        write_description(state, Description("controlplane", settings))
        state.configuration.mkdir()
        plane = ControlPlane(
            address=LOOPBACK,
            service_range=SERVICES,
            certificates=state.certificates,
            kubeconfigs=state.configuration,
            data=state.etcd,
            api_port=api,
            etcd_port=etcd,
            etcd_peer_port=peer,
            controller_manager_port=controllers,
            scheduler_port=scheduler,
            grace_seconds=FAKE_NODES_GRACE_SECONDS,
            toleration_seconds=FAKE_NODES_TOLERATION_SECONDS,
        )
        users = {name: manifests.user(name) for name in (manifests.PROVISIONER, manifests.FAKE_NODES, KUBERAY, KUEUE)}
        write_certificates(plane, state, f"rltrain-{settings.name}", FIRST_SERVICE, users, nodes={})
        control = ControlPlaneProcesses(plane, state, self._table, binaries, unwrapped)
        report(f"starting an API server on {plane.server} with {settings.nodes} fake node(s)")
        control.start_api()
        control.wait_for_api()
        control.start_controllers()
        flags = [
            f"--kubeconfig={plane.kubeconfig(manifests.FAKE_NODES)}",
            f"--gpus={settings.gpus_per_node}",
            f"--lease-seconds={plane.grace_seconds}",
            *settings.node_names,
        ]
        control.start_agent(manifests.FAKE_NODES, "fake_nodes", flags)
        names = set(settings.node_names)
        control.wait_for_nodes(names, lambda: self._table.log_tail(manifests.FAKE_NODES))
        control.wait_for_account()
        report("all nodes are Ready")

    def ensure_kuberay(self, report: Report) -> None:
        """Run KubeRay's operator as a process of this machine; nothing to do if it runs."""
        with locked(self._state, self._settings.name):
            if self._table.find(KUBERAY) is not None:
                return
            binaries = ensure_binaries(report)
            report("starting KubeRay's operator")
            apply_definitions(cluster_kubectl(binaries, self.kubeconfig), manifests.user(KUBERAY), report)
            metrics, health = free_ports(2)
            flags = kuberay_flags(str(self._state.configuration / f"{KUBERAY}.kubeconfig"), metrics, health)
            self._table.start(KUBERAY, [binaries.path("ray-operator"), *flags])

            def ready() -> bool:
                self._table.require_alive(KUBERAY)
                return answers(f"http://{LOOPBACK}:{health}/readyz")

            wait_until("waiting for KubeRay's operator", ready, 60, explain=lambda: self._table.log_tail(KUBERAY))

    def ensure_kueue(self, report: Report) -> None:
        """Run Kueue's controller as a process of this machine; nothing to do if it runs."""
        with locked(self._state, self._settings.name):
            if self._table.find(KUEUE) is not None:
                return
            binaries = ensure_binaries(report)
            controller = ensure_kueue(report)
            report("starting Kueue's controller")
            webhooks, health = free_ports(2)
            kubectl = cluster_kubectl(binaries, self.kubeconfig)
            documents = kueue.rendered(binaries, report)
            kubectl.apply(
                kueue.outside_documents(documents, manifests.user(KUEUE), webhooks), "applying Kueue's definitions"
            )
            kueue.wait_for_definitions(kubectl)
            certificates = self._state.configuration / "kueue-webhooks"
            config = self._state.configuration / "kueue.yaml"
            config.write_text(yaml.safe_dump(kueue.configuration(LOOPBACK, webhooks, health, certificates)))
            flags = kueue_flags(str(self._state.configuration / f"{KUEUE}.kubeconfig"), str(config))
            self._table.start(KUEUE, [controller.path("kueue"), *flags])

            def ready() -> bool:
                self._table.require_alive(KUEUE)
                return kueue.write_certificates(kubectl, certificates) and answers(f"http://{LOOPBACK}:{health}/readyz")

            wait_until("waiting for Kueue's controller", ready, 90, explain=lambda: self._table.log_tail(KUEUE))

    def down(self, report: Report) -> None:
        take_down(self._state, self._settings, clear=self._clear, report=report)

    def _clear(self) -> None:
        for name in (KUEUE, KUBERAY, manifests.FAKE_NODES):
            self._table.stop(name, limit=5)
        stop_control_plane(self._table)
        clear_state(self._state)

    def _dead(self) -> list[str]:
        """Which of the cluster's processes are gone."""
        expected = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"]
        expected += [manifests.PROVISIONER, manifests.FAKE_NODES]
        expected += [name for name in (KUBERAY, KUEUE) if name in self._table.records()]
        return [f"{name} does not run" for name in expected if self._table.find(name) is None]

    def _unwell(self) -> list[str]:
        """What of the living cluster does not answer. Nodes do not count: tests lose them on purpose."""
        kubectl = cluster_kubectl(ensure_binaries(lambda _: None), self.kubeconfig)
        return [] if kubectl.answers() else ["the API server does not answer"]

    def status(self) -> ClusterStatus:
        present = read_description(self._state)
        if present is None:
            return ClusterStatus(self._settings.name, "controlplane", False, self.kubeconfig, ("not there",))
        problems = self._dead() or self._unwell()
        lines = problems or [f"{present.settings.nodes} fake node(s) of {present.settings.gpus_per_node} GPUs"]
        return ClusterStatus(self._settings.name, "controlplane", not problems, self.kubeconfig, tuple(lines))

    def load_image(self, archive: Path, name: str) -> bool:
        """Fake nodes start every pod whatever its image: there is never anything to load."""
        return False

    def logs(self, component: str) -> str:
        return self._table.read_log(component)

    def volume_path(self, namespace: str, claim: str) -> Path:
        if read_description(self._state) is None:
            raise ClusterError(f"cluster {self._settings.name} is not up (python -m rltrain_cluster up)")
        return cluster_kubectl(ensure_binaries(lambda _: None), self.kubeconfig).volume_path(namespace, claim)
