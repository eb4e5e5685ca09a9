"""A job that trains loses its quota to Kueue, and goes on at the same step when it has it again.

Kueue's real controller runs in the cluster. The job trains on the quickstart's data, so this file runs after
test_quickstart.py; its checkpoints are so far apart that only the one which its pods ask for can be the one it goes on
from.
"""

import json
from collections.abc import Iterator

import pytest

from rltrain_cluster import kueue
from rltrain_e2e import INSIDE, NAMESPACE, Jobs, Object, condition, short_job, step

NAME = "queued"
API = "kueue.x-k8s.io/v1beta2"
QUOTA = {"cpu": "100", "memory": "1Ti", "nvidia.com/gpu": "4"}  # a trainer with two and two engines


def queue_objects() -> list[Object]:
    """One queue that holds exactly one of these jobs."""
    resources = [{"name": name, "nominalQuota": amount} for name, amount in QUOTA.items()]
    groups = [{"coveredResources": list(QUOTA), "flavors": [{"name": "any", "resources": resources}]}]
    return [
        {"apiVersion": API, "kind": "ResourceFlavor", "metadata": {"name": "any"}},
        {
            "apiVersion": API,
            "kind": "ClusterQueue",
            "metadata": {"name": "gpus"},
            "spec": {"namespaceSelector": {}, "resourceGroups": groups},
        },
        {
            "apiVersion": API,
            "kind": "LocalQueue",
            "metadata": {"namespace": NAMESPACE, "name": "research"},
            "spec": {"clusterQueue": "gpus"},
        },
    ]


@pytest.fixture(scope="module")
def admitted(jobs: Jobs) -> Iterator[Object]:
    """The job, admitted by Kueue, after some steps."""
    jobs.tools.cluster.ensure_kueue(print)
    kueue.wait_for_definitions(jobs.tools.kubectl)
    jobs.tools.kubectl.apply(queue_objects(), "the queues")
    job = short_job(NAME, checkpoint_every=1000)
    job["spec"]["queueName"] = "research"
    jobs.apply(job)
    yield jobs.wait_for(NAME, lambda job: step(job) >= 2, what="step 2", limit=400)
    jobs.delete(NAME)


def set_active(jobs: Jobs, active: bool) -> None:
    """Evict the job's workload, or let it in again: what an administrator does, and preemption does the same."""
    (workload,) = jobs.tools.kubectl.get("workloads", INSIDE, what="the workload")["items"]
    change = json.dumps({"spec": {"active": active}})
    arguments = ("workload", workload["metadata"]["name"], INSIDE, "--type=merge", f"--patch={change}")
    jobs.tools.kubectl("patch", *arguments, what="changing the workload")


def test_an_evicted_job_saves_its_last_step_and_gives_its_gpus_back(admitted: Object, jobs: Jobs) -> None:
    assert condition(admitted, "QuotaReserved")["status"] == "True"
    set_active(jobs, False)
    evicted = jobs.wait_for(
        NAME,
        lambda job: condition(job, "QuotaReserved")["status"] == "False" and not jobs.objects("pods", NAME),
        what="its eviction",
        limit=200,
    )
    assert evicted["status"]["phase"] == "Queued"
    assert evicted["status"]["checkpoint"]["latestStep"] >= step(admitted) >= 2
    assert "lastFailure" not in evicted["status"]


def test_it_goes_on_at_the_same_step_when_it_is_let_in_again(admitted: Object, jobs: Jobs) -> None:
    evicted = jobs.get(NAME)
    set_active(jobs, True)
    resumed = jobs.until_it_trains(NAME, attempt=2, after=evicted["status"]["checkpoint"]["latestStep"])
    assert condition(resumed, "QuotaReserved")["status"] == "True"
    assert resumed["status"].get("failures", 0) == 0
    assert "lastFailure" not in resumed["status"]
