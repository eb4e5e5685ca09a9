"""What an installation says by its flags, and what that makes of every job: variables, a NetworkPolicy, namespaces."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from api_server import changed, example
from rltrain_api import names
from rltrain_api.job import RLTrainingJob
from rltrain_api.parse import parse_job
from rltrain_api.status import Status
from rltrain_operator import installation, plan
from rltrain_operator.cache import Cache
from rltrain_operator.kube import AlreadyExistsError, Body, ForbiddenError, Resource
from rltrain_operator.plan import Peer, Surroundings
from rltrain_operator.reconcile import reasons
from rltrain_operator.reconcile.apply import Applier, BlockedError, Context
from rltrain_operator.reconcile.state import CreateRayCluster, Observed, Subject
from rltrain_operator.tokens import TokenIssuer

Document = dict[str, Any]
PEER = Peer("rltrain-system", {"app.kubernetes.io/name": "rltrain-operator", "app.kubernetes.io/instance": "demo"})
METADATA = {"metadata.namespace": "team", "metadata.uid": "u-1"}


def job(**changes: Any) -> RLTrainingJob:
    """The quickstart with other values at dotted paths, written with __ for the dot."""
    paths = {path.replace("__", "."): value for path, value in changes.items()}
    parsed = parse_job(changed(example("quickstart.yaml"), {**METADATA, **paths}))
    assert isinstance(parsed, RLTrainingJob), parsed
    return parsed


# --- flags ----------------------------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "no name of a namespace": (lambda: installation.watched_namespaces(["Team"]), "'Team' is not the name"),
    "a pattern": (lambda: installation.watched_namespaces(["team-*"]), "Patterns and lists are not understood"),
    "a list": (lambda: installation.watched_namespaces(["a,b"]), "repeat the flag for each"),
    "an empty namespace": (lambda: installation.watched_namespaces([""]), "leave it out to watch all"),
    "a name that is too long": (lambda: installation.watched_namespaces(["a" * 64]), "at most 63"),
    "no value": (lambda: installation.job_environment(["OMP_NUM_THREADS"]), "NAME=VALUE"),
    "no name of a variable": (lambda: installation.job_environment(["1 A=x"]), "NAME=VALUE"),
    "a variable twice": (lambda: installation.job_environment(["A=1", "A=2"]), "given twice"),
    "a variable of the operator's": (lambda: installation.job_environment(["RLTRAIN_RUN=x"]), "set by the operator"),
    "which GPUs there are": (lambda: installation.job_environment(["CUDA_VISIBLE_DEVICES=0"]), "device plugin"),
    "a secret by its name": (lambda: installation.job_environment(["HF_TOKEN=x"]), "looks like a secret"),
    "a secret by its value": (lambda: installation.job_environment(["X=hf_" + "a" * 20]), "spec.runtime.envFrom"),
    "no labels": (lambda: installation.peer("rltrain-system"), "such as"),
    "a label without a value": (lambda: installation.peer("rltrain-system:a"), "such as"),
    "no namespace": (lambda: installation.peer(":a=b"), "such as"),
}


@pytest.mark.parametrize(("call", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_work_is_refused_with_the_flag_and_a_remedy(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=r"^--[a-z-]+ ") as caught:
        call()
    assert message in str(caught.value)


def test_no_message_shows_a_secret() -> None:
    with pytest.raises(ValueError, match="secret") as caught:
        installation.job_environment(["HF_TOKEN=hf_abcdefghijklmnopqrst"])
    assert "hf_abc" not in str(caught.value)


def test_what_works_is_taken_as_it_is() -> None:
    assert installation.watched_namespaces(["b", "a", "b"]) == ["b", "a"]
    assert installation.watched_namespaces([]) == []
    assert installation.job_environment(["NCCL_IB_HCA=mlx5", "A=b=c"]) == {"NCCL_IB_HCA": "mlx5", "A": "b=c"}
    assert installation.peer(None) is None
    assert installation.peer("rltrain-system:a=b,c.d/e=f") == Peer("rltrain-system", {"a": "b", "c.d/e": "f"})


# --- variables of all jobs ------------------------------------------------------------------------------------------

ALL_JOBS = {"NCCL_IB_HCA": "mlx5", "OMP_NUM_THREADS": "8", "HOME_OF": "$(HOME)"}


def pods(cluster: Document) -> list[Document]:
    groups = [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def variables(pod: Document) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in pod["containers"][0]["env"] if "value" in entry}


def test_every_pod_of_every_job_has_them() -> None:
    one = job()
    initializers = [plan.plan_initializer(one, spec, ALL_JOBS) for spec in one.spec.storage.initializers]
    assert initializers, "the quickstart has an initializer"
    for pod in (
        *pods(plan.plan_ray_cluster(one, ALL_JOBS)),
        *(made["spec"]["template"]["spec"] for made in initializers),
    ):
        assert variables(pod) == {**variables(pod), "NCCL_IB_HCA": "mlx5", "OMP_NUM_THREADS": "8"}


def test_kubernetes_expands_nothing_in_them() -> None:
    assert {variables(pod)["HOME_OF"] for pod in pods(plan.plan_ray_cluster(job(), ALL_JOBS))} == {"$$(HOME)"}


def test_what_the_job_sets_or_leaves_out_wins() -> None:
    own = job(
        spec__runtime__env=[{"name": "OMP_NUM_THREADS", "value": "$(NCCL_IB_HCA)"}], spec__runtime__excludeEnv=["NCCL*"]
    )
    for pod in pods(plan.plan_ray_cluster(own, ALL_JOBS)):
        assert variables(pod)["OMP_NUM_THREADS"] == "$(NCCL_IB_HCA)"
        assert "NCCL_IB_HCA" not in variables(pod)


def test_a_change_of_them_restarts_no_job() -> None:
    one = job()
    plain, other = plan.plan_ray_cluster(one), plan.plan_ray_cluster(one, ALL_JOBS)
    assert plain["spec"] != other["spec"]
    assert plain["metadata"] == other["metadata"], "the hash that running clusters are compared by"
    assert other["metadata"]["annotations"][names.SPEC_HASH_ANNOTATION] == plan.cluster_hash(one)


# --- the NetworkPolicy of a job -------------------------------------------------------------------------------------


def test_a_job_s_pods_admit_each_other_and_the_operator_to_two_ports() -> None:
    own = {"matchLabels": {names.JOB_LABEL: "quickstart"}}
    policy = plan.plan_network_policy(job(), PEER)
    assert policy is not None
    assert policy["metadata"]["name"] == "quickstart"
    assert [owner["uid"] for owner in policy["metadata"]["ownerReferences"]] == ["u-1"]
    assert policy["spec"] == {
        "podSelector": own,
        "policyTypes": ["Ingress"],
        "ingress": [
            {"from": [{"podSelector": own}]},
            {
                "from": [
                    {
                        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "rltrain-system"}},
                        "podSelector": {"matchLabels": PEER.labels},
                    }
                ],
                "ports": [{"protocol": "TCP", "port": 8265}, {"protocol": "TCP", "port": 8700}],
            },
        ],
    }


def test_the_policy_is_about_every_pod_of_the_job() -> None:
    one = job()
    policy = plan.plan_network_policy(one, PEER)
    assert policy is not None
    selected = policy["spec"]["podSelector"]["matchLabels"].items()
    cluster = plan.plan_ray_cluster(one)
    groups = [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]
    initializers = [plan.plan_initializer(one, spec)["spec"] for spec in one.spec.storage.initializers]
    for template in (part["template"] for part in (*groups, *initializers)):
        assert selected <= template["metadata"]["labels"].items()


ON_NODE_NETWORK: dict[str, dict[str, Any]] = {
    "by a field": {"spec__pools": {"trainer": {"network": {"hostNetwork": True}}}},
    "by a patch": {"spec__pools": {"inference": {"podPatch": {"spec": {"hostNetwork": True}}}}},
}


@pytest.mark.parametrize("changes", ON_NODE_NETWORK.values(), ids=ON_NODE_NETWORK.keys())
def test_a_job_on_its_nodes_network_has_no_policy(changes: dict[str, Any]) -> None:
    """Its pods call from addresses of nodes, which no policy can name: it would cut the job off from itself."""
    assert plan.plan_network_policy(job(**changes), PEER) is None


# --- carried out ----------------------------------------------------------------------------------------------------


class Store:
    """Objects by kind, and the order in which they were written; kinds in `forbidden` cannot be created."""

    def __init__(self, *objects: Document, forbidden: frozenset[str] = frozenset()) -> None:
        self.objects = {one["kind"]: one for one in objects}
        self.forbidden = forbidden
        self.written: list[str] = []

    async def get(self, resource: Resource, namespace: str, name: str) -> Body:
        return self.objects[resource.kind]

    async def create(self, manifest: Body) -> Body:
        kind = manifest["kind"]
        if kind in self.forbidden:
            raise ForbiddenError(403, "no right")
        if kind in self.objects:
            raise AlreadyExistsError(409, "exists")
        self.written.append(kind)
        self.objects[kind] = {**manifest, "metadata": {**manifest["metadata"], "uid": kind, "resourceVersion": "1"}}
        return self.objects[kind]

    async def apply(self, manifest: Body, *, field_manager: str, subresource: str | None = None) -> Body:
        assert manifest["metadata"]["uid"] == self.objects[manifest["kind"]]["metadata"]["uid"]
        self.written.append(f"{manifest['kind']} again")
        return manifest

    async def delete(self, resource: Resource, namespace: str, name: str, *, uid: str) -> None:
        raise AssertionError("nothing is deleted")


class Nobody:
    """Neither Ray nor a driver: both are asked only once there is a cluster."""


def policy(peer: Peer, owner: str) -> Document:
    manifest = plan.plan_network_policy(job(), peer)
    assert manifest is not None
    manifest["metadata"] |= {"uid": "NetworkPolicy", "ownerReferences": [{"uid": owner, "kind": "X", "name": "x"}]}
    return manifest


async def make_cluster(store: Store, peer: Peer | None) -> None:
    tokens, one = TokenIssuer(b"k" * 32), job()
    applier = Applier(store, Cache(), Nobody(), Nobody(), tokens, Surroundings(peer=peer))  # type: ignore[arg-type]
    context = Context(("team", "quickstart"), Subject(one.metadata, Status(), one), Observed(), datetime.now(UTC))
    await applier.carry_out(CreateRayCluster(), context)


OTHER_PEER = Peer("elsewhere", PEER.labels)
WRITTEN: dict[str, tuple[Store, Peer | None, list[str]]] = {
    "without policies": (Store(), None, ["PodDisruptionBudget", "RayCluster"]),
    "with them": (Store(), PEER, ["PodDisruptionBudget", "NetworkPolicy", "RayCluster"]),
    "where the job's own is there": (Store(policy(PEER, "u-1")), PEER, ["PodDisruptionBudget", "RayCluster"]),
    "where the operator has moved since": (
        Store(policy(OTHER_PEER, "u-1")),
        PEER,
        ["PodDisruptionBudget", "NetworkPolicy again", "RayCluster"],
    ),
}


@pytest.mark.parametrize(("store", "peer", "written"), WRITTEN.values(), ids=WRITTEN.keys())
async def test_the_policy_is_there_before_the_pods(store: Store, peer: Peer | None, written: list[str]) -> None:
    await make_cluster(store, peer)
    assert store.written == written


BLOCKED: dict[str, tuple[Store, str]] = {
    "by somebody's policy of that name": (Store(policy(PEER, "somebody")), reasons.FOREIGN_OBJECT),
    "by a missing right": (Store(forbidden=frozenset({"NetworkPolicy"})), reasons.CREATION_FORBIDDEN),
}


@pytest.mark.parametrize(("store", "reason"), BLOCKED.values(), ids=BLOCKED.keys())
async def test_no_job_runs_without_the_policy_it_should_have(store: Store, reason: str) -> None:
    with pytest.raises(BlockedError) as caught:
        await make_cluster(store, PEER)
    assert caught.value.blocked.reason == reason
    assert "NetworkPolicy quickstart" in caught.value.blocked.message
    assert "RayCluster" not in store.written
