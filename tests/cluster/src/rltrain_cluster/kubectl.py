"""kubectl and helm on one cluster: the thin shell through which this package talks to the API server.

This module must not know how the cluster was made.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rltrain_cluster.errors import ClusterError
from rltrain_cluster.processes import run


@dataclass(frozen=True)
class Kubectl:
    """`program` on the cluster of `kubeconfig` (None: the current context of the caller's own configuration)."""

    program: str
    kubeconfig: Path | None
    environment: Mapping[str, str] | None = None

    def command(self, arguments: Sequence[str]) -> list[str]:
        chosen = [] if self.kubeconfig is None else [f"--kubeconfig={self.kubeconfig}"]
        return [self.program, *chosen, *arguments]

    def __call__(self, *arguments: str, what: str, text: str | None = None, limit: float = 60.0) -> str:
        return run(self.command(arguments), what=what, text=text, limit=limit, environment=self.environment)

    def apply(self, objects: Sequence[Mapping[str, Any]], what: str) -> None:
        document = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        self("apply", "--server-side", "--force-conflicts", "-f", "-", what=what, text=document)

    def get(self, *arguments: str, what: str) -> Any:
        return json.loads(self("get", *arguments, "--output=json", what=what))

    def answers(self) -> bool:
        """Whether the API server is ready."""
        try:
            return self("get", "--raw=/readyz", "--request-timeout=2s", what="asking for readiness", limit=5) == "ok"
        except ClusterError:
            return False

    def ready_nodes(self) -> set[str]:
        nodes = self.get("nodes", what="listing nodes")["items"]
        return {node["metadata"]["name"] for node in nodes if _is_ready(node)}

    def volume_path(self, namespace: str, claim: str) -> Path:
        """The directory behind a bound claim, if it is a directory of the node."""
        what = f"finding the volume of {namespace}/{claim}"
        found = self.get("persistentvolumeclaim", claim, f"--namespace={namespace}", what=what)
        volume = found["spec"].get("volumeName")
        if not volume:
            raise ClusterError(f"{namespace}/{claim}: no volume is bound to this claim yet (kubectl describe pvc)")
        path = self.get("persistentvolume", volume, what=what)["spec"].get("hostPath", {}).get("path")
        if not path:
            raise ClusterError(f"{namespace}/{claim}: its volume {volume} is not a directory of this machine")
        return Path(path)


def _is_ready(node: Mapping[str, Any]) -> bool:
    conditions = node.get("status", {}).get("conditions", [])
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)
