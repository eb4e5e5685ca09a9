"""Images in the nodes' content stores: imported once, remembered by what they are, kept when the cluster goes down.

This module must not know how containerd was started.
"""

from __future__ import annotations

import json
from pathlib import Path

from rltrain_cluster.namespaces import Namespace
from rltrain_cluster.processes import run

SOCKET = "/run/containerd/containerd.sock"
IMPORT_LIMIT = 900.0


class NodeImages:
    """The images of one node. `ledger` remembers the id under which each name was imported."""

    def __init__(self, namespace: Namespace, store: Path) -> None:
        self._namespace = namespace
        self._ledger = store / "imported.json"

    def ctr(self, *arguments: str, what: str, limit: float = 60.0) -> str:
        command = ["ctr", "--address", SOCKET, "--namespace", "k8s.io", *arguments]
        return run(self._namespace.inside(command), what=what, limit=limit)

    def answers(self) -> bool:
        """Whether containerd listens: its socket lies in the node's own /run."""
        return Path(f"/proc/{self._namespace.holder.pid}/root{SOCKET}").exists()

    def present(self) -> dict[str, str]:
        """What the store holds: the digest of every image by its full name."""
        lines = self.ctr("images", "list", what="listing images").splitlines()[1:]
        return {name: digest for name, _, digest, *_ in (line.split() for line in lines)}

    def load(self, archive: Path, name: str, identity: str) -> bool:
        """Import `archive` unless the same image already stands under `name`; whether it was imported."""
        full = full_name(name)
        ledger = self._read()
        digest = self.present().get(full)
        if digest is not None and ledger.get(full) == {"id": identity, "digest": digest}:
            return False
        what = f"importing {name}"
        self.ctr("images", "import", "--snapshotter", "overlayfs", str(archive), what=what, limit=IMPORT_LIMIT)
        imported = self.present()[full]
        self._write({**self._read(), full: {"id": identity, "digest": imported}})
        return True

    def remove_containers(self) -> None:
        """Forget the containers of a cluster that is gone; their images stay."""
        names = self.ctr("containers", "list", "--quiet", what="listing containers").split()
        if names:
            self.ctr("containers", "delete", *names, what="deleting containers of the cluster before")

    def _read(self) -> dict[str, dict[str, str]]:
        if not self._ledger.exists():
            return {}
        content: dict[str, dict[str, str]] = json.loads(self._ledger.read_text())
        return content

    def _write(self, content: dict[str, dict[str, str]]) -> None:
        scratch = self._ledger.with_suffix(".tmp")
        scratch.write_text(json.dumps(content, indent=1))
        scratch.rename(self._ledger)


def full_name(name: str) -> str:
    """A name as containerd keeps it: with a registry and a tag (`a:1` is `docker.io/library/a:1`)."""
    if ":" not in name.rpartition("/")[2]:
        name = f"{name}:latest"
    first, slash, _ = name.partition("/")
    if not slash:
        return f"docker.io/library/{name}"
    return name if "." in first or ":" in first or first == "localhost" else f"docker.io/{name}"
