"""The quickstart from `kubectl apply` to Succeeded, with the operator's pod killed on the way."""

import json
from pathlib import Path

import pytest

from rltrain_api import names
from rltrain_api.wire import History
from rltrain_cluster.demo import OPERATOR_NAMESPACE, POINTS_WANTED
from rltrain_e2e import INSIDE, NAMESPACE, Jobs, Object, condition, quickstart, step
from rltrain_operator.cli.summary import points_gained

NAME = "quickstart"


class Run:
    """What was seen before the operator was killed, and at the end."""

    def __init__(self, before: Object, after: Object, cluster_before: Object, history: History) -> None:
        self.before, self.after, self.cluster_before, self.history = before, after, cluster_before, history


@pytest.fixture(scope="module")
def run(jobs: Jobs) -> Run:
    kubectl = jobs.tools.kubectl
    jobs.apply(quickstart())
    before = jobs.wait_for(NAME, lambda job: step(job) >= 5, what="step 5", limit=600)
    (cluster_before,) = kubectl.get("rayclusters", INSIDE, what="the RayCluster")["items"]
    kubectl(
        *("delete", "pods", f"--namespace={OPERATOR_NAMESPACE}", "--all", "--grace-period=0", "--force"),
        what="killing the operator",
    )
    # What the README tells people to wait with.
    kubectl(
        *("wait", "--for=condition=Complete", f"rltj/{NAME}", INSIDE, "--timeout=900s"),
        what="waiting for the quickstart",
        limit=910,
    )
    config_map = kubectl.get("configmap", names.history_name(NAME), INSIDE, what="the history")
    return Run(before, jobs.get(NAME), cluster_before, History.model_validate_json(config_map["data"]["history.json"]))


def test_it_learns(run: Run) -> None:
    gained = points_gained(run.history)
    assert gained is not None
    assert gained >= POINTS_WANTED, run.history


def test_a_killed_operator_changes_nothing_for_the_run(run: Run, jobs: Jobs) -> None:
    assert run.after["status"]["attempt"] == 1
    assert run.after["status"]["submissionId"] == run.before["status"]["submissionId"]
    assert run.after["status"]["rayCluster"]["name"] == run.cluster_before["metadata"]["name"]
    assert step(run.after) == run.after["status"]["progress"]["totalSteps"]
    restarts = [point.step for point in run.history.points if point.reward is not None]
    assert restarts == sorted(set(restarts)), "no step was trained twice"


ENDED = {"Complete": "True", "Ready": "True", "ConfigValid": "True", "Reconciling": "False", "Stalled": "False"}


def test_conditions_at_the_end(run: Run) -> None:
    generation = run.after["metadata"]["generation"]
    for kind, status in ENDED.items():
        found = condition(run.after, kind)
        assert (found.get("status"), found.get("observedGeneration")) == (status, generation), (kind, found)
    assert run.after["status"]["observedGeneration"] == generation
    assert run.after["status"]["phase"] == "Succeeded"
    engines = condition(run.after, "EnginesReady")
    assert (engines["status"], engines["reason"]) == ("False", "Completed"), "they end with the run"


def test_the_table_that_people_see(run: Run, jobs: Jobs) -> None:
    header, row = jobs.tools.kubectl("get", "rltj", NAME, INSIDE, what="kubectl get rltj").splitlines()
    assert header.split() == ["NAME", "PHASE", "STEP", "PROGRESS", "REWARD", "ENGINES", "AGE"]
    assert row.split()[:3] == [NAME, "Succeeded", str(step(run.after))]


def test_the_checkpoint_is_on_the_volume(run: Run, jobs: Jobs) -> None:
    checkpoint = run.after["status"]["checkpoint"]
    assert checkpoint["latestStep"] == step(run.after)
    volume = jobs.tools.cluster.volume_path(NAMESPACE, names.claim_name(NAME, "checkpoints"))
    manifest = volume / Path(checkpoint["path"]).relative_to("/checkpoints") / "manifest.json"
    assert json.loads(manifest.read_text())["step"] == checkpoint["latestStep"]


def test_the_resolved_configuration_is_kept(run: Run, jobs: Jobs) -> None:
    name = run.after["status"]["resolvedConfig"]["configMap"]
    config_map = jobs.tools.kubectl.get("configmap", name, INSIDE, what="the resolved configuration")
    assert config_map["immutable"] is True
    assert "eval_sampling_params" in next(iter(config_map["data"].values()))


def test_no_token_is_told(run: Run, jobs: Jobs) -> None:
    import base64

    secret = jobs.tools.kubectl.get("secret", names.secret_name(NAME), INSIDE, what="the tokens")
    tokens = [base64.b64decode(value).decode() for value in secret["data"].values()]
    assert all(len(token) >= 32 for token in tokens)
    told = [json.dumps(run.after)]
    for kind in ("configmaps", "events", "rayclusters", "pods"):
        told.append(json.dumps(jobs.tools.kubectl.get(kind, INSIDE, what=kind)))
    told.append(
        jobs.tools.kubectl("logs", f"--namespace={OPERATOR_NAMESPACE}", "deployment/rltrain-operator", what="its log")
    )
    assert not [token for token in tokens for text in told if token in text]
