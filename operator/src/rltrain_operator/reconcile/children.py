"""What every object in the cluster tells about itself: whose it is, and what its conditions say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
