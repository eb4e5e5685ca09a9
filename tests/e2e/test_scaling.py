"""One job through what its cluster may go through: engines come and go, pods are replaced, the head's node is drained.

The job fetches its dataset from the quickstart's volume, so this file runs after test_quickstart.py. Its checkpoints
are so far apart that only those which a stop asks for can be the ones it goes on from; the tests follow each other.
"""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from rltrain_api import names
from rltrain_cluster.errors import ClusterError
from rltrain_e2e import INSIDE, KILL_DRIVER, NAMESPACE, Jobs, Object, condition, short_job, step

NAME = "elastic"
FETCHED = "/data/fetched"


def engines(job: Object) -> tuple[int, int]:
    """Engines that are wanted, and that serve."""
    found = job.get("status", {}).get("engines") or {}
    return found.get("desired", 0), found.get("ready", 0)


def cluster_uid(jobs: Jobs) -> str:
    (cluster,) = jobs.objects("rayclusters", NAME)
    return str(cluster["metadata"]["uid"])


@pytest.fixture(scope="module")
def running(jobs: Jobs) -> Object:
    """The job after two steps on two engines."""
    job = short_job(NAME, checkpoint_every=1000)
    storage, config = job["spec"]["storage"], job["spec"]["config"]
    storage["initializers"] = [{"name": "problems", "dataset": {"from": "/data/train.parquet", "to": FETCHED}}]
    config["data"]["train_data"] = [f"{FETCHED}/train.parquet"]
    jobs.apply(job)
    return jobs.wait_for(NAME, lambda job: step(job) >= 2, what="step 2", limit=400)


def test_the_dataset_was_fetched_before_any_gpu_was_taken(running: Object, jobs: Jobs) -> None:
    (initializer,) = running["status"]["initializers"]
    assert (initializer["name"], initializer["state"]) == ("problems", "Complete")
    volume = jobs.tools.cluster.volume_path(NAMESPACE, names.claim_name("quickstart", "data"))
    source, fetched = Path(volume, "train.parquet"), Path(volume, "fetched", "train.parquet")
    assert fetched.read_bytes() == source.read_bytes()
    (batch_job,) = jobs.objects("jobs.batch", NAME)
    (cluster,) = jobs.objects("rayclusters", NAME)
    assert batch_job["status"]["completionTime"] <= cluster["metadata"]["creationTimestamp"]


def test_engines_come_and_go_while_the_job_trains(running: Object, jobs: Jobs) -> None:
    cluster = cluster_uid(jobs)
    first = jobs.pods(NAME, "inference")
    jobs.scale(NAME, 3)
    more = jobs.wait_for(NAME, lambda job: engines(job) == (3, 3), what="three engines", limit=200)
    assert condition(more, "EnginesReady")["status"] == "True"
    assert set(first) < set(jobs.pods(NAME, "inference"))
    jobs.scale(NAME, 1)
    jobs.wait_for(
        NAME,
        lambda job: engines(job) == (1, 1) and len(jobs.pods(NAME, "inference")) == 1,
        what="one engine in one pod",
        limit=200,
    )
    trained = jobs.until_it_trains(NAME, attempt=more["status"]["attempt"], after=step(more))
    assert set(jobs.pods(NAME, "inference")) < set(first), "the oldest engine stays"
    assert cluster_uid(jobs) == cluster
    assert not {"stop", "lastFailure", "checkpoint"} & set(trained["status"]), "nothing was stopped for it"


def test_an_edit_of_pods_goes_on_in_a_new_cluster(running: Object, jobs: Jobs) -> None:
    before, attempt = cluster_uid(jobs), jobs.get(NAME)["status"]["attempt"]
    jobs.patch(NAME, {"pools": {"inference": {"resources": {"cpu": "150m"}}}})
    edited = jobs.until_it_trains(NAME, attempt=attempt + 1, after=step(jobs.get(NAME)))
    assert cluster_uid(jobs) != before
    assert edited["status"]["stop"]["reason"] == "Updating"
    assert edited["status"]["checkpoint"]["latestStep"] >= step(running)
    assert engines(edited)[0] == 1, "the number of engines is the one that was asked for last"


def test_a_drained_head_saves_first_and_costs_no_retry(running: Object, jobs: Jobs) -> None:
    head = jobs.head_pod(NAME)
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": head, "namespace": NAMESPACE},
    }
    path = f"/api/v1/namespaces/{NAMESPACE}/pods/{head}/eviction"
    with pytest.raises(ClusterError, match="disruption budget"):
        jobs.tools.kubectl("create", f"--raw={path}", "-f", "-", what="evicting the head", text=json.dumps(eviction))
    job = jobs.get(NAME)
    before, attempt = step(job), job["status"]["attempt"]
    # What `kubectl drain --disable-eviction` does.
    jobs.tools.kubectl("delete", "pod", head, INSIDE, "--wait=false", what="deleting the head pod")
    resumed = jobs.until_it_trains(NAME, attempt=attempt + 1, after=before)
    assert resumed["status"]["stop"]["reason"] == "DriverToldToStop"
    assert "lastFailure" not in resumed["status"]
    assert resumed["status"]["checkpoint"]["latestStep"] >= before


def test_a_failure_may_ask_for_a_new_cluster(running: Object, jobs: Jobs) -> None:
    before, status = cluster_uid(jobs), jobs.get(NAME)["status"]
    jobs.patch(NAME, {"failurePolicy": {"rules": [{"action": "RestartCluster"}]}})
    assert "killed" in jobs.in_pod(jobs.head_pod(NAME), "python", "-c", KILL_DRIVER)
    resumed = jobs.until_it_trains(NAME, attempt=status["attempt"] + 1, after=status["checkpoint"]["latestStep"])
    failure = resumed["status"]["lastFailure"]
    assert (failure["attempt"], failure["action"]) == (status["attempt"], "RestartCluster")
    assert failure["clusterUid"] == before != cluster_uid(jobs)


def test_a_job_whose_time_is_over_saves_and_fails(running: Object, jobs: Jobs) -> None:
    job = jobs.get(NAME)
    begun = datetime.fromisoformat(job["status"]["startTime"])
    seconds = int((datetime.now(UTC) - begun).total_seconds())
    jobs.patch(NAME, {"activeDeadlineSeconds": max(1, seconds)})
    failed = jobs.wait_for(
        NAME,
        lambda job: condition(job, "Failed").get("status") == "True",
        what="the end of its time",
        limit=120,
        unless=lambda _: False,
    )
    assert condition(failed, "Failed")["reason"] == "ActiveDeadlineExceeded"
    assert failed["status"]["checkpoint"]["latestStep"] == step(failed) >= step(job)
    jobs.delete(NAME)
