"""KubeRay's operator on a cluster: its image, its chart, its installation with helm.

The image holds the binary that was built from KubeRay's module and nothing else. The chart is ours (charts/), with the
CustomResourceDefinitions and the ClusterRole of the same module put in when it is assembled in the cache. This module
must not know how the cluster was made.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path

from rltrain_cluster.backend import Backend, Report
from rltrain_cluster.binaries import Binaries, ensure_binaries, kuberay_source
from rltrain_cluster.image_archive import ImageSpec, write_docker_archive
from rltrain_cluster.kubectl import Kubectl
from rltrain_cluster.processes import plain_environment, run
from rltrain_cluster.settings import KUBERAY_VERSION, cache_directory

CHART = Path(__file__).resolve().parents[2] / "charts" / "kuberay-operator"
IMAGE = f"rltrain.local/kuberay-operator:{KUBERAY_VERSION}"
RELEASE = "kuberay-operator"
NAMESPACE = "kuberay-system"
SELECTOR = "app.kubernetes.io/name=kuberay"
CONTENTS_ANNOTATION = "rltrain.io/chart-contents"
INSTALL_LIMIT = 180  # seconds until the operator is ready


def operator_archive(binaries: Binaries) -> Path:
    """The operator's image as a docker archive: made once for each build of the binaries."""
    archive = cache_directory() / "images" / f"kuberay-operator-{binaries.directory.name}.tar"
    if not archive.exists():
        program = Path(binaries.path("ray-operator")).read_bytes()
        spec = ImageSpec(IMAGE, {"/manager": (program, 0o755)}, ["/manager"], user="65532:65532")
        write_docker_archive(spec, archive)
    return archive


def assemble_chart(source: Path, destination: Path) -> Path:
    """Put our chart and KubeRay's own documents together below `destination`, whole or not at all."""
    if destination.is_dir():
        return destination
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination.parent) as scratch:
        chart = Path(scratch) / "chart"
        shutil.copytree(CHART, chart)
        (chart / "crds").mkdir()
        (chart / "files").mkdir()
        for definition in sorted((source / "config" / "crd" / "bases").glob("*.yaml")):
            shutil.copyfile(definition, chart / "crds" / definition.name)
        shutil.copyfile(source / "config" / "rbac" / "role.yaml", chart / "files" / "role.yaml")
        chart.rename(destination)
    return destination


def chart_key() -> str:
    """A digest of our part of the chart; KubeRay's part is named by its version."""
    digest = hashlib.sha256()
    for path in sorted(CHART.rglob("*.yaml")):
        digest.update(path.read_bytes())
    return f"{KUBERAY_VERSION}-{digest.hexdigest()[:8]}"


def assembled_chart(report: Report) -> Path:
    destination = cache_directory() / "charts" / f"kuberay-operator-{chart_key()}"
    return destination if destination.is_dir() else assemble_chart(kuberay_source(report), destination)


def apply_definitions(kubectl: Kubectl, user: str, report: Report) -> None:
    """For an operator outside of the cluster: its CustomResourceDefinitions, and its rights for `user`."""
    chart = assembled_chart(report)
    files = [f"--filename={chart / 'crds'}", f"--filename={chart / 'files' / 'role.yaml'}"]
    kubectl("apply", "--server-side", "--force-conflicts", *files, what="applying KubeRay's definitions")
    group = "rbac.authorization.k8s.io"
    binding = {
        "apiVersion": f"{group}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": RELEASE},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": RELEASE},
        "subjects": [{"apiGroup": group, "kind": "User", "name": user}],
    }
    kubectl.apply([binding], "giving KubeRay its rights")
    for name in ("rayclusters", "rayjobs", "rayservices", "raycronjobs"):
        established = "--for=condition=Established"
        kubectl("wait", established, f"customresourcedefinition/{name}.ray.io", what=f"waiting for {name}")


def is_installed(cluster: Backend, binaries: Binaries) -> bool:
    """Whether the operator is ready and was installed from the chart as it is now."""
    kubectl = Kubectl(binaries.path("kubectl"), cluster.kubeconfig, plain_environment())
    what = "looking for KubeRay"
    found = kubectl.get("deployments", f"--namespace={NAMESPACE}", f"--selector={SELECTOR}", what=what)["items"]
    return any(
        deployment["metadata"]["annotations"].get(CONTENTS_ANNOTATION) == f"kuberay-operator-{chart_key()}"
        and deployment["status"].get("readyReplicas", 0) > 0
        for deployment in found
    )


def ensure(cluster: Backend, report: Report) -> None:
    """Install the operator unless it is there already."""
    if not is_installed(cluster, ensure_binaries(report)):
        install(cluster, report)


def install(cluster: Backend, report: Report) -> None:
    """Install or upgrade the operator and wait until it is ready."""
    binaries = ensure_binaries(report)
    cluster.load_image(operator_archive(binaries), IMAGE)
    chart = assembled_chart(report)
    report(f"installing KubeRay {KUBERAY_VERSION}")
    command = [
        *(binaries.path("helm"), "upgrade", "--install", RELEASE, str(chart)),
        *("--namespace", NAMESPACE, "--create-namespace"),
        *("--set", f"image={IMAGE}", "--set", f"contents={chart.name}", "--wait", f"--timeout={INSTALL_LIMIT}s"),
        f"--kubeconfig={cluster.kubeconfig}",
    ]
    helm = {f"HELM_{kind}_HOME": str(cache_directory() / "helm" / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA")}
    environment = plain_environment() | helm
    run(command, what="installing KubeRay", limit=INSTALL_LIMIT + 60, environment=environment)
