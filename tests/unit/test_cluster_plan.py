"""Addresses, flags and configuration files of a local cluster: pure, so nothing runs here."""

from __future__ import annotations

import os
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
import yaml

from rltrain_cluster import components, manifests
from rltrain_cluster.addresses import BLOCKS, AddressPlan, choose_plan
from rltrain_cluster.certificates import Authority, Identity
from rltrain_cluster.components import ControlPlane
from rltrain_cluster.errors import ClusterError
from rltrain_cluster.kubernetes_api import load_credentials
from rltrain_cluster.namespaces import node_mounts
from rltrain_cluster.settings import ClusterSettings


def make_plane(address: str = "10.244.0.1") -> ControlPlane:
    return ControlPlane(address, "10.96.0.0/21", Path("/s/pki"), Path("/s/config"), Path("/s/etcd"))


CHOICES = {
    "an empty machine": ([], 0),
    "a network elsewhere": (["192.168.0.0/16", "172.17.0.0/16"], 0),
    "pods' block taken": (["10.244.0.0/24"], 1),
    "Services' block taken": (["10.96.7.255/32"], 1),
    "one host inside": (["10.244.0.9/32", "10.244.8.1/32"], 2),
}


@pytest.mark.parametrize("case", CHOICES, ids=list(CHOICES))
def test_first_free_block_is_chosen(case: str) -> None:
    taken, index = CHOICES[case]
    assert choose_plan([IPv4Network(network) for network in taken]) == AddressPlan.numbered(index)


def test_no_free_block_says_so() -> None:
    with pytest.raises(ClusterError, match="no free addresses"):
        choose_plan([IPv4Network("10.0.0.0/8")])


def test_clusters_never_share_an_address() -> None:
    blocks = [block for index in range(BLOCKS) for block in (AddressPlan.numbered(index).pods,)]
    services = [AddressPlan.numbered(index).services for index in range(BLOCKS)]
    every = [*blocks, *services]
    assert not any(a.overlaps(b) for number, a in enumerate(every) for b in every[:number])


def test_nodes_pods_and_host_have_different_addresses() -> None:
    plan = AddressPlan.numbered(3)
    first, last = (IPv4Address(address) for address in plan.pod_range)
    fixed = [IPv4Address(plan.gateway), IPv4Address(plan.host), *(IPv4Address(plan.node(n)) for n in range(1, 51))]
    assert len(set(fixed)) == 52
    assert not any(first <= address <= last for address in fixed)
    assert all(address in plan.pods for address in (*fixed, first, last))


def test_loopback_cannot_be_an_endpoint() -> None:
    assert "--endpoint-reconciler-type=none" in components.api_server_flags(make_plane("127.0.0.1"))
    assert "--endpoint-reconciler-type=none" not in components.api_server_flags(make_plane())


def test_lease_and_grace_agree() -> None:
    plane = make_plane()
    kubelet = components.kubelet_configuration(plane, "node-1", "10.244.0.10", "/g", Path("/r"))
    assert f"--node-monitor-grace-period={kubelet['nodeLeaseDurationSeconds']}s" in (
        components.controller_manager_flags(plane)
    )


def test_flags_name_every_file_that_is_made(tmp_path: Path) -> None:
    plane = ControlPlane("10.244.0.1", "10.96.0.0/21", tmp_path, tmp_path, tmp_path / "etcd")
    authority = Authority(tmp_path)
    authority.issue_service_account_keys()
    for name in ("etcd", "apiserver", "apiserver-kubelet", "front-proxy", "scheduler", "controller-manager"):
        authority.issue(Identity(name, name, hosts=["127.0.0.1"]))
    for name in ("scheduler", "controller-manager"):
        authority.write_kubeconfig(name, plane.server, Path(plane.kubeconfig(name)), "c")
    flags = [
        *components.etcd_flags(plane),
        *components.api_server_flags(plane),
        *components.scheduler_flags(plane),
        *components.controller_manager_flags(plane),
    ]
    files = {flag.partition("=")[2] for flag in flags if f"={tmp_path}/" in flag} - {str(tmp_path / "etcd")}
    assert len(files) >= 12
    assert [file for file in files if not Path(file).exists()] == []


def test_kubeconfig_is_private_and_whole(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "pki")
    authority.issue(Identity("admin", "admin", "system:masters"))
    path = tmp_path / "admin.kubeconfig"
    authority.write_kubeconfig("admin", "https://127.0.0.1:1", path, "here")
    assert path.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "pki" / "admin.key").stat().st_mode & 0o777 == 0o600
    server, context = load_credentials(path)
    assert server == "https://127.0.0.1:1"
    assert context.cert_store_stats()["x509_ca"] == 1


def test_corefile_answers_for_the_cluster_and_denies_the_rest() -> None:
    text = components.corefile("10.244.0.1", "/s/coredns.kubeconfig")
    own, rest = text.split(".:53 {")
    assert "kubernetes cluster.local" in own
    assert "kubeconfig /s/coredns.kubeconfig" in own
    assert "rcode NXDOMAIN" in rest
    assert text.count("bind 10.244.0.1") == 2


def test_cni_pool_lies_within_the_block() -> None:
    plan = AddressPlan.numbered(1)
    (plugin,) = components.cni_configuration(plan, Path("/s"))["plugins"]
    ((pool,),) = plugin["ipam"]["ranges"]
    assert (pool["subnet"], pool["gateway"]) == (str(plan.pods), plan.gateway)
    assert (pool["rangeStart"], pool["rangeEnd"]) == plan.pod_range


def test_containerd_configuration_is_toml() -> None:
    import tomllib

    text = components.containerd_configuration(Path("/images/node-1"), "/usr/lib/cni", Path("/s/cni"), "pause:1")
    cri = tomllib.loads(text)["plugins"]["io.containerd.grpc.v1.cri"]
    assert cri["restrict_oom_score_adj"] is True
    assert (cri["sandbox_image"], cri["cni"]["bin_dir"]) == ("pause:1", "/usr/lib/cni")


def test_gpu_patch_escapes_the_resource() -> None:
    assert manifests.gpu_patch(4, "nvidia.com/gpu") == [
        {"op": "add", "path": "/status/capacity/nvidia.com~1gpu", "value": "4"},
        {"op": "add", "path": "/status/allocatable/nvidia.com~1gpu", "value": "4"},
    ]


def test_cluster_objects_are_documents() -> None:
    objects = manifests.cluster_objects()
    assert yaml.safe_load_all(yaml.safe_dump_all(objects))
    default = [item for item in objects if item["kind"] == "StorageClass"]
    assert [item["metadata"]["annotations"] for item in default] == [
        {"storageclass.kubernetes.io/is-default-class": "true"}
    ]
    roles = {item["metadata"]["name"] for item in objects if item["kind"] == "ClusterRole"}
    bindings = {item["roleRef"]["name"] for item in objects if item["kind"] == "ClusterRoleBinding"}
    assert roles == bindings
    assert all("*" not in rule["verbs"] for item in objects for rule in item.get("rules", []))


@pytest.mark.parametrize(
    ("cache", "carried"),
    [("/srv/cache/rltrain", False), ("/var/lib/service/cache", True)],
    ids=["home", "var-lib"],
)
def test_node_sees_the_cache_though_its_place_is_replaced(cache: str, carried: bool) -> None:
    commands = node_mounts(Path(cache) / "cluster/a/nodes/node-1", Path(cache))
    binds = [command[-1] for command in commands if command[0] == "mount" and "bind" in command[1]]
    assert (cache in binds) is carried
    places = [command[-1] for command in commands if command[0] == "mount"]
    assert places.index("/var/lib") < places.index("/var/lib/kubelet")


BAD_SETTINGS = {
    "upper case": {"name": "Big"},
    "too long for an interface": {"name": "abcdefghij"},
    "no nodes": {"nodes": 0},
    "too many nodes": {"nodes": 51},
    "negative GPUs": {"gpus_per_node": -1},
}


@pytest.mark.parametrize("case", BAD_SETTINGS, ids=list(BAD_SETTINGS))
def test_bad_settings_are_refused(case: str) -> None:
    with pytest.raises(ClusterError, match="--"):
        ClusterSettings(**BAD_SETTINGS[case])  # type: ignore[arg-type] # the table mixes fields


def test_longest_name_fits_an_interface() -> None:
    from rltrain_cluster.namespaces import host_interface

    assert len(os.fsencode(host_interface(ClusterSettings("abcdefghi").name))) <= 15
