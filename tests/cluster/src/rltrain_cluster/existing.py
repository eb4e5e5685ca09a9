"""The existing back end: the cluster of the caller's current context. Nothing of it is started, changed or ended.

This module must not know how that cluster was made.
"""

from __future__ import annotations

import os
from pathlib import Path

from rltrain_cluster.backend import ClusterStatus, Report
from rltrain_cluster.binaries import ensure_binaries
from rltrain_cluster.errors import ClusterError
from rltrain_cluster.kubectl import Kubectl
from rltrain_cluster.local_state import Description, write_description
from rltrain_cluster.settings import KUBERAY_VERSION, KUEUE_VERSION, ClusterSettings, StateDirectory

RAY_CLUSTERS = "customresourcedefinition/rayclusters.ray.io"
CLUSTER_QUEUES = "customresourcedefinition/clusterqueues.kueue.x-k8s.io"


class ExistingCluster:
    """The cluster that `kubectl` speaks to without further words."""

    def __init__(self, settings: ClusterSettings) -> None:
        self._settings = settings
        self._state = StateDirectory.of(settings.name)

    @property
    def kubeconfig(self) -> Path:
        configured = os.environ.get("KUBECONFIG", "")
        if os.pathsep in configured:
            raise ClusterError("KUBECONFIG names several files; name the one of the cluster to use")
        return Path(configured) if configured else Path.home() / ".kube" / "config"

    @property
    def _kubectl(self) -> Kubectl:
        return Kubectl(ensure_binaries(lambda _: None).path("kubectl"), self.kubeconfig)

    def up(self, report: Report) -> None:
        ensure_binaries(report)
        if not self.kubeconfig.exists():
            raise ClusterError(f"{self.kubeconfig}: there is no kubeconfig; set KUBECONFIG, or use another back end")
        if not self._kubectl.answers():
            raise ClusterError(f"{self.kubeconfig}: the cluster of the current context does not answer")
        write_description(self._state, Description("existing", self._settings))

    def ensure_kuberay(self, report: Report) -> None:
        """KubeRay is the business of the cluster's owner: look whether it is there."""
        try:
            self._kubectl("get", RAY_CLUSTERS, what="looking for KubeRay")
        except ClusterError as error:
            remedy = f"install its operator, {KUBERAY_VERSION} or newer, with its Helm chart"
            raise ClusterError(f"the current context has no KubeRay: {remedy}") from error

    def ensure_kueue(self, report: Report) -> None:
        """Kueue too is the business of the cluster's owner."""
        try:
            self._kubectl("get", CLUSTER_QUEUES, what="looking for Kueue")
        except ClusterError as error:
            remedy = f"install its controller, {KUEUE_VERSION} or newer, with its Helm chart"
            raise ClusterError(f"the current context has no Kueue: {remedy}") from error

    def down(self, report: Report) -> None:
        raise ClusterError("this cluster was not made here and is not ended here (back end existing)")

    def status(self) -> ClusterStatus:
        answers = self._kubectl.answers()
        line = "the API server answers" if answers else "the API server does not answer"
        return ClusterStatus(self._settings.name, "existing", answers, self.kubeconfig, (line,))

    def load_image(self, archive: Path, name: str) -> bool:
        raise ClusterError(
            f"{name}: images cannot be brought into the nodes of an existing cluster; push it to a registry that they "
            "pull from, and name it there"
        )

    def logs(self, component: str) -> str:
        raise ClusterError(f"{component}: ask the cluster's owner; its processes are not ours")

    def volume_path(self, namespace: str, claim: str) -> Path:
        raise ClusterError(
            f"{namespace}/{claim}: the volumes of an existing cluster are not directories of this machine"
        )
