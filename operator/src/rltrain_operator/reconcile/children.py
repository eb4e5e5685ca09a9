"""What every object in the cluster tells about itself: whose it is, what it is for, what its conditions say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rltrain_api import names
from rltrain_operator.kube import Body


def owned_by(child: Body, uid: str) -> bool:
    """Whether the child belongs to this very owner, not to one of the same name before it, nor to somebody else."""
    return any(owner.get("uid") == uid for owner in child["metadata"].get("ownerReferences") or [])


def condition_of(body: Body, kind: str) -> Mapping[str, Any]:
    """The condition of that type; empty where the object has none."""
    for condition in (body.get("status") or {}).get("conditions") or []:
        if condition.get("type") == kind:
            found: Mapping[str, Any] = condition
            return found
    return {}


def role_of(pod: Body) -> str:
    """The role of one of a job's pods; empty for a pod without one."""
    return str((pod["metadata"].get("labels") or {}).get(names.ROLE_LABEL, ""))


def is_leaving(child: Body) -> bool:
    """Whether it is being deleted."""
    return "deletionTimestamp" in child["metadata"]
