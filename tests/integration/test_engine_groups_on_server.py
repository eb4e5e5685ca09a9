"""Groups of engines as KubeRay makes, grows and shrinks them: its real operator, an API server, pods of fake nodes.

No operator of ours runs here: the RayClusters are those that it plans, and the patches those that it sends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from rltrain_api.job import RLTrainingJob
from rltrain_cluster.backend import Backend
from rltrain_cluster.kubectl import Kubectl
from rltrain_cluster.testing import kubectl_of, temporary_cluster
from rltrain_cluster.waiting import wait_until
from rltrain_operator.kube import InvalidError, KubeClient
from rltrain_operator.kube.config import named_context
from rltrain_operator.kube.rate import TokenBucket
from rltrain_operator.kube.resources import RAY_CLUSTERS
from rltrain_operator.plan import plan_ray_cluster, plan_resize
from rule_cases import BUILTIN, ENGINE, UPSTREAM, Changes, parsed

pytestmark = [pytest.mark.controlplane, pytest.mark.timeout(600)]

NAMESPACE = "team"
SECONDS = 120
REPLICA = "ray.io/worker-group-replica-name"
INSIDE = f"--namespace={NAMESPACE}"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Backend]:
    with temporary_cluster("engines", "controlplane", nodes=2, gpus_per_node=64, with_kuberay=True) as found:
        kubectl = kubectl_of(found)
        kubectl.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}], "a namespace")
        kubectl("wait", "--for=create", "serviceaccount/default", INSIDE, what="the pods' account")
        yield found


@dataclass(frozen=True)
class Group:
    """The inference group of one RayCluster."""

    name: str
    uid: str
    number: int
    kubectl: Kubectl
    cluster: Backend

    def pods(self) -> dict[str, str]:
        """The group's pods that stay, by name, each with its replica."""
        selector = f"--selector=ray.io/cluster={self.name},ray.io/group=inference"
        found = self.kubectl.get("pods", INSIDE, selector, what="the engines' pods")["items"]
        return {
            pod["metadata"]["name"]: pod["metadata"]["labels"].get(REPLICA) or pod["metadata"]["name"]
            for pod in found
            if "deletionTimestamp" not in pod["metadata"]
        }

    def awaited(self, holds: Callable[[dict[str, str]], bool], what: str) -> dict[str, str]:
        last: dict[str, str] = {}

        def so() -> bool:
            last.clear()
            last.update(self.pods())
            return holds(last)

        wait_until(what, so, SECONDS, explain=lambda: str(last))
        return last

    def resize(self, found: int, wanted: int, leaving: tuple[str, ...] = ()) -> None:
        """The operator's own client sends the operator's own patch."""

        async def send() -> None:
            connection = named_context(self.cluster.kubeconfig)
            async with KubeClient(connection, bucket=TokenBucket(100, 100)) as kube:
                patch = plan_resize(self.number, found, wanted, leaving, self.uid)
                await kube.patch(RAY_CLUSTERS, NAMESPACE, self.name, patch)

        asyncio.run(send())


def created(cluster: Backend, name: str, changes: Changes, pods: int, ground: str = BUILTIN) -> Group:
    """The RayCluster of a job, with its first pods."""
    job = parsed(changes, ground)
    assert isinstance(job, RLTrainingJob)
    job = job.model_copy(update={"metadata": job.metadata.model_copy(update={"name": name, "namespace": NAMESPACE})})
    manifest = plan_ray_cluster(job)
    del manifest["metadata"]["ownerReferences"]
    kubectl = kubectl_of(cluster)
    kubectl.apply([manifest], f"creating {name}")
    live = kubectl.get("raycluster", name, INSIDE, what=name)
    number = [group["groupName"] for group in live["spec"]["workerGroupSpecs"]].index("inference")
    group = Group(name, live["metadata"]["uid"], number, kubectl, cluster)
    group.awaited(lambda there: len(there) == pods, f"{pods} pods of {name}")
    return group


def test_named_engines_go_and_the_others_stay(cluster: Backend) -> None:
    group = created(cluster, "single", {f"{ENGINE}.num_engines": 3}, pods=3)
    first, second, third = sorted(group.pods())
    group.resize(3, 1, leaving=(first, third))
    assert set(group.awaited(lambda there: len(there) == 1, "one engine")) == {second}
    group.resize(1, 4)
    assert second in group.awaited(lambda there: len(there) == 4, "four engines")


def test_a_patch_that_was_decided_on_what_is_no_more_changes_nothing(cluster: Backend) -> None:
    group = created(cluster, "stale", {f"{ENGINE}.num_engines": 2}, pods=2)
    with pytest.raises(InvalidError):
        group.resize(3, 1)
    live = group.kubectl.get("raycluster", group.name, INSIDE, what=group.name)
    resized = live["spec"]["workerGroupSpecs"][group.number]
    assert (resized["replicas"], resized.get("scaleStrategy") or {}) == (2, {})
    assert len(group.pods()) == 2


def test_an_engine_over_several_hosts_comes_and_goes_as_one(cluster: Backend) -> None:
    spanning = {f"{ENGINE}.num_engines": 2, f"{ENGINE}.tensor_parallel_size": 8, f"{ENGINE}.pipeline_parallel_size": 2}
    group = created(cluster, "spanning", spanning, pods=4, ground=UPSTREAM)
    before = group.pods()
    replicas = sorted(set(before.values()))
    assert [list(before.values()).count(replica) for replica in replicas] == [2, 2]

    lost = next(pod for pod, replica in before.items() if replica == replicas[0])
    group.kubectl("delete", "pod", lost, INSIDE, "--wait=false", what="losing one host of an engine")
    after = group.awaited(
        lambda there: len(there) == 4 and replicas[0] not in there.values(), "the whole engine to be replaced"
    )
    untouched = {pod for pod, replica in before.items() if replica == replicas[1]}
    assert untouched < set(after)

    named = next(pod for pod, replica in after.items() if replica != replicas[1])
    group.resize(2, 1, leaving=(named,))
    assert set(group.awaited(lambda there: len(there) == 2, "one engine")) == untouched
