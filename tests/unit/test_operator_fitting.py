"""Nodes are listed now and then, not for every job; what can never fit is said in ClusterReady, and fails nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pytest

from rltrain_api.status import ConditionType, Phase, RayClusterReference, ResolvedConfigReference, Status
from rltrain_operator.kube import ApiError, Body, ForbiddenError, Resource, UnavailableError
from rltrain_operator.plan import cluster_hash
from rltrain_operator.reconcile.decide import decide
from rltrain_operator.reconcile.fitting import FRESH_SECONDS, NodeWatch, with_shortfalls
from rltrain_operator.reconcile.state import ClusterView, Observed, Subject
from rule_cases import parsed

NOW = datetime(2026, 1, 1, tzinfo=UTC)
JOB = parsed({})
SUBJECT = Subject(
    JOB.metadata,
    Status(
        resolved_config=ResolvedConfigReference(config_map="job-config-0", hash="-"),
        ray_cluster=RayClusterReference(name="job", dashboard="-"),
    ),
    JOB,
)
WAITING = ClusterView(uid="u", created=NOW, spec_hash=cluster_hash(JOB), wanted_workers=2)
SMALL: Body = {"metadata": {"name": "a"}, "status": {"allocatable": {"cpu": "8", "memory": "32Gi", "pods": "110"}}}


@dataclass
class Nodes:
    """A cluster with these nodes, or one that refuses to show them."""

    bodies: list[Body]
    refusal: ApiError | None = None
    asked: int = 0

    async def list_objects(self, resource: Resource, namespace: str | None, **_: Any) -> AsyncIterator[Body]:
        assert (resource.plural, namespace) == ("nodes", None)
        self.asked += 1
        if self.refusal is not None:
            raise self.refusal
        for body in self.bodies:
            yield body


async def test_nodes_are_listed_again_when_they_are_old() -> None:
    cluster, seconds = Nodes([SMALL]), [0.0]
    watch = NodeWatch(cluster, clock=lambda: seconds[0])
    for moment, asked in ((0.0, 1), (FRESH_SECONDS - 1, 1), (FRESH_SECONDS, 2)):
        seconds[0] = moment
        nodes = await watch.nodes()
        assert nodes is not None
        assert [node.name for node in nodes] == ["a"]
        assert cluster.asked == asked


@pytest.mark.parametrize("refusal", [ForbiddenError(403, "no"), UnavailableError(503, "later")], ids=["403", "503"])
async def test_without_nodes_nothing_is_said(refusal: ApiError) -> None:
    cluster = Nodes([], refusal)
    watch = NodeWatch(cluster, clock=lambda: 0.0)
    observed = Observed(cluster=WAITING)
    assert await with_shortfalls(observed, SUBJECT, watch) == observed
    assert await with_shortfalls(observed, SUBJECT, watch) == observed
    assert cluster.asked == 1, "a refusal is remembered as long as a list"


async def test_what_cannot_fit_is_observed() -> None:
    observed = await with_shortfalls(Observed(cluster=WAITING), SUBJECT, NodeWatch(Nodes([SMALL])))
    assert [text.partition(";")[0] for text in observed.shortfalls] == [
        "pool trainer: 1 pod of 2 nvidia.com/gpu",
        "pool inference: 1 pod of 1 nvidia.com/gpu",
    ]


NOT_ASKED = {
    "no cluster": None,
    "a cluster that is ready": replace(WAITING, head_ready=True, ready_workers=2),
    "a cluster that goes": replace(WAITING, deleting=True),
    "a cluster of another spec": replace(WAITING, spec_hash="another"),
}


@pytest.mark.parametrize("case", NOT_ASKED)
async def test_nobody_asks_while_nobody_waits(case: str) -> None:
    cluster, observed = Nodes([SMALL]), Observed(cluster=NOT_ASKED[case])
    assert await with_shortfalls(observed, SUBJECT, NodeWatch(cluster)) == observed
    assert cluster.asked == 0


def test_the_condition_names_pool_and_shortfall_and_the_job_goes_on_waiting() -> None:
    shortfall = "pool trainer: 1 pod of 2 nvidia.com/gpu; no node of the 1 open to it offers nvidia.com/gpu"
    decision = decide(SUBJECT, Observed(cluster=WAITING, shortfalls=(shortfall,)), NOW)
    ready = decision.status.condition(ConditionType.CLUSTER_READY)
    stalled, failed = (decision.status.condition(kind) for kind in (ConditionType.STALLED, ConditionType.FAILED))
    assert ready is not None
    assert (ready.status, ready.reason) == ("False", "PlacementDoesNotFit")
    assert shortfall in ready.message
    assert stalled is not None
    assert failed is not None
    assert (stalled.status, failed.status) == ("False", "False")
    assert decision.status.phase is Phase.PROVISIONING
