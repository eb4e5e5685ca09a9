"""Names, labels and owners of children: the part of every manifest that ties it to its job."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from rltrain_api import names
from rltrain_api.job import ObjectMeta

Manifest = dict[str, Any]

MANAGED_BY = "rltrain-operator"


def child_labels(job: ObjectMeta, component: str) -> dict[str, str]:
    """Labels of one child; `job` is the job's metadata, `component` the child's role in the job."""
    return {
        names.JOB_LABEL: job.name,
        "app.kubernetes.io/name": "rltrain",
        "app.kubernetes.io/instance": job.name,
        "app.kubernetes.io/component": component,
        "app.kubernetes.io/managed-by": MANAGED_BY,
    }


def pod_labels(job: ObjectMeta, role: str) -> dict[str, str]:
    """Labels of a pod, which besides says its role."""
    return {**child_labels(job, role), names.ROLE_LABEL: role}


def owner_reference(job: ObjectMeta) -> dict[str, Any]:
    """Makes the garbage collector remove the child after the job; no finalizer is needed."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "name": job.name,
        "uid": job.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def child_metadata(job: ObjectMeta, name: str, component: str, *, owned: bool = True) -> dict[str, Any]:
    """The `metadata` of one child. `owned=False` leaves it standing when the job is deleted."""
    metadata: dict[str, Any] = {
        "name": name,
        "namespace": job.namespace,
        "labels": child_labels(job, component),
    }
    if owned:
        metadata["ownerReferences"] = [owner_reference(job)]
    return metadata


def fingerprint(document: Any) -> str:
    """A short, stable hash of plain data: the first 16 hexadecimal digits of the SHA-256 of its canonical JSON."""
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]
