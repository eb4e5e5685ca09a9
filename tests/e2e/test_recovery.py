"""A driver that is killed, a job that is deleted, a job that is wrong: on the real cluster.

The short job trains on the quickstart's data volume, so this file runs after test_quickstart.py.
"""

import time
from pathlib import Path

import pytest

from rltrain_api import names
from rltrain_e2e import INSIDE, KILL_DRIVER, NAMESPACE, Jobs, Object, condition, quickstart, short_job, step

NAME = "short"
CHECKPOINT_EVERY = 3


@pytest.fixture(scope="module")
def running(jobs: Jobs) -> Object:
    """The short job after its first checkpoint."""
    jobs.apply(short_job(NAME, checkpoint_every=CHECKPOINT_EVERY))
    return jobs.wait_for(
        NAME,
        lambda job: (job.get("status", {}).get("checkpoint") or {}).get("latestStep", 0) >= CHECKPOINT_EVERY,
        what="the first checkpoint",
        limit=400,
    )


def test_a_killed_driver_resumes_from_the_newest_checkpoint(running: Object, jobs: Jobs) -> None:
    saved = running["status"]["checkpoint"]["latestStep"]
    assert "killed" in jobs.in_pod(jobs.head_pod(NAME), "python", "-c", KILL_DRIVER)
    lowest = step(running)
    deadline = time.monotonic() + 300
    while True:
        job = jobs.get(NAME)
        lowest = min(lowest, step(job))
        assert condition(job, "Failed").get("status") != "True", job["status"]
        if job["status"]["attempt"] == 2 and step(job) > step(running) and job["status"]["phase"] == "Running":
            break
        assert time.monotonic() < deadline, job["status"]
        time.sleep(0.5)
    assert lowest >= saved, "the step counter went back beyond the checkpoint"
    failure = job["status"]["lastFailure"]
    assert (failure["attempt"], bool(failure["reason"]), bool(failure["remedy"])) == (1, True, True)
    (cluster,) = jobs.objects("rayclusters", NAME)
    assert cluster["metadata"]["name"] == running["status"]["rayCluster"]["name"]


def test_deleting_the_job_removes_its_cluster_and_keeps_its_checkpoints(running: Object, jobs: Jobs) -> None:
    claim = names.claim_name(NAME, "checkpoints")
    volume = jobs.tools.cluster.volume_path(NAMESPACE, claim)
    jobs.delete(NAME)
    deadline = time.monotonic() + 120
    while left := [*jobs.objects("rayclusters", NAME), *jobs.objects("pods", NAME)]:
        assert time.monotonic() < deadline, [each["metadata"]["name"] for each in left]
        time.sleep(1)
    kept = jobs.tools.kubectl.get("persistentvolumeclaim", claim, INSIDE, what="the checkpoints' claim")
    assert kept["status"]["phase"] == "Bound"
    steps = [path for path in Path(volume, "short").iterdir() if path.name.startswith("global_step_")]
    assert any((path / "manifest.json").exists() for path in steps)


def test_an_invalid_job_creates_nothing_and_says_why(jobs: Jobs) -> None:
    job = quickstart()
    job["metadata"]["name"] = "invalid"
    job["spec"]["config"]["trainer"]["ckpt_path"] = "/tmp/lost"
    job["spec"]["config"]["data"]["train_data"] = ["/elsewhere/train.parquet"]
    jobs.apply(job)
    found = jobs.wait_for(
        "invalid",
        lambda job: condition(job, "ConfigValid").get("status") == "False",
        what="ConfigValid=False",
        limit=30,
        unless=lambda _: False,
    )
    message = condition(found, "ConfigValid")["message"]
    assert "spec.config.trainer.ckpt_path" in message
    assert "spec.config.data.train_data" in message
    assert condition(found, "Stalled")["status"] == "True"
    assert condition(found, "Ready")["status"] == "False"
    assert found["status"]["observedGeneration"] == found["metadata"]["generation"]
    for kind in ("configmaps", "secrets", "persistentvolumeclaims", "jobs.batch", "rayclusters", "pods"):
        assert jobs.objects(kind, "invalid") == [], kind
