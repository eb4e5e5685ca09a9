"""Pods that share a ReadWriteOnce volume are kept on one node: elsewhere its disk cannot be attached, and a pod waits
for it for ever.

The pods that train say where, because they are the hardest to place: they look for a node with the volume's other pods
on it, and for another where that one is full; all others go to theirs.
"""

from __future__ import annotations

import copy
from typing import Any

from rltrain_api import names
from rltrain_api.job import RLTrainingJob
from rltrain_api.spec.storage import ClaimTemplate
from rltrain_operator.plan.metadata import Manifest

_NODE = "kubernetes.io/hostname"
_ONE_NODE = ["ReadWriteOnce"]
_ANCHOR = {names.ROLE_LABEL: names.ROLE_TRAINER}


def shares_a_node(job: RLTrainingJob) -> bool:
    """Whether a volume that is made for the job can be mounted on one node only."""
    storage = job.spec.storage
    templates: list[ClaimTemplate | None] = [storage.checkpoints.claim_template]
    templates += [volume.claim_template for volume in storage.data]
    templates += [] if storage.cache is None else [storage.cache.claim_template]
    return any(template is not None and list(template.access_modes) == _ONE_NODE for template in templates)


def pod_affinity(job: RLTrainingJob, role: str, own: Manifest | None) -> Manifest:
    """The affinity of a role's pods: the pool's own, and where a volume asks for it the node of the pods that train."""
    affinity: Manifest = copy.deepcopy(own or {})
    if not shares_a_node(job):
        return affinity
    terms: dict[str, Any] = affinity.setdefault("podAffinity", {})
    key = "requiredDuringSchedulingIgnoredDuringExecution"
    terms[key] = [*(terms.get(key) or []), _term({names.JOB_LABEL: job.metadata.name, **_ANCHOR})]
    if role == names.ROLE_TRAINER:
        # A required term that a pod fulfils itself lets the first one go anywhere; one that comes back finds the rest.
        key = "preferredDuringSchedulingIgnoredDuringExecution"
        preferred = {"weight": 100, "podAffinityTerm": _term({names.JOB_LABEL: job.metadata.name})}
        terms[key] = [*(terms.get(key) or []), preferred]
    return affinity


def _term(labels: dict[str, str]) -> Manifest:
    return {"labelSelector": {"matchLabels": labels}, "topologyKey": _NODE}
