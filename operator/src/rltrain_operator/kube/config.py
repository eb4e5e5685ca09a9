"""How to reach and to trust the API server: a kubeconfig on a host, the mounted service account in a pod."""

from __future__ import annotations

import base64
import os
import ssl
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True)
class Connection:
    """Server URL and credentials. `token_file` wins over `token` and is read again when it changes."""

    server: str
    ca_data: bytes | None = None
    token: str | None = field(default=None, repr=False)
    token_file: Path | None = None
    certificate_data: bytes | None = field(default=None, repr=False)
    key_data: bytes | None = field(default=None, repr=False)
    verify: bool = True

    def ssl_context(self) -> ssl.SSLContext | None:
        """The TLS settings, or None for a plain-text server (a test's)."""
        if not self.server.startswith("https:"):
            return None
        context = ssl.create_default_context(cadata=self.ca_data.decode() if self.ca_data else None)
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.certificate_data and self.key_data:
            _load_pair(context, self.certificate_data, self.key_data)
        return context


def _load_pair(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    # Python's ssl reads a client certificate from files only; both live in one private file for a moment.
    with tempfile.NamedTemporaryFile(suffix=".pem") as pair:
        pair.write(certificate + b"\n" + key)
        pair.flush()
        context.load_cert_chain(pair.name)


def in_cluster(directory: Path = SERVICE_ACCOUNT, environ: dict[str, str] | None = None) -> Connection:
    """The connection of a pod. ValueError when this process does not run in one."""
    environ = dict(os.environ) if environ is None else environ
    host, port = environ.get("KUBERNETES_SERVICE_HOST"), environ.get("KUBERNETES_SERVICE_PORT", "443")
    token_file = directory / "token"
    if not host or not token_file.exists():
        raise ValueError(
            f"not running in a pod: KUBERNETES_SERVICE_HOST or {token_file} is missing. Set KUBECONFIG or --kubeconfig."
        )
    server = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
    return Connection(server=server, ca_data=(directory / "ca.crt").read_bytes(), token_file=token_file)


def _entry(config: dict[str, Any], section: str, name: str, path: Path) -> dict[str, Any]:
    for item in config.get(section) or []:
        if item.get("name") == name:
            inner: dict[str, Any] = item.get(section.removesuffix("s")) or {}
            return inner
    raise ValueError(f"{path}: no entry named {name!r} under {section}")


def _data(entry: dict[str, Any], key: str, directory: Path) -> bytes | None:
    if entry.get(f"{key}-data"):
        return base64.b64decode(entry[f"{key}-data"])
    if entry.get(key):
        return (directory / str(entry[key])).read_bytes()
    return None


def named_context(path: Path, context: str | None = None) -> Connection:
    """The connection of one context of a kubeconfig file (the current one by default).

    ValueError names what is missing. Credential plugins (`exec`, `auth-provider`) are refused: the operator runs in a
    pod or, on a developer's machine, against a cluster with a certificate or a token.
    """
    config = yaml.safe_load(path.read_text())
    if not isinstance(config, dict):
        raise ValueError(f"{path}: not a kubeconfig file")
    chosen = context or str(config.get("current-context") or "")
    link = _entry(config, "contexts", chosen, path)
    cluster = _entry(config, "clusters", str(link.get("cluster")), path)
    user = _entry(config, "users", str(link.get("user")), path)
    unsupported = {"exec", "auth-provider"} & user.keys()
    if unsupported:
        raise ValueError(f"{path}: user {link.get('user')!r} uses {unsupported.pop()}, which this operator cannot run")
    token_file = user.get("tokenFile")
    return Connection(
        server=str(cluster["server"]).rstrip("/"),
        ca_data=_data(cluster, "certificate-authority", path.parent),
        token=user.get("token"),
        token_file=path.parent / str(token_file) if token_file else None,
        certificate_data=_data(user, "client-certificate", path.parent),
        key_data=_data(user, "client-key", path.parent),
        verify=not cluster.get("insecure-skip-tls-verify", False),
    )


def load(kubeconfig: str | None = None, context: str | None = None) -> Connection:
    """The flag's kubeconfig, else $KUBECONFIG, else the pod's service account."""
    path = kubeconfig or os.environ.get("KUBECONFIG")
    return named_context(Path(path).expanduser(), context) if path else in_cluster()
