"""The PodDisruptionBudget: nobody who drains nodes takes a pod whose loss ends the attempt.

With RLTrain's own trainer those are the head and the pods that train: an engine may go, it costs time and no sample.
Upstream's trainer fails with any engine. The budget is a number of pods, because a share needs an owner with a scale
subresource, which a RayCluster has not. It stays with the job: without pods it forbids nothing.
"""

from __future__ import annotations

from rltrain_api import names
from rltrain_api.job import RLTrainingJob
from rltrain_operator.plan.groups import worker_groups
from rltrain_operator.plan.metadata import Manifest, child_metadata

_EXPENDABLE = frozenset({names.ROLE_ENVIRONMENT})


def plan_disruption_budget(job: RLTrainingJob) -> Manifest:
    """The budget of one job's pods; it forbids every voluntary eviction among them."""
    expendable = _EXPENDABLE
    if job.spec.runtime.trainer == "builtin":
        expendable = expendable | {names.ROLE_INFERENCE}
    groups = [group for group in worker_groups(job) if group.role not in expendable]
    roles = [names.ROLE_HEAD, *(group.role for group in groups)]
    name = names.disruption_budget_name(job.metadata.name)
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": child_metadata(job.metadata, name, "cluster"),
        "spec": {
            "minAvailable": 1 + sum(group.size.pods for group in groups),
            "selector": {
                "matchLabels": {names.JOB_LABEL: job.metadata.name},
                "matchExpressions": [{"key": names.ROLE_LABEL, "operator": "In", "values": roles}],
            },
            # A pod that is not ready trains nothing: it may be moved off a node that is drained.
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }
