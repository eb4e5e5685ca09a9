"""Kueue on a cluster: its controller with its own chart, in a pod or as a process of this machine.

Everything applied is what the chart of Kueue's Go module renders. Outside of the cluster the documents are turned to a
controller on loopback: its webhook Service becomes an alias of this machine, and only the webhooks of Ray's and of
Kueue's own kinds stay, for the controller is told to queue nothing else. This module must not know how the cluster was
made.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from rltrain_cluster.backend import Backend, Report
from rltrain_cluster.binaries import Binaries, ensure_binaries, ensure_kueue, kueue_source
from rltrain_cluster.errors import ClusterError
from rltrain_cluster.image_archive import ImageSpec, write_docker_archive
from rltrain_cluster.kubectl import Kubectl
from rltrain_cluster.processes import plain_environment, run
from rltrain_cluster.settings import KUEUE_VERSION, cache_directory
from rltrain_cluster.waiting import wait_until

Object = dict[str, Any]

NAMESPACE = "kueue-system"
RELEASE = "kueue"
WEBHOOK_SERVICE = "kueue-webhook-service"
WEBHOOK_SECRET = "kueue-webhook-server-cert"
IMAGE_REPOSITORY = "rltrain.local/kueue"
MANAGER_VALUES = "controllerManager.manager"
INSTALL_LIMIT = 240  # seconds until the controller is ready
DEFINITIONS_LIMIT = 60
FRAMEWORKS = ("ray.io/raycluster", "ray.io/rayjob", "ray.io/rayservice")

_WEBHOOK_KINDS = ("raycluster", "rayjob", "rayservice", "workload", "clusterqueue", "cohort", "resourceflavor")
_RIGHTS = ("kueue-manager-role", "kueue-manager-secrets-role")
_RBAC = "rbac.authorization.k8s.io"


def rendered(binaries: Binaries, report: Report) -> list[Object]:
    """Every document of Kueue's own chart."""
    chart = kueue_source(report) / "charts" / "kueue"
    command = [binaries.path("helm"), "template", RELEASE, str(chart), f"--namespace={NAMESPACE}"]
    text = run(command, what="rendering Kueue's chart", environment=_helm_environment())
    return [document for document in yaml.load_all(text, Loader=yaml.CSafeLoader) if document]


def outside_documents(documents: Sequence[Object], user: str, webhook_port: int) -> list[Object]:
    """The documents for a controller that runs as a process of this machine and speaks to the API server as `user`."""
    alias = {"type": "ExternalName", "externalName": "localhost"}
    metadata = {"name": WEBHOOK_SERVICE, "namespace": NAMESPACE}
    found: list[Object] = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": alias},
    ]
    for document in documents:
        kind, name = document["kind"], document["metadata"]["name"]
        if kind == "CustomResourceDefinition":
            conversion = document["spec"].get("conversion")
            if conversion is not None:
                conversion["webhook"]["clientConfig"]["service"]["port"] = webhook_port
            found.append(document)
        elif kind in ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"):
            document["webhooks"] = [hook for hook in document["webhooks"] if _webhook_kind(hook) in _WEBHOOK_KINDS]
            for hook in document["webhooks"]:
                hook["clientConfig"]["service"]["port"] = webhook_port
            found.append(document)
        elif kind == "Secret" and name == WEBHOOK_SECRET:
            found.append(document)
        elif kind in ("ClusterRole", "Role") and name in _RIGHTS:
            found += [document, _binding(document, user)]
    return found


def _webhook_kind(hook: Object) -> str:
    """`mraycluster.kb.io` and `vraycluster.kb.io` are those of a raycluster."""
    return str(hook["name"]).split(".", 1)[0][1:]


def _binding(role: Object, user: str) -> Object:
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": f"{role['kind']}Binding",
        "metadata": {key: role["metadata"][key] for key in ("name", "namespace") if key in role["metadata"]},
        "roleRef": {"apiGroup": _RBAC, "kind": role["kind"], "name": role["metadata"]["name"]},
        "subjects": [{"apiGroup": _RBAC, "kind": "User", "name": user}],
    }


def configuration(address: str, webhook_port: int, health_port: int, certificates: Path) -> Object:
    """Kueue's own configuration for a process on `address`: Ray's kinds alone, nobody to share the leadership with."""
    return {
        "apiVersion": "config.kueue.x-k8s.io/v1beta2",
        "kind": "Configuration",
        "namespace": NAMESPACE,
        "health": {"healthProbeBindAddress": f"{address}:{health_port}"},
        "metrics": {"bindAddress": "0"},
        "webhook": {"host": address, "port": webhook_port, "certDir": str(certificates)},
        "leaderElection": {"leaderElect": False},
        "internalCertManagement": {
            "enable": True,
            "webhookServiceName": WEBHOOK_SERVICE,
            "webhookSecretName": WEBHOOK_SECRET,
        },
        "clientConnection": {"qps": 300, "burst": 500},
        "integrations": {"frameworks": list(FRAMEWORKS)},
    }


def write_certificates(kubectl: Kubectl, directory: Path) -> bool:
    """What a kubelet would mount: the certificate that Kueue has made for itself; False until it has."""
    what = "reading the certificate of Kueue's webhooks"
    data = kubectl.get("secret", WEBHOOK_SECRET, f"--namespace={NAMESPACE}", what=what).get("data") or {}
    if not (data.get("tls.crt") and data.get("tls.key")):
        return False
    directory.mkdir(mode=0o700, exist_ok=True)
    for name in ("tls.key", "tls.crt"):  # Kueue waits for tls.crt: it comes last
        # Renamed when it is whole: Kueue ends for good when it finds the file without a certificate in it.
        path = directory / f".{name}"
        path.touch(mode=0o600)
        path.write_bytes(base64.b64decode(data[name]))
        path.replace(directory / name)
    return True


def wait_for_definitions(kubectl: Kubectl) -> None:
    """Until the API server serves Kueue's kinds. `kubectl wait` fails on a definition that has no conditions yet."""
    wanted = {"workloads", "clusterqueues", "localqueues", "resourceflavors", "workloadpriorityclasses"}
    what = "waiting for Kueue's kinds"

    def served() -> bool:
        try:
            answer = json.loads(kubectl("get", "--raw=/apis/kueue.x-k8s.io/v1beta2", what=what))
        except ClusterError:  # not even the group is there yet
            return False
        return wanted <= {resource["name"] for resource in answer["resources"]}

    wait_until(what, served, DEFINITIONS_LIMIT)


def ensure(cluster: Backend, report: Report) -> None:
    """Have the controller run in a pod of the cluster; nothing to do if it does."""
    binaries = ensure_binaries(report)
    kubectl = Kubectl(binaries.path("kubectl"), cluster.kubeconfig, plain_environment())
    controller = ensure_kueue(report)
    image = f"{IMAGE_REPOSITORY}:{controller.directory.name}"
    if not _runs(kubectl, image):
        _install(cluster, binaries, controller, image, report)


def _runs(kubectl: Kubectl, image: str) -> bool:
    found = kubectl.get("deployments", f"--namespace={NAMESPACE}", what="looking for Kueue")["items"]
    return any(
        deployment["spec"]["template"]["spec"]["containers"][0]["image"] == image
        and deployment["status"].get("readyReplicas", 0) > 0
        for deployment in found
    )


def _install(cluster: Backend, binaries: Binaries, controller: Binaries, image: str, report: Report) -> None:
    cluster.load_image(_archive(controller, image), image)
    repository, _, tag = image.rpartition(":")
    values = {
        "image.repository": repository,
        "image.tag": tag,
        "image.pullPolicy": "IfNotPresent",
    }
    chosen = [flag for key, value in values.items() for flag in ("--set-string", f"{MANAGER_VALUES}.{key}={value}")]
    report(f"installing Kueue {KUEUE_VERSION}")
    command = [
        *(binaries.path("helm"), "upgrade", "--install", RELEASE, str(kueue_source(report) / "charts" / "kueue")),
        *("--namespace", NAMESPACE, "--create-namespace", *chosen, "--wait", f"--timeout={INSTALL_LIMIT}s"),
        f"--kubeconfig={cluster.kubeconfig}",
    ]
    run(command, what="installing Kueue", limit=INSTALL_LIMIT + 60, environment=_helm_environment())


def _archive(controller: Binaries, image: str) -> Path:
    archive = cache_directory() / "images" / f"kueue-{controller.directory.name}.tar"
    if not archive.exists():
        program = Path(controller.path("kueue")).read_bytes()
        write_docker_archive(
            ImageSpec(image, {"/manager": (program, 0o755)}, ["/manager"], user="65532:65532"), archive
        )
    return archive


def _helm_environment() -> dict[str, str]:
    homes = {
        f"HELM_{kind}_HOME": str(cache_directory() / "helm" / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA")
    }
    return plain_environment() | homes
