"""Storage as the operator plans, checks and shows it: claims and their owners, mounts, initializers, references."""

from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from rltrain_api.fetching import EXIT_FINAL
from rltrain_api.job import RLTrainingJob
from rltrain_api.parse import parse_job
from rltrain_api.resolve import resolved_document
from rltrain_api.spec.policies import FailureAction, FailurePolicy, FailureRule
from rltrain_api.status import ConditionType, Failure, InitializerStatus, Status
from rltrain_api.validate import validate
from rltrain_operator import plan
from rltrain_operator.cache import Cache
from rltrain_operator.kube import Body, NotFoundError, Resource
from rltrain_operator.kube.resources import BATCH_JOBS, PODS
from rltrain_operator.plan.mounts import claim_mounts, claim_volumes
from rltrain_operator.plan.one_node import pod_affinity, shares_a_node
from rltrain_operator.reconcile import reasons
from rltrain_operator.reconcile.draft import Draft
from rltrain_operator.reconcile.failing import default_action, fail_attempt
from rltrain_operator.reconcile.initializing import mirror_initializers
from rltrain_operator.reconcile.observe import view_initializers
from rltrain_operator.reconcile.references import amiss, claim_problem, claims_named
from rltrain_operator.reconcile.state import ClusterView, InitializerState, InitializerView, Observed, Subject

EXAMPLE = Path(__file__).parents[2] / "examples" / "quickstart.yaml"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
Change = Callable[[dict[str, Any]], None]


def make_job(change: Change = lambda spec: None, *, trainer_nodes: int = 1) -> RLTrainingJob:
    """The quickstart, changed, and valid."""
    document = yaml.safe_load(EXAMPLE.read_text())
    document["metadata"] = {"name": "run", "namespace": "team", "uid": "u-1", "generation": 1}
    document["spec"]["config"]["trainer"]["placement"]["policy_num_nodes"] = trainer_nodes
    change(document["spec"])
    job = parse_job(document)
    assert isinstance(job, RLTrainingJob), job
    errors = validate(job)
    assert not errors, errors
    return job


def existing(spec: dict[str, Any]) -> None:
    """Every volume is a claim that is there already; the cache too."""
    spec["storage"]["checkpoints"] = {"claimName": "shared"}
    spec["storage"]["data"] = [{"name": "data", "mountPath": "/data", "claimName": "corpus"}]
    spec["storage"]["cache"] = {"claimName": "shared"}


def resuming(**more: object) -> Change:
    def change(spec: dict[str, Any]) -> None:
        spec["storage"]["checkpoints"]["resumeFrom"] = {"job": "other", "step": 40, **more}

    return change


# --- claims, volumes and mounts ---------------------------------------------------------------------------------------


def test_checkpoints_outlive_the_job_unless_it_says_otherwise() -> None:
    def delete(spec: dict[str, Any]) -> None:
        spec["storage"]["checkpoints"]["deletePolicy"] = "Delete"

    kept, deleted = plan.plan_checkpoint_claim(make_job()), plan.plan_checkpoint_claim(make_job(delete))
    assert kept is not None
    assert deleted is not None
    assert "ownerReferences" not in kept["metadata"]
    assert [owner["uid"] for owner in deleted["metadata"]["ownerReferences"]] == ["u-1"]


def test_a_cache_of_the_job_s_own_goes_with_it() -> None:
    def cache(spec: dict[str, Any]) -> None:
        spec["storage"]["cache"] = {"claimTemplate": {"storage": "50Gi", "storageClassName": "fast"}}

    (_, claim) = plan.plan_data_claims(make_job(cache))
    assert claim["metadata"]["name"] == "run-cache"
    assert claim["metadata"]["ownerReferences"][0]["uid"] == "u-1"
    assert claim["spec"] == {
        "accessModes": ["ReadWriteMany"],
        "resources": {"requests": {"storage": "50Gi"}},
        "storageClassName": "fast",
    }


def test_a_claim_wanted_twice_is_one_volume_with_two_mounts() -> None:
    job = make_job(existing)
    assert plan.plan_data_claims(job) == []
    assert claim_volumes(job) == [
        {"name": "checkpoints", "persistentVolumeClaim": {"claimName": "shared"}},
        {"name": "data", "persistentVolumeClaim": {"claimName": "corpus"}},
    ]
    assert claim_mounts(job) == [
        {"name": "checkpoints", "mountPath": "/checkpoints"},
        {"name": "data", "mountPath": "/data"},
        {"name": "checkpoints", "mountPath": "/cache"},
    ]


def test_the_hub_s_client_is_pointed_at_the_cache() -> None:
    def elsewhere(spec: dict[str, Any]) -> None:
        existing(spec)
        spec["runtime"]["env"] = [{"name": "HF_HOME", "value": "/data/hub"}]

    for change, home in ((existing, "/cache/huggingface"), (elsewhere, "/data/hub")):
        container = plan.plan_ray_cluster(make_job(change))["spec"]["headGroupSpec"]["template"]["spec"]["containers"][
            0
        ]
        assert {"name": "HF_HOME", "value": home} in container["env"]


# --- another job's checkpoint -----------------------------------------------------------------------------------------

ORIGINS: dict[str, tuple[dict[str, object], str, str]] = {
    "by the other job's name": ({}, "other-checkpoints", "/resume/other/global_step_40"),
    "in a claim of another name": ({"claimName": "archive"}, "archive", "/resume/other/global_step_40"),
    "in a directory of another name": ({"path": "runs/a"}, "other-checkpoints", "/resume/runs/a/global_step_40"),
}


@pytest.mark.parametrize("case", ORIGINS)
def test_a_job_begins_from_another_s_step(case: str) -> None:
    more, claim, path = ORIGINS[case]
    job = make_job(resuming(**more))
    trainer = resolved_document(job)["trainer"]
    assert (trainer["resume_mode"], trainer["resume_path"]) == ("from_path", path)
    assert {"name": "resume", "persistentVolumeClaim": {"claimName": claim}} in claim_volumes(job)
    assert {"name": "resume", "mountPath": "/resume", "readOnly": True} in claim_mounts(job)
    assert [named for _, named, _ in claims_named(job)] == [claim]


def stored(spec: dict[str, Any]) -> None:
    """Checkpoints in an object store; the data's claim is there already, and there is no cache."""
    spec["storage"]["checkpoints"] = {"url": "s3://bucket/runs"}
    spec["storage"]["data"] = [{"name": "data", "mountPath": "/data", "claimName": "corpus"}]
    spec["config"]["trainer"]["ckpt_path"] = "s3://bucket/runs/run"


async def test_checkpoints_in_an_object_store_are_no_volume() -> None:
    job = make_job(stored)
    assert plan.plan_checkpoint_claim(job) is None
    assert [mount["mountPath"] for mount in claim_mounts(job)] == ["/data"]
    assert claim_volumes(job) == [{"name": "data", "persistentVolumeClaim": {"claimName": "corpus"}}]
    assert [claim for _, claim, _ in claims_named(job)] == ["corpus"]
    assert not shares_a_node(job)
    assert resolved_document(job)["trainer"]["ckpt_path"] == "s3://bucket/runs/run"


@pytest.mark.parametrize("url", ["gs://archive/other", "gs://archive/other/"])
def test_a_job_begins_from_a_step_in_an_object_store(url: str) -> None:
    job = make_job(resuming(url=url))
    trainer = resolved_document(job)["trainer"]
    path = "gs://archive/other/global_step_40"
    assert (trainer["resume_mode"], trainer["resume_path"]) == ("from_path", path)
    assert "/resume" not in [mount["mountPath"] for mount in claim_mounts(job)]
    assert "other-checkpoints" not in [claim for _, claim, _ in claims_named(job)]


def test_a_job_goes_back_on_its_own_volume() -> None:
    job = make_job(resuming(job="run"))
    assert [volume["name"] for volume in claim_volumes(job)] == ["checkpoints", "data"]
    assert {"name": "checkpoints", "mountPath": "/resume", "readOnly": True} in claim_mounts(job)
    assert list(claims_named(job)) == [], "its own claim is made when it is not there"


def test_without_an_origin_the_configuration_is_as_written() -> None:
    assert resolved_document(make_job())["trainer"]["resume_mode"] == "latest"


# --- one node ---------------------------------------------------------------------------------------------------------


def test_pods_with_a_disk_for_one_node_stay_together() -> None:
    job = make_job()
    assert shares_a_node(job)
    labels = {"rltrain.io/job": "run", "rltrain.io/role": "trainer"}
    term = {"labelSelector": {"matchLabels": labels}, "topologyKey": "kubernetes.io/hostname"}
    cluster = plan.plan_ray_cluster(job)["spec"]
    templates = {"head": cluster["headGroupSpec"]["template"]}
    templates |= {group["groupName"]: group["template"] for group in cluster["workerGroupSpecs"]}
    for role, template in templates.items():
        affinity = template["spec"]["affinity"]["podAffinity"]
        assert affinity["requiredDuringSchedulingIgnoredDuringExecution"] == [term], role
        # The required term must let the first pod that trains go anywhere: it fulfils the term itself.
        if role == "trainer":
            assert labels.items() <= template["metadata"]["labels"].items()
        assert ("preferredDuringSchedulingIgnoredDuringExecution" in affinity) is (role == "trainer")


def test_a_pool_s_own_affinity_stays() -> None:
    own = {"nodeAffinity": {"x": 1}, "podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"own": 1}]}}
    before = copy.deepcopy(own)
    affinity = pod_affinity(make_job(), "head", own)
    assert own == before
    assert affinity["nodeAffinity"] == {"x": 1}
    terms = affinity["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert terms[0] == {"own": 1}
    assert len(terms) == 2


def test_volumes_for_all_nodes_bind_no_pod() -> None:
    job = make_job(existing)
    assert not shares_a_node(job)
    assert "affinity" not in plan.plan_ray_cluster(job)["spec"]["headGroupSpec"]["template"]["spec"]


# --- initializers -----------------------------------------------------------------------------------------------------


def initializer_of(**fields: object) -> dict[str, Any]:
    def change(spec: dict[str, Any]) -> None:
        spec["storage"]["initializers"] = [{"name": "one", **fields}]

    job = make_job(change)
    return plan.plan_initializer(job, job.spec.storage.initializers[0])


def test_an_initializer_that_fetches() -> None:
    source = {"from": "hf://owner/name@v1", "to": "/data/model", "include": ["*.json", "*.safetensors"]}
    manifest = initializer_of(model=source, deadlineSeconds=600)
    (container,) = manifest["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["python", "-m", "rltrain_trainer.fetch", "model"]
    assert container["args"] == [
        *("--from", "hf://owner/name@v1", "--to", "/data/model", "--deadline", "540"),
        *("--include", "*.json", "--include", "*.safetensors"),
    ]
    (final, disrupted) = manifest["spec"]["podFailurePolicy"]["rules"]
    assert final["action"] == "FailJob"
    assert final["onExitCodes"] == {
        "containerName": container["name"],
        "operator": "In",
        "values": [EXIT_FINAL],
    }
    assert disrupted["action"] == "Ignore"
    assert manifest["spec"]["template"]["spec"]["restartPolicy"] == "Never", "a policy for failed pods asks for it"


def test_an_initializer_with_a_digest() -> None:
    digest = "a" * 64
    manifest = initializer_of(dataset={"from": "https://host/train.parquet", "to": "/data", "sha256": digest})
    container = manifest["spec"]["template"]["spec"]["containers"][0]
    assert container["command"][-1] == "dataset"
    assert container["args"][-2:] == ["--sha256", digest]


SCRIPTS = {"prepare.py": "python", "prepare.sh": "bash"}


@pytest.mark.parametrize("key", SCRIPTS)
def test_an_initializer_that_runs_a_script(key: str) -> None:
    manifest = initializer_of(script={"configMap": "scripts", "key": key}, args=["--all"], image="tools:1")
    pod = manifest["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert container["image"] == "tools:1"
    assert (container["command"], container["args"]) == ([SCRIPTS[key], f"/rltrain-script/{key}"], ["--all"])
    assert container["volumeMounts"][-1] == {
        "name": "initializer-script",
        "mountPath": "/rltrain-script",
        "readOnly": True,
    }
    assert pod["volumes"][-1] == {"name": "initializer-script", "configMap": {"name": "scripts"}}
    assert "podFailurePolicy" not in manifest["spec"]


def test_initializers_in_the_status() -> None:
    def change(spec: dict[str, Any]) -> None:
        spec["storage"]["initializers"] = [{"name": name, "command": ["true"]} for name in ("a", "b", "c")]

    wanted = make_job(change).spec.storage.initializers
    first = mirror_initializers(
        wanted,
        {"a": InitializerView(InitializerState.RUNNING, "try 2; the one before ended: no route", attempts=2)},
        [],
    )
    assert [(one.name, one.state, one.attempts) for one in first] == [
        ("a", "Running", 2),
        ("b", "Pending", 0),
        ("c", "Pending", 0),
    ]
    assert first[0].message == "try 2; the one before ended: no route"
    done = {"a": InitializerView(InitializerState.COMPLETE, "1 file, 3.0 MB, fetched in 2 s", attempts=2)}
    second = mirror_initializers(wanted, done, first)
    assert (second[0].state, second[0].message) == ("Complete", "1 file, 3.0 MB, fetched in 2 s")
    gone = mirror_initializers(wanted, {"a": InitializerView(InitializerState.COMPLETE, attempts=2)}, second)
    assert gone[0].message == "1 file, 3.0 MB, fetched in 2 s", "the pod is gone, its words stay"
    assert mirror_initializers(wanted, {}, second)[0] == second[0]
    assert (
        len(mirror_initializers(wanted, {"a": InitializerView(InitializerState.FAILED, "x" * 5000)}, [])[0].message)
        <= 500
    )


def seen_initializer(status: Body, *pods: tuple[str, str, Body]) -> InitializerView:
    """What is seen of the batch Job run-init-one and its pods: (name, creation, state of the container)."""
    cache, key = Cache(), ("team", "run")
    owners = [{"kind": "RLTrainingJob", "name": "run", "uid": "u-1"}]
    labels = {"rltrain.io/job": "run", "rltrain.io/role": "initializer", "job-name": "run-init-one"}

    def metadata(name: str, created: str) -> Body:
        return {
            "name": name,
            "namespace": "team",
            "uid": name,
            "resourceVersion": "1",
            "creationTimestamp": created,
            "labels": labels,
            "ownerReferences": owners,
        }

    cache.upsert(BATCH_JOBS, {"metadata": metadata("run-init-one", "2026-01-01T00:00:00Z"), "status": status})
    for name, created, state in pods:
        containers = [{"name": "initializer", "state": state}]
        body = {"metadata": metadata(name, created), "status": {"phase": "Running", "containerStatuses": containers}}
        cache.upsert(PODS, body)
    return view_initializers(cache, key, "u-1")["one"]


FIRST_POD: tuple[str, str, Body] = (
    "a",
    "2026-01-01T00:00:01Z",
    {"terminated": {"exitCode": 1, "message": "cannot reach hub"}},
)
SECOND_POD: tuple[str, str, Body] = ("b", "2026-01-01T00:00:09Z", {"running": {}})


def test_a_second_try_says_how_the_first_one_ended() -> None:
    view = seen_initializer({"active": 1, "failed": 1}, FIRST_POD, SECOND_POD)
    assert (view.state, view.attempts) == (InitializerState.RUNNING, 2)
    assert view.message == "try 2; the one before ended: cannot reach hub"


def test_the_last_words_of_an_initializer_that_is_done() -> None:
    done = ("b", "2026-01-01T00:00:09Z", {"terminated": {"exitCode": 0, "message": "3 files, 1.2 GB, fetched in 9 s"}})
    status = {"failed": 1, "conditions": [{"type": "Complete", "status": "True"}]}
    view = seen_initializer(status, FIRST_POD, done)
    assert (view.state, view.attempts) == (InitializerState.COMPLETE, 2)
    assert view.message == "3 files, 1.2 GB, fetched in 9 s"


# --- what a job names and does not make -------------------------------------------------------------------------------


class Shelf:
    """The objects that are there, by kind and name; counts the questions."""

    def __init__(self, **objects: Body) -> None:
        self.objects = objects
        self.asked: list[str] = []

    async def get(self, resource: Resource, namespace: str, name: str) -> Body:
        self.asked.append(f"{resource.kind}/{namespace}/{name}")
        if name not in self.objects:
            raise NotFoundError(404, f"{name} not found")
        return self.objects[name]


def claim(*modes: str, phase: str = "Bound", **metadata: str) -> Body:
    return {"metadata": {"name": "c", **metadata}, "spec": {"accessModes": list(modes)}, "status": {"phase": phase}}


async def test_a_job_of_templates_asks_for_nothing() -> None:
    shelf = Shelf()
    assert await amiss(make_job(), shelf) is None  # type: ignore[arg-type]  # only `get` is called
    assert shelf.asked == []


async def test_claims_that_are_there_are_fine() -> None:
    shelf = Shelf(shared=claim("ReadWriteMany"), corpus=claim("ReadOnlyMany"))
    assert await amiss(make_job(existing), shelf) is None  # type: ignore[arg-type]  # only `get` is called
    assert len(shelf.asked) == 3


async def test_a_claim_that_is_not_there_is_named_with_its_field() -> None:
    shelf = Shelf(shared=claim("ReadWriteMany"))
    blocked = await amiss(make_job(existing), shelf)  # type: ignore[arg-type]  # only `get` is called
    assert blocked is not None
    assert blocked.reason == reasons.CLAIM_NOT_FOUND
    assert blocked.message == (
        "spec.storage.data[0].claimName: there is no PersistentVolumeClaim corpus in namespace team; make it, or "
        "correct the name"
    )


async def test_another_job_s_checkpoints_must_be_there() -> None:
    blocked = await amiss(make_job(resuming()), Shelf())  # type: ignore[arg-type]  # only `get` is called
    assert blocked is not None
    assert blocked.message.startswith(
        "spec.storage.checkpoints.resumeFrom: there is no PersistentVolumeClaim other-checkpoints"
    )


async def test_scripts_must_be_there() -> None:
    def change(spec: dict[str, Any]) -> None:
        spec["storage"]["initializers"] = [{"name": "one", "script": {"configMap": "scripts", "key": "a.py"}}]

    cases: dict[str, dict[str, Body]] = {
        "there is no ConfigMap scripts": {},
        "ConfigMap scripts has no key a.py": {"scripts": {"data": {"b.py": ""}}},
        "": {"scripts": {"data": {"a.py": ""}}},
    }
    for words, objects in cases.items():
        blocked = await amiss(make_job(change), Shelf(**objects))  # type: ignore[arg-type]  # only `get` is called
        assert (blocked is None) is (words == "")
        if blocked is not None:
            assert blocked.reason == reasons.SCRIPT_NOT_FOUND
            assert words in blocked.message


SEVERAL = "config.trainer.placement.policy_num_nodes is 2"
CLAIMS: dict[str, tuple[Body, str | None, bool, str | None]] = {
    "for all nodes": (claim("ReadWriteMany"), SEVERAL, True, None),
    "for one node, where one will do": (claim("ReadWriteOnce"), None, True, None),
    "for one node, and there are several": (claim("ReadWriteOnce"), SEVERAL, True, "policy_num_nodes is 2"),
    "for one pod": (claim("ReadWriteOncePod"), None, True, "lets one pod mount it"),
    "to read, and it is read": (claim("ReadOnlyMany"), SEVERAL, False, None),
    "to read, and it is written": (claim("ReadOnlyMany"), None, True, "the job writes to it"),
    "lost": (claim("ReadWriteMany", phase="Lost"), None, True, "lost its volume"),
    "leaving": (claim("ReadWriteMany", deletionTimestamp="2026-01-01T00:00:00Z"), None, True, "is being deleted"),
    "not bound yet": (claim("ReadWriteMany", phase="Pending"), None, True, None),
}


@pytest.mark.parametrize("case", CLAIMS)
def test_what_a_claim_is_good_for(case: str) -> None:
    body, several, written, words = CLAIMS[case]
    problem = claim_problem(body, several, written=written)
    assert (problem is None) is (words is None)
    assert words is None or words in str(problem)


# --- a full volume ----------------------------------------------------------------------------------------------------


def failing(policy: FailurePolicy) -> Draft:
    """A draft of a job whose first attempt runs, under that policy."""
    job = make_job()
    job = job.model_copy(update={"spec": job.spec.model_copy(update={"failure_policy": policy})})
    status = Status(attempt=1, submission_id="run-u-1-1", start_time=NOW, attempt_start_time=NOW)
    cluster = ClusterView(uid="c", created=NOW, head_ready=True, ready_workers=3, wanted_workers=3)
    return Draft(Subject(job.metadata, status, job), Observed(cluster=cluster), NOW)


def test_a_full_volume_ends_the_job_and_not_its_retries() -> None:
    draft = failing(FailurePolicy())
    fail_attempt(draft, Failure(reason=reasons.VOLUME_FULL, role="trainer", message="No space left", remedy="enlarge"))
    assert draft.conditions.is_true(ConditionType.FAILED)
    failed = draft.conditions.get(ConditionType.FAILED)
    assert failed is not None
    assert failed.reason == "VolumeFull"
    assert "No space left" in failed.message
    assert "enlarge" in failed.message


def test_a_rule_may_have_a_full_volume_tried_again() -> None:
    rule = FailureRule(reasons=["VolumeFull"], action=FailureAction.RESTART_DRIVER)
    draft = failing(FailurePolicy(rules=[rule]))
    fail_attempt(draft, Failure(reason=reasons.VOLUME_FULL, role="trainer", message="No space left"))
    assert not draft.conditions.is_true(ConditionType.FAILED)


def test_other_failures_are_tried_again() -> None:
    assert default_action(Failure(reason="DriverLost")) is FailureAction.RESTART_DRIVER


def test_the_status_takes_what_is_said_of_initializers() -> None:
    status = Status(initializers=[InitializerStatus(name="a", state="Running", attempts=1)])
    assert status.model_dump(by_alias=True, exclude_none=True)["initializers"][0]["attempts"] == 1
