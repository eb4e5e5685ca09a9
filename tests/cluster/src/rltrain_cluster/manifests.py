"""The objects that make an API server a cluster: rights of our own processes and the default StorageClass. Pure."""

from __future__ import annotations

from typing import Any

from rltrain_cluster import volume_provisioner

Object = dict[str, Any]


def _rights(process: str, rules: list[Object]) -> list[Object]:
    name = f"rltrain:{process}"
    return [
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": name},
            "rules": rules,
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user(process)}],
        },
    ]


def _rule(group: str, resources: list[str], verbs: list[str]) -> Object:
    return {"apiGroups": [group], "resources": resources, "verbs": verbs}


READ = ["get", "list", "watch"]

# Our own processes: each name is also that of the kubeconfig and of the log.
COREDNS = "coredns"
PROVISIONER = "local-volumes"
FAKE_NODES = "fake-nodes"
KUBE_PROXY = "kube-proxy"


def user(name: str) -> str:
    """The user as which a process of ours speaks to the API server."""
    return f"system:{name}"


def storage_class() -> Object:
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {
            "name": volume_provisioner.STORAGE_CLASS,
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
        },
        "provisioner": volume_provisioner.PROVISIONER,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "Immediate",
    }


def cluster_objects() -> list[Object]:
    """What `up` applies as soon as the API server answers."""
    return [
        *_rights(
            COREDNS,
            [
                _rule("", ["endpoints", "services", "pods", "namespaces"], READ),
                _rule("discovery.k8s.io", ["endpointslices"], READ),
            ],
        ),
        *_rights(
            PROVISIONER,
            [
                _rule("", ["persistentvolumeclaims"], READ),
                _rule("", ["persistentvolumes"], [*READ, "create", "delete"]),
            ],
        ),
        *_rights(
            FAKE_NODES,
            [
                _rule("", ["nodes"], [*READ, "create"]),
                _rule("", ["pods"], [*READ, "delete"]),
                _rule("", ["nodes/status", "pods/status"], ["patch"]),
                _rule("coordination.k8s.io", ["leases"], ["get", "create", "patch"]),
            ],
        ),
        storage_class(),
    ]


def gpu_patch(count: int, resource: str) -> list[Object]:
    """A JSON patch of a node's status that advertises `count` devices; kubelet keeps what it does not know."""
    key = resource.replace("~", "~0").replace("/", "~1")
    return [
        {"op": "add", "path": f"/status/{field}/{key}", "value": str(count)} for field in ("capacity", "allocatable")
    ]
