"""What every back end can do; the command line and the tests know no more than this.

This module must not know any back end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

Report = Callable[[str], None]


@dataclass(frozen=True)
class ClusterStatus:
    """What stands: `running` means that every part lives and the API server answers."""

    name: str
    backend: str
    running: bool
    kubeconfig: Path
    lines: tuple[str, ...] = ()


class Backend(Protocol):
    """A way to have a Kubernetes cluster."""

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig; it exists while the cluster is up."""
        ...

    def up(self, report: Report) -> None:
        """Make the cluster run; nothing to do if it does already. What is left of a broken one is cleared away."""
        ...

    def ensure_kuberay(self, report: Report) -> None:
        """Have KubeRay's operator run on the cluster; nothing to do if it does."""
        ...

    def ensure_kueue(self, report: Report) -> None:
        """Have Kueue's controller run on the cluster, where KubeRay's operator does; nothing to do if it does."""
        ...

    def down(self, report: Report) -> None:
        """End the cluster and leave the machine as it was; nothing to do if there is none."""
        ...

    def status(self) -> ClusterStatus: ...

    def load_image(self, archive: Path, name: str) -> bool:
        """Bring an image into every node; False if all of them have it already."""
        ...

    def logs(self, component: str) -> str:
        """The output of one component; ClusterError names those that there are."""
        ...

    def volume_path(self, namespace: str, claim: str) -> Path:
        """The directory on this machine that is the volume of a claim."""
        ...
