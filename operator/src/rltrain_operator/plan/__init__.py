"""What a job needs, as manifests: pure functions from the job's model to plain data.

Nothing here asks the cluster or the clock, so the same job always gives the same manifests, byte for byte. Names come
from `rltrain_api.names` and are functions of the job's name: creating a thing twice is a conflict, never a second one.
"""

from rltrain_operator.plan.claims import plan_checkpoint_claim, plan_data_claims
from rltrain_operator.plan.disruption import plan_disruption_budget
from rltrain_operator.plan.initializers import plan_initializer
from rltrain_operator.plan.limits import beyond_this_release
from rltrain_operator.plan.network import plan_network_policy
from rltrain_operator.plan.raycluster import cluster_hash, plan_ray_cluster, plan_resize, worker_pods_wanted
from rltrain_operator.plan.records import (
    CONFIG_KEY,
    HISTORY_KEY,
    plan_config_map,
    plan_history,
    plan_secret,
    spec_hash,
)
from rltrain_operator.plan.scaling import engines_of, fixed_engines, with_engines
from rltrain_operator.plan.submission import Submission, plan_submission, upstream_overrides
from rltrain_operator.plan.surroundings import Peer, Surroundings

__all__ = [
    "CONFIG_KEY",
    "HISTORY_KEY",
    "Peer",
    "Submission",
    "Surroundings",
    "beyond_this_release",
    "cluster_hash",
    "engines_of",
    "fixed_engines",
    "plan_checkpoint_claim",
    "plan_config_map",
    "plan_data_claims",
    "plan_disruption_budget",
    "plan_history",
    "plan_initializer",
    "plan_network_policy",
    "plan_ray_cluster",
    "plan_resize",
    "plan_secret",
    "plan_submission",
    "spec_hash",
    "upstream_overrides",
    "with_engines",
    "worker_pods_wanted",
]
