"""The command lines and configuration files of Kubernetes' own processes.

Pure: settings and addresses in, argument lists and documents out. Nothing here looks at the machine or starts anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rltrain_cluster.addresses import AddressPlan

API_PORT = 6443
CLUSTER_DOMAIN = "cluster.local"
DNS_READY_PORT = 8181

# How fast a lost node is noticed. With real pods on few cores a busy kubelet may be late; fake nodes never are.
REAL_NODES_GRACE_SECONDS = 40
FAKE_NODES_GRACE_SECONDS = 8
REAL_NODES_TOLERATION_SECONDS = 30
FAKE_NODES_TOLERATION_SECONDS = 3


@dataclass(frozen=True)
class ControlPlane:
    """Where a control plane listens and keeps its files. `address` is the gateway, or loopback without root."""

    address: str
    service_range: str
    certificates: Path
    kubeconfigs: Path
    data: Path
    api_port: int = API_PORT
    etcd_port: int = 2379
    etcd_peer_port: int = 2380
    controller_manager_port: int = 10257
    scheduler_port: int = 10259
    grace_seconds: int = REAL_NODES_GRACE_SECONDS
    toleration_seconds: int = REAL_NODES_TOLERATION_SECONDS

    @property
    def server(self) -> str:
        return f"https://{self.address}:{self.api_port}"

    def certificate(self, name: str) -> str:
        return str(self.certificates / name)

    def kubeconfig(self, name: str) -> str:
        return str(self.kubeconfigs / f"{name}.kubeconfig")


def etcd_flags(plane: ControlPlane) -> list[str]:
    """etcd with certificates on both sides; it does not wait for the disk, for nothing in it outlives the cluster."""
    client = f"https://{plane.address}:{plane.etcd_port}"
    peer = f"https://127.0.0.1:{plane.etcd_peer_port}"
    return [
        f"--data-dir={plane.data}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--client-cert-auth",
        f"--trusted-ca-file={plane.certificate('ca.crt')}",
        f"--cert-file={plane.certificate('etcd.crt')}",
        f"--key-file={plane.certificate('etcd.key')}",
        "--peer-client-cert-auth",
        f"--peer-trusted-ca-file={plane.certificate('ca.crt')}",
        f"--peer-cert-file={plane.certificate('etcd.crt')}",
        f"--peer-key-file={plane.certificate('etcd.key')}",
        "--unsafe-no-fsync",
        "--auto-compaction-mode=periodic",
        "--auto-compaction-retention=30m",
        "--log-level=warn",
    ]


def api_server_flags(plane: ControlPlane) -> list[str]:
    certificate = plane.certificate
    loopback = plane.address.startswith("127.")
    return [
        f"--etcd-servers=https://{plane.address}:{plane.etcd_port}",
        f"--etcd-cafile={certificate('ca.crt')}",
        f"--etcd-certfile={certificate('apiserver.crt')}",
        f"--etcd-keyfile={certificate('apiserver.key')}",
        f"--bind-address={plane.address}",
        f"--advertise-address={plane.address}",
        f"--secure-port={plane.api_port}",
        # A loopback address cannot be an endpoint of the Service `kubernetes`.
        *(["--endpoint-reconciler-type=none"] if loopback else []),
        f"--service-cluster-ip-range={plane.service_range}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        f"--client-ca-file={certificate('ca.crt')}",
        f"--tls-cert-file={certificate('apiserver.crt')}",
        f"--tls-private-key-file={certificate('apiserver.key')}",
        f"--kubelet-client-certificate={certificate('apiserver-kubelet.crt')}",
        f"--kubelet-client-key={certificate('apiserver-kubelet.key')}",
        f"--kubelet-certificate-authority={certificate('ca.crt')}",
        "--kubelet-preferred-address-types=InternalIP",
        f"--service-account-issuer=https://kubernetes.default.svc.{CLUSTER_DOMAIN}",
        f"--service-account-key-file={certificate('sa.pub')}",
        f"--service-account-signing-key-file={certificate('sa.key')}",
        f"--requestheader-client-ca-file={certificate('ca.crt')}",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--proxy-client-cert-file={certificate('front-proxy.crt')}",
        f"--proxy-client-key-file={certificate('front-proxy.key')}",
        f"--default-not-ready-toleration-seconds={plane.toleration_seconds}",
        f"--default-unreachable-toleration-seconds={plane.toleration_seconds}",
    ]


def _controller_flags(plane: ControlPlane, name: str, port: int) -> list[str]:
    kubeconfig = plane.kubeconfig(name)
    return [
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        f"--bind-address={plane.address}",
        f"--secure-port={port}",
        "--leader-elect=false",
        f"--client-ca-file={plane.certificate('ca.crt')}",
        f"--requestheader-client-ca-file={plane.certificate('ca.crt')}",
        "--kube-api-qps=500",
        "--kube-api-burst=1000",
    ]


def controller_manager_flags(plane: ControlPlane) -> list[str]:
    """The controllers share one identity and a large client budget: with one each and upstream's budget the first
    ServiceAccount, without which no pod is admitted, comes five seconds late."""
    return [
        *_controller_flags(plane, "controller-manager", plane.controller_manager_port),
        "--use-service-account-credentials=false",
        f"--service-account-private-key-file={plane.certificate('sa.key')}",
        f"--root-ca-file={plane.certificate('ca.crt')}",
        f"--cluster-signing-cert-file={plane.certificate('ca.crt')}",
        f"--cluster-signing-key-file={plane.certificate('ca.key')}",
        f"--node-monitor-grace-period={plane.grace_seconds}s",
        "--node-monitor-period=1s",
    ]


def scheduler_flags(plane: ControlPlane) -> list[str]:
    return _controller_flags(plane, "scheduler", plane.scheduler_port)


def kubelet_configuration(
    plane: ControlPlane, node: str, address: str, cgroup_root: str, resolv_conf: Path
) -> dict[str, Any]:
    """A KubeletConfiguration that runs on either version of control groups and never collects our imported images."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": address,
        "port": 10250,
        "readOnlyPort": 0,
        "healthzBindAddress": address,
        "healthzPort": 10248,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cgroup_root,
        "failCgroupV1": False,
        "failSwapOn": False,
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "tlsCertFile": plane.certificate(f"{node}.crt"),
        "tlsPrivateKeyFile": plane.certificate(f"{node}.key"),
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": plane.certificate("ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "clusterDomain": CLUSTER_DOMAIN,
        "clusterDNS": [plane.address],
        "resolvConf": str(resolv_conf),
        "maxPods": 200,
        "nodeLeaseDurationSeconds": plane.grace_seconds,
        "nodeStatusUpdateFrequency": "2s",
        "evictionHard": {
            "imagefs.available": "1%",
            "nodefs.available": "1%",
            "nodefs.inodesFree": "1%",
            "memory.available": "100Mi",
        },
        "imageGCHighThresholdPercent": 100,
        "serializeImagePulls": False,
        "registryPullQPS": 0,
        "kubeAPIQPS": 100,
        "kubeAPIBurst": 200,
    }


def kube_proxy_configuration(plane: ControlPlane, addresses: AddressPlan) -> dict[str, Any]:
    """iptables mode; conntrack's limits belong to the whole machine and are left alone."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "bindAddress": addresses.gateway,
        "healthzBindAddress": f"{addresses.gateway}:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        "clientConnection": {"kubeconfig": plane.kubeconfig("kube-proxy")},
        "clusterCIDR": str(addresses.pods),
        "detectLocalMode": "ClusterCIDR",
        "conntrack": {
            "maxPerCore": 0,
            "min": 0,
            "tcpEstablishedTimeout": "0s",
            "tcpCloseWaitTimeout": "0s",
        },
    }


def corefile(address: str, kubeconfig: str) -> str:
    """CoreDNS for the cluster's own names; all other names do not exist, for pods have no way out.

    No cache: the plugin answers from memory, and a cached "no such name" would hide a new pod's name for seconds.
    """
    return f"""\
{CLUSTER_DOMAIN}:53 in-addr.arpa:53 {{
    bind {address}
    errors
    health {address}:8080
    ready {address}:{DNS_READY_PORT}
    kubernetes {CLUSTER_DOMAIN} in-addr.arpa {{
        kubeconfig {kubeconfig}
        ttl 1
    }}
}}
.:53 {{
    bind {address}
    errors
    template ANY ANY . {{
        rcode NXDOMAIN
    }}
}}
"""


def cni_configuration(addresses: AddressPlan, state: Path) -> dict[str, Any]:
    """Every pod on a routed virtual cable of its own: all nodes of a cluster share one network namespace and one pool
    of addresses, kept in `state`."""
    first, last = addresses.pod_range
    pool = {"subnet": str(addresses.pods), "rangeStart": first, "rangeEnd": last, "gateway": addresses.gateway}
    return {
        "cniVersion": "0.4.0",
        "name": "rltrain",
        "plugins": [
            {
                "type": "ptp",
                "ipMasq": False,
                "ipam": {
                    "type": "host-local",
                    "dataDir": str(state),
                    "ranges": [[pool]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            }
        ],
    }


def containerd_configuration(root: Path, cni_plugins: str, cni_configurations: Path, sandbox_image: str) -> str:
    """containerd's TOML for one node. Its socket and state lie in /run, which is the node's own.

    `restrict_oom_score_adj`: without CAP_SYS_RESOURCE a pod's sandbox cannot be given the score that kubelet asks for,
    and runc then fails with "can't get final child's PID from pipe".
    """
    return f"""\
version = 2
root = "{root}"
state = "/run/containerd/state"

[grpc]
  address = "/run/containerd/containerd.sock"

[ttrpc]
  address = "/run/containerd/containerd.sock.ttrpc"

[debug]
  level = "warn"

[plugins."io.containerd.internal.v1.opt"]
  path = "/run/containerd/opt"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{sandbox_image}"
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{cni_plugins}"
    conf_dir = "{cni_configurations}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
"""
