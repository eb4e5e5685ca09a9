"""A cluster's own corner of the machine: a network namespace, and mount namespaces for the control plane and each node.

Everything that a cluster does to interfaces, routes, firewall, sysctls and mounts happens inside and ends with its
last process: there is nothing to undo on the machine but one virtual cable, which goes with the namespace. Inside,
pods hang on routed virtual cables, so neither a bridge nor the kernel's bridge filter is needed, and two clusters never
see each other's firewall rules. This module must not know Kubernetes.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from rltrain_cluster.addresses import AddressPlan
from rltrain_cluster.errors import ClusterError
from rltrain_cluster.processes import ProcessRecord, ProcessTable, run
from rltrain_cluster.settings import cache_directory
from rltrain_cluster.waiting import wait_until

# What kubelet writes to without asking. Inside a node these are files of ours, so that the machine keeps its values.
SHIELDED_SYSCTLS = {"vm/overcommit_memory": "1", "kernel/panic": "10", "kernel/panic_on_oops": "1"}

# Where the programs insist on keeping things, whatever they are told: each node sees its own, empty directories there.
REPLACED_DIRECTORIES = ("/var/lib", "/var/log")
# Of those, what may grow large and so lies on disk, below the node's directory; the rest is in memory.
DISK_DIRECTORIES = ("/var/lib/kubelet", "/var/log/pods")


@dataclass(frozen=True)
class Namespace:
    """Namespaces that a sleeping process holds open."""

    holder: ProcessRecord

    def inside(self, command: Sequence[str]) -> list[str]:
        """The command line that runs `command` inside."""
        return ["nsenter", f"--target={self.holder.pid}", "--net", "--mount", "--", *command]

    def run(self, command: Sequence[str], what: str, limit: float = 60.0) -> str:
        return run(self.inside(command), what=what, limit=limit)


def host_interface(cluster: str) -> str:
    """The machine's end of the virtual cable into the cluster."""
    return f"rlt-{cluster}"


def networks_in_use() -> list[IPv4Network]:
    """Networks that this machine has routes or addresses for; the default route is none."""
    routes = json.loads(run(["ip", "-json", "-4", "route", "show", "table", "all"], what="reading routes"))
    destinations = [route["dst"] for route in routes if route["dst"] != "default"]
    return [IPv4Network(destination, strict=False) for destination in destinations]


def open_cluster(table: ProcessTable, cluster: str, plan: AddressPlan) -> Namespace:
    """Make the network namespace, cable it to the machine, give it the control plane's and the nodes' addresses."""
    namespace = _hold(table, "namespace", ["unshare", "--net", "--mount"])
    _private_run_directory(namespace)
    outside, inside = host_interface(cluster), "eth0"
    pid = str(namespace.holder.pid)
    what = "making the cluster's network"
    run(["ip", "link", "add", outside, "type", "veth", "peer", "name", inside, "netns", pid], what=what)
    for command in (
        ["addr", "add", f"{plan.host}/32", "dev", outside],
        ["link", "set", outside, "up"],
    ):
        run(["ip", *command], what=what)
    for command in (
        ["link", "set", "lo", "up"],
        ["addr", "add", f"{plan.gateway}/32", "dev", inside],
        ["link", "set", inside, "up"],
        ["route", "add", f"{plan.host}/32", "dev", inside, "src", plan.gateway],
        # The API server calls webhooks by their Services: without a route no packet gets to where those are translated.
        ["route", "add", str(plan.services), "dev", inside, "src", plan.gateway],
    ):
        namespace.run(["ip", *command], what)
    for command in (
        ["route", "add", f"{plan.gateway}/32", "dev", outside, "src", plan.host],
        ["route", "add", str(plan.pods), "via", plan.gateway, "dev", outside, "src", plan.host],
        ["route", "add", str(plan.services), "via", plan.gateway, "dev", outside, "src", plan.host],
    ):
        run(["ip", *command], what=what)
    run(namespace.inside(["tee", "/proc/sys/net/ipv4/ip_forward"]), what=what, text="1\n")
    return namespace


def open_node(table: ProcessTable, cluster: Namespace, name: str, address: str, directory: Path) -> Namespace:
    """Give one node its address and its own view of the directories that kubelet and containerd insist on."""
    cluster.run(["ip", "addr", "add", f"{address}/32", "dev", "eth0"], f"giving {name} its address")
    namespace = _hold(table, f"namespace-{name}", cluster.inside(["unshare", "--mount"]))
    what = f"making the mounts of {name}"
    # New mounts must reach pods that ask for it (mountPropagation), and never the machine.
    namespace.run(["mount", "--make-rshared", "/"], what)
    _private_run_directory(namespace)
    for command in node_mounts(directory, cache_directory()):
        namespace.run(command, what)
    for sysctl, value in SHIELDED_SYSCTLS.items():
        file = directory / "sysctl" / sysctl.replace("/", "-")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{value}\n")
        namespace.run(["mount", "--bind", str(file), f"/proc/sys/{sysctl}"], what)
    return namespace


def node_mounts(directory: Path, cache: Path) -> list[list[str]]:
    """The commands that replace a node's /var/lib and /var/log; nothing has to exist on the machine, nor is made there.

    (A mount point of the machine's own would tie clusters to each other: removing it ends the mounts of all of them.)
    """
    hidden = any(cache.is_relative_to(place) for place in REPLACED_DIRECTORIES)
    kept = ["/run/kept-node", *(["/run/kept-cache"] if hidden else [])]
    commands = [["mkdir", "-p", *kept, str(directory)], ["mount", "--bind", str(directory), kept[0]]]
    if hidden:
        commands.append(["mount", "--rbind", str(cache), kept[1]])
    commands += [["mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", place] for place in REPLACED_DIRECTORIES]
    if hidden:
        commands += [["mkdir", "-p", str(cache)], ["mount", "--rbind", kept[1], str(cache)]]
    for place in DISK_DIRECTORIES:
        own = f"{kept[0]}/{place.strip('/').replace('/', '-')}"
        commands += [["mkdir", "-p", own, place], ["mount", "--bind", own, place]]
    return commands


def _private_run_directory(namespace: Namespace) -> None:
    namespace.run(["mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", "/run"], "giving the cluster its own /run")


def _hold(table: ProcessTable, name: str, command: Sequence[str]) -> Namespace:
    record = table.start(name, [*command, "sleep", "infinity"])

    def holds() -> bool:
        table.require_alive(name)
        return Path(f"/proc/{record.pid}/comm").read_text().strip() == "sleep"

    wait_until(f"opening {name}", holds, limit=10, interval=0.01)
    return Namespace(record)


def has_cable(cluster: str) -> bool:
    """Whether this machine has an end of a cable into a cluster of this name."""
    return Path(f"/sys/class/net/{host_interface(cluster)}").exists()


def remove_cable(cluster: str) -> None:
    """Remove the machine's end of the cable. The kernel does so too when the namespace ends, but some time later."""
    interface = host_interface(cluster)
    if has_cable(cluster):
        with contextlib.suppress(ClusterError):  # the kernel was faster
            run(["ip", "link", "delete", interface], what="removing the cluster's network")
        gone = f"waiting for {interface} to go"
        wait_until(gone, lambda: not has_cable(cluster), limit=10)
