"""The chart as helm renders it, as plain data; for tests that look at what would be installed."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from rltrain_cluster.binaries import ensure_binaries

CHART = Path(__file__).resolve().parents[2] / "helm" / "rltrain-operator"
NAMESPACE = "rltrain-system"
RELEASE = "demo"
NAME = "demo-rltrain-operator"

Manifest = dict[str, Any]
Rights = dict[tuple[str, str], set[str]]


def run_helm(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """One call of helm, which may fail."""
    command = [ensure_binaries(print).path("helm"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)


def render(*settings: str, chart: Path = CHART, release: str = RELEASE, namespace: str = NAMESPACE) -> list[Manifest]:
    """The manifests with these values (`path=JSON`), in order; the same values are rendered once."""
    return [document for document in _documents(_rendered(chart, release, namespace, settings)) if document]


def render_anew() -> list[Manifest]:
    """As another installation would get them."""
    return [document for document in _documents(_rendered.__wrapped__(CHART, RELEASE, NAMESPACE, ())) if document]


@cache
def _rendered(chart: Path, release: str, namespace: str, settings: tuple[str, ...]) -> str:
    values = [part for setting in settings for part in ("--set-json", setting)]
    done = run_helm("template", release, str(chart), "--namespace", namespace, *values)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _documents(text: str) -> Iterator[Manifest]:
    return yaml.load_all(text, Loader=yaml.CSafeLoader)


def of_kind(manifests: list[Manifest], kind: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def only(manifests: list[Manifest], kind: str) -> Manifest:
    """The one manifest of that kind."""
    (found,) = of_kind(manifests, kind)
    return found


def named(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    """The one manifest of that kind and name."""
    (found,) = [manifest for manifest in of_kind(manifests, kind) if manifest["metadata"]["name"] == name]
    return found


def rights(role: Manifest) -> Rights:
    """What a role lets do, by (group, resource); rules for single names are not told apart from others."""
    found: Rights = {}
    for rule in role["rules"]:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                found.setdefault((group, resource), set()).update(rule["verbs"])
    return found


def rights_of(manifests: list[Manifest], account: str) -> set[tuple[str, str, str, tuple[str, ...], str]]:
    """Everything that an account of the release may do: (namespace or "", group, resource, names, verb)."""
    found = set()
    for binding in [*of_kind(manifests, "ClusterRoleBinding"), *of_kind(manifests, "RoleBinding")]:
        subject = {"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}
        if subject not in binding["subjects"]:
            continue
        namespace = binding["metadata"].get("namespace", "")
        roles = of_kind(manifests, binding["roleRef"]["kind"])
        (role,) = [
            role
            for role in roles
            if role["metadata"]["name"] == binding["roleRef"]["name"]
            and role["metadata"].get("namespace", "") == namespace
        ]
        found |= {
            (namespace, group, resource, tuple(rule.get("resourceNames", ())), verb)
            for rule in role["rules"]
            for group in rule["apiGroups"]
            for resource in rule["resources"]
            for verb in rule["verbs"]
        }
    return found
