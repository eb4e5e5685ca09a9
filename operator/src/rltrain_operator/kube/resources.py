"""Which kinds the operator touches and where the API server keeps them."""

from __future__ import annotations

from dataclasses import dataclass

from rltrain_api import names


@dataclass(frozen=True)
class Resource:
    """One kind of object: `api_version` as in manifests, `plural` as in URLs."""

    api_version: str
    kind: str
    plural: str

    def path(self, namespace: str | None, name: str | None = None, subresource: str | None = None) -> str:
        """The URL path of the collection or of one object; `namespace` None means all namespaces."""
        root = f"/api/{self.api_version}" if "/" not in self.api_version else f"/apis/{self.api_version}"
        parts = [root]
        if namespace is not None:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        if name is not None:
            parts.append(name)
        if subresource is not None:
            parts.append(subresource)
        return "/".join(parts)


RL_TRAINING_JOBS = Resource(names.API_VERSION, names.KIND, names.PLURAL)
RAY_CLUSTERS = Resource("ray.io/v1", "RayCluster", "rayclusters")
BATCH_JOBS = Resource("batch/v1", "Job", "jobs")
PODS = Resource("v1", "Pod", "pods")
CLAIMS = Resource("v1", "PersistentVolumeClaim", "persistentvolumeclaims")
CONFIG_MAPS = Resource("v1", "ConfigMap", "configmaps")
SECRETS = Resource("v1", "Secret", "secrets")
EVENTS = Resource("v1", "Event", "events")
WORKLOADS = Resource("kueue.x-k8s.io/v1beta2", "Workload", "workloads")
LEASES = Resource("coordination.k8s.io/v1", "Lease", "leases")
DISRUPTION_BUDGETS = Resource("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets")
NODES = Resource("v1", "Node", "nodes")
NETWORK_POLICIES = Resource("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies")
VALIDATING_WEBHOOKS = Resource(
    "admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration", "validatingwebhookconfigurations"
)

_BY_KIND = {
    (r.api_version, r.kind): r
    for r in (
        RL_TRAINING_JOBS,
        RAY_CLUSTERS,
        BATCH_JOBS,
        PODS,
        CLAIMS,
        CONFIG_MAPS,
        SECRETS,
        EVENTS,
        LEASES,
        DISRUPTION_BUDGETS,
        NETWORK_POLICIES,
        VALIDATING_WEBHOOKS,
    )
}


def resource_of(manifest: dict[str, object]) -> Resource:
    """The resource a manifest belongs to; only kinds of this module are known."""
    return _BY_KIND[(str(manifest["apiVersion"]), str(manifest["kind"]))]
