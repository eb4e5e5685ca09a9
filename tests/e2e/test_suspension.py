"""Suspended, resumed, edited: on the real cluster, and not one step is done twice.

The job trains on the quickstart's data volume, so this file runs after test_quickstart.py. Its checkpoints are so far
apart that only the one which the stop asks for can be the one it goes on from.
"""

import pytest

from rltrain_e2e import Jobs, Object, condition, short_job, step

NAME = "paused"


@pytest.fixture(scope="module")
def suspended(jobs: Jobs) -> Object:
    """The job, suspended after some steps."""
    jobs.apply(short_job(NAME, checkpoint_every=1000))
    jobs.wait_for(NAME, lambda job: step(job) >= 2, what="step 2", limit=400)
    jobs.patch(NAME, {"suspend": True})
    return jobs.wait_for(
        NAME, lambda job: condition(job, "Suspended").get("status") == "True", what="Suspended", limit=300
    )


@pytest.fixture(scope="module")
def resumed(suspended: Object, jobs: Jobs) -> Object:
    """The job after it has gone on; its step never falls on the way."""
    jobs.patch(NAME, {"suspend": False})
    return jobs.until_it_trains(NAME, attempt=2, after=step(suspended))


def test_a_suspended_job_has_saved_its_last_step_and_given_all_back(suspended: Object, jobs: Jobs) -> None:
    status = suspended["status"]
    assert status["phase"] == "Suspended"
    assert status["checkpoint"]["latestStep"] == step(suspended) >= 2
    assert (status["stop"]["attempt"], status["stop"]["reason"]) == (1, "Suspending")
    assert jobs.objects("rayclusters", NAME) == []
    assert jobs.objects("pods", NAME) == []


def test_it_goes_on_at_the_same_step(resumed: Object) -> None:
    status = resumed["status"]
    assert condition(resumed, "Suspended")["status"] == "False"
    assert "lastFailure" not in status
    assert status.get("failures", 0) == 0


def test_an_edit_of_the_configuration_goes_on_in_the_same_cluster(resumed: Object, jobs: Jobs) -> None:
    (before,) = jobs.objects("rayclusters", NAME)
    jobs.patch(NAME, {"config": {"trainer": {"policy": {"optimizer_config": {"lr": 1e-4}}}}})
    edited = jobs.until_it_trains(NAME, attempt=3, after=step(resumed))
    (after,) = jobs.objects("rayclusters", NAME)
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert edited["status"]["resolvedConfig"]["configMap"] == f"{NAME}-config-{edited['metadata']['generation']}"
    assert edited["status"]["checkpoint"]["latestStep"] >= step(resumed)
    jobs.delete(NAME)
