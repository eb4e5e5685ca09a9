"""The embedded cluster does what a cluster does, survives being killed, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rltrain_cluster import ClusterError, clusters
from rltrain_cluster.backend import Backend
from rltrain_cluster.embedded import missing_requirements
from rltrain_cluster.kubectl import Kubectl
from rltrain_cluster.processes import ProcessTable
from rltrain_cluster.settings import StateDirectory
from rltrain_cluster.testing import (
    command_environment,
    command_line,
    kubectl_of,
    load_probe,
    phase_is,
    probe_pod,
    run_probe,
    silent,
    temporary_cluster,
    wait_for,
)
from rltrain_cluster.waiting import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

NAME = "itself"  # a cluster of these tests' own, beside the one that somebody may be working with


@pytest.fixture(scope="module")
def cluster() -> Iterator[Backend]:
    missing = missing_requirements()
    assert not missing, f"the embedded cluster cannot run here: {missing}"
    with temporary_cluster(NAME, "embedded", nodes=2, gpus_per_node=4, with_kuberay=True) as found:
        load_probe(found)
        yield found


@pytest.fixture(scope="module")
def kubectl(cluster: Backend) -> Kubectl:
    return kubectl_of(cluster)


@pytest.fixture(scope="module")
def web(kubectl: Kubectl) -> None:
    """A pod of the Service `web` and of the headless Service `peers` on each node."""
    for number in (1, 2):
        kubectl.apply(
            [
                probe_pod(
                    f"web-{number}",
                    ["serve", ":8080"],
                    node=f"node-{number}",
                    labels={"app": "web"},
                    hostname=f"web-{number}",
                    subdomain="peers",
                )
            ],
            "a server",
        )
    ports = [{"port": 80, "targetPort": 8080}]
    kubectl.apply(
        [
            service("web", {"selector": {"app": "web"}, "ports": ports}),
            service("peers", {"clusterIP": "None", "selector": {"app": "web"}, "ports": ports}),
        ],
        "Services",
    )
    kubectl("wait", "--for=condition=Ready", "pod", "--selector=app=web", "--timeout=60s", what="servers", limit=90)

    def has_both_endpoints() -> bool:
        selector = "--selector=kubernetes.io/service-name=web"
        slices = kubectl.get("endpointslices", selector, what="endpoints")["items"]
        return sum(len(item["endpoints"] or []) for item in slices) == 2

    wait_until("the Service's two endpoints", has_both_endpoints, 30)


def service(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


def test_up_again_changes_nothing(cluster: Backend, kubectl: Kubectl) -> None:
    before = kubectl.get("node", "node-1", what="node")["metadata"]["uid"]
    cluster.up(silent)
    cluster.ensure_kuberay(silent)
    assert kubectl.get("node", "node-1", what="node")["metadata"]["uid"] == before
    with pytest.raises(ClusterError, match=r"up with 2 node\(s\) of 4 GPUs"):
        clusters.wanted(NAME, None, 1, None).up(silent)


def test_services_and_names_work_from_every_node(kubectl: Kubectl, web: None) -> None:
    for node in ("node-1", "node-2"):
        answer = run_probe(kubectl, probe_pod(f"get-{node}", ["get", "http://web/"], node=node))
        assert answer.strip() in ("web-1", "web-2")
        for peer in ("web-1", "web-2"):
            url = f"http://{peer}.peers.default.svc.cluster.local:8080/"
            assert run_probe(kubectl, probe_pod(f"ask-{peer}-{node}", ["get", url], node=node)).strip() == peer


def test_unknown_name_does_not_exist(kubectl: Kubectl) -> None:
    pod = probe_pod("nowhere", ["resolve", "example.org"])
    kubectl.apply([pod], "a pod")
    wait_for(kubectl, "pod/nowhere", phase_is("Failed"), what="the failure")
    assert "no such host" in kubectl("logs", "nowhere", what="output")


def test_pod_reaches_its_own_service(kubectl: Kubectl, web: None) -> None:
    """Through the Service back to itself: the way that needs masquerading."""
    answers = {kubectl("exec", "web-1", "--", "/probe", "get", "http://web/", what="asking").strip() for _ in range(20)}
    assert answers == {"web-1", "web-2"}


def test_logs_and_exec(kubectl: Kubectl, web: None) -> None:
    assert kubectl("logs", "web-2", what="logs").strip() == "serving :8080"
    assert kubectl("exec", "web-2", "--", "/probe", "get", "http://localhost:8080/", what="exec").strip() == "web-2"


def test_claim_is_a_directory_that_pods_of_both_nodes_can_write(cluster: Backend, kubectl: Kubectl) -> None:
    spec = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}
    claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "shared"}, "spec": spec}
    kubectl.apply([claim], "a claim")
    for number in (1, 2):
        arguments = ["write", f"/data/{number}", f"text {number}"]
        run_probe(kubectl, probe_pod(f"write-{number}", arguments, node=f"node-{number}", claim="shared"))
    directory = cluster.volume_path("default", "shared")
    assert {path.name: path.read_text() for path in directory.iterdir()} == {"1": "text 1", "2": "text 2"}
    assert {path.stat().st_uid for path in directory.iterdir()} == {1000}
    kubectl("delete", "pod", "write-1", "write-2", "--now", what="deleting")
    kubectl("delete", "persistentvolumeclaim", "shared", what="deleting")
    wait_until("the directory to go with its claim", lambda: not directory.exists(), 30)


def test_gpus_are_counted(kubectl: Kubectl) -> None:
    for number in (1, 2, 3):
        kubectl.apply([probe_pod(f"gpu-{number}", ["serve", ":8080"], gpus=3)], "a pod with GPUs")
    for number in (1, 2):
        wait_for(kubectl, f"pod/gpu-{number}", phase_is("Running"), what="a pod with GPUs")

    def unschedulable(pod: dict[str, Any]) -> bool:
        return any(condition.get("reason") == "Unschedulable" for condition in pod["status"].get("conditions", []))

    left = wait_for(kubectl, "pod/gpu-3", unschedulable, what="the pod too many")
    assert "Insufficient nvidia.com/gpu" in left["status"]["conditions"][0]["message"]
    kubectl("delete", "pod", "gpu-1", "gpu-2", "gpu-3", "--now", what="deleting")


def test_image_is_loaded_once(cluster: Backend) -> None:
    assert load_probe(cluster) is False


def test_kuberay_makes_pods(kubectl: Kubectl) -> None:
    container = {"name": "ray-head", "image": "rltrain.local/probe:1", "imagePullPolicy": "Never"}
    head = {"rayStartParams": {}, "template": {"spec": {"containers": [container]}}}
    ray = {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": {"name": "ray"}, "spec": {}}
    kubectl.apply([{**ray, "spec": {"rayVersion": "2.50.0", "headGroupSpec": head}}], "a RayCluster")

    def has_head() -> bool:
        return len(kubectl.get("pods", "--selector=ray.io/cluster=ray", what="pods")["items"]) == 1

    wait_until("the head pod", has_head, 30)
    kubectl("delete", "raycluster", "ray", what="deleting")


def test_this_machine_reaches_services(kubectl: Kubectl, web: None) -> None:
    address = kubectl.get("service", "web", what="service")["spec"]["clusterIP"]
    straight = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with straight.open(f"http://{address}/", timeout=5) as answer:
        assert answer.read().decode().strip() in ("web-1", "web-2")


def traces(name: str) -> dict[str, Any]:
    """What a cluster of this name could have left on this machine, and what it could have changed."""

    def output(*command: str) -> str:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def mentions(path: Path, text: str) -> bool:
        try:
            return text.encode() in path.read_bytes()
        except OSError:
            return False

    state = str(StateDirectory.of(name).root) + "/"
    rules = [line.partition(" [")[0] for line in output("iptables-save").splitlines() if not line.startswith("#")]
    return {
        "links": [link["ifname"] for link in json.loads(output("ip", "-json", "link")) if f"-{name}" in link["ifname"]],
        "routes": [line for line in output("ip", "route").splitlines() if f"-{name}" in line],
        "rules": rules,
        "mounts": [line for line in Path("/proc/self/mounts").read_text().splitlines() if state in line],
        "cgroups": [str(path) for path in Path("/sys/fs/cgroup").glob(f"**/rltrain-{name}")],
        "processes": [str(path) for path in Path("/proc").glob("[0-9]*/cmdline") if mentions(path, state)],
        "directories": [path for path in ("/var/lib/kubelet", "/var/lib/cni", "/var/log/pods") if Path(path).exists()],
        "settings": {
            path: Path(f"/proc/sys/{path}").read_text()
            for path in ("net/ipv4/ip_forward", "vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops")
        },
    }


def test_killed_up_can_be_repeated_and_down_leaves_nothing() -> None:
    name = "killed"
    clusters.find(name).down(silent)
    before = traces(name)
    assert (before["links"], before["cgroups"], before["processes"]) == ([], [], [])
    state = StateDirectory.of(name)
    table = ProcessTable(state.run, state.logs)
    command = command_line("up", "--name", name, "--without-kuberay")
    first = subprocess.Popen(command, env=command_environment(), stderr=subprocess.DEVNULL)
    try:
        wait_until("the API server's process", lambda: table.find("kube-apiserver") is not None, 120, interval=0.01)
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert traces(name)["links"] == [f"rlt-{name}"]
    cluster = clusters.find(name)
    try:
        cluster.up(silent)
        assert cluster.status().running
        kubectl = kubectl_of(cluster)
        load_probe(cluster)
        kubectl.apply([probe_pod("left", ["serve", ":8080"])], "a pod that is there at the end")
        wait_for(kubectl, "pod/left", phase_is("Running"), what="the pod")
        os.kill(table.records()["kubelet-node-1"].pid, signal.SIGKILL)
        wait_until("the word of its end", lambda: cluster.status().lines == ("kubelet-node-1 does not run",), 10)
    finally:
        cluster.down(silent)
    assert traces(name) == before
    assert sorted(path.name for path in state.root.iterdir()) == ["images"]
