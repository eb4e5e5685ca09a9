"""The CustomResourceDefinition on a real API server: accepted, explained, and judging as our own code does.

Needs kubectl (KUBECTL or on PATH) and a cluster that KUBECONFIG reaches. Objects are only tried (dry run), save one
that is invalid for the operator, so that no cluster is made for it; all of it is removed at the end. A definition that
was there before, such as the chart's, is left in place, and the committed one is tried on top of it.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from rltrain_api import crdgen, names
from rltrain_api.job import RLTrainingJob
from rltrain_api.validate import parse_job, validate

pytestmark = pytest.mark.cluster

QUICKSTART = yaml.safe_load((Path(__file__).parents[2] / "examples" / "quickstart.yaml").read_text(encoding="utf-8"))
TRAINER = "spec.config.trainer"
DEFINITION = f"{names.PLURAL}.{names.GROUP}"
DEADLINE_SECONDS = 30
DELETED = object()


def attempt(*arguments: str, document: dict[str, Any] | None = None) -> subprocess.CompletedProcess[str]:
    """One call of kubectl, which may fail; `document` is what it reads from `-f -`."""
    kubectl = os.environ.get("KUBECTL") or shutil.which("kubectl")
    if kubectl is None:
        pytest.fail("these tests need kubectl: put it on PATH, or its path into KUBECTL")
    return subprocess.run(
        [kubectl, *arguments],
        input=None if document is None else json.dumps(document),
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )


def run(*arguments: str, document: dict[str, Any] | None = None) -> str:
    """One call of kubectl that must succeed; what it printed."""
    call = attempt(*arguments, document=document)
    assert call.returncode == 0, f"kubectl {' '.join(arguments)}: {call.stderr}"
    return call.stdout


@pytest.fixture(scope="module")
def definition() -> Iterator[None]:
    """The definition, served; removed again where it was not there before."""
    existing = bool(run("get", "customresourcedefinition", "--ignore-not-found", DEFINITION, "-o", "name"))
    dry_run = ["--dry-run=server"] if existing else []
    manager = ["--field-manager=rltrain-api-tests", "--force-conflicts", "--validate=strict"]
    run("apply", "--server-side", *manager, *dry_run, "-f", str(crdgen.MANIFEST))
    run("wait", "--for=condition=Established", f"--timeout={DEADLINE_SECONDS // 2}s", f"crd/{DEFINITION}")
    yield
    if not existing:
        run("delete", "customresourcedefinition", DEFINITION)


@pytest.fixture(scope="module")
def namespace(definition: None) -> Iterator[str]:
    name = f"rltrain-api-{uuid.uuid4().hex[:8]}"
    run("create", "namespace", name)
    yield name
    run("delete", "namespace", name, "--wait=false")


def changed(path: str, value: Any) -> dict[str, Any]:
    """The quickstart with one value replaced, or removed where it is DELETED."""
    document: dict[str, Any] = copy.deepcopy(QUICKSTART)
    *parents, last = path.split(".")
    inner: Any = document
    for key in parents:
        inner = inner[int(key)] if isinstance(inner, list) else inner.setdefault(key, {})
    if value is DELETED:
        del inner[last]
    else:
        inner[last] = value
    return document


def try_to_create(namespace: str, document: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """A strict server-side dry run of creating it."""
    options = ("--dry-run=server", "--validate=strict", "--output=json")
    return attempt("create", "--namespace", namespace, *options, "--filename=-", document=document)


ACCEPTED: dict[str, dict[str, Any]] = {
    "quickstart": QUICKSTART,
    "null for what SkyRL derives": changed(f"{TRAINER}.algorithm.temperature", None),
    "null for the resume mode": changed(f"{TRAINER}.resume_mode", None),
    "integer quantity": changed("spec.pools.head.resources.cpu", 2),
    "count for resharding": changed(f"{TRAINER}.policy.fsdp_config.reshard_after_forward", 2),
    "bool for resharding": changed(f"{TRAINER}.policy.fsdp_config.reshard_after_forward", False),
    "toleration as it is": changed("spec.pools.head.tolerations", [{"key": "gpu", "operator": "Exists"}]),
    "defaults of everything optional": changed("spec.pools", DELETED),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_both_accept(case: str, namespace: str) -> None:
    document = ACCEPTED[case]
    created = try_to_create(namespace, document)
    assert created.returncode == 0, created.stderr
    ours, stored = parse_job(document), parse_job(json.loads(created.stdout))
    assert isinstance(ours, RLTrainingJob), ours
    assert isinstance(stored, RLTrainingJob), stored
    assert validate(ours) == []
    assert stored.spec == ours.spec, "what the API server fills in differs from the models' defaults"


# Name of the case -> (document, words that the API server's refusal must hold).
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "name too long": (changed("metadata.name", "j" * 46), "at most 45 characters"),
    "name begins with a digit": (changed("metadata.name", "1job"), "begin with a letter"),
    "unknown field": (changed(f"{TRAINER}.sead", 1), "unknown field"),
    "field not carried": (changed(f"{TRAINER}.hf_save_interval", 1), "unknown field"),
    "no image": (changed("spec.runtime", {}), "spec.runtime.image"),
    "fraction for an integer": (changed(f"{TRAINER}.seed", 1.5), "spec.config.trainer.seed"),
    "text for an integer": (changed(f"{TRAINER}.seed", "1"), "spec.config.trainer.seed"),
    "number under its bound": (changed(f"{TRAINER}.epochs", 0), "greater than or equal to 1"),
    "number at its exclusive bound": (changed(f"{TRAINER}.algorithm.eps_clip_low", 1), "less than 1"),
    "word outside an enumeration": (changed(f"{TRAINER}.algorithm.loss_reduction", "mean"), "token_mean"),
    "word outside a nullable enumeration": (changed(f"{TRAINER}.resume_mode", "newest"), "from_path"),
    "one beta": (changed(f"{TRAINER}.policy.optimizer_config.adam_betas", [0.9]), "at least 2 items"),
    "batch not of whole mini-batches": (
        changed(f"{TRAINER}.train_batch_size", QUICKSTART["spec"]["config"]["trainer"]["policy_mini_batch_size"] + 1),
        "multiple of policy_mini_batch_size",
    ),
    "no checkpoint kept": (changed(f"{TRAINER}.max_ckpts_to_keep", 0), "use -1 to keep all"),
    "resume from nowhere": (changed(f"{TRAINER}.resume_mode", "from_path"), "needs resume_path"),
    "two sources of a volume": (changed("spec.storage.data.0.claimName", "data"), "exactly one of claimTemplate"),
    "no source of a volume": (changed("spec.storage.checkpoints", {}), "exactly one of claimTemplate"),
    "two volumes of one name": (
        changed("spec.storage.data", [QUICKSTART["spec"]["storage"]["data"][0]] * 2),
        "Duplicate value",
    ),
    "environment from nowhere": (changed("spec.runtime.envFrom", [{}]), "exactly one of secretRef"),
    "one variable twice": (changed("spec.runtime.env", [{"name": "A"}, {"name": "A"}]), "Duplicate value"),
    "negative quantity": (changed("spec.pools.head.resources.cpu", -1), "greater than or equal to 0"),
    "no quantity": (changed("spec.pools.head.resources.cpu", "2x"), "should match"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_both_refuse(case: str, namespace: str) -> None:
    document, words = REFUSED[case]
    created = try_to_create(namespace, document)
    assert created.returncode != 0
    assert words in created.stderr
    ours = parse_job(document)
    assert ours if isinstance(ours, list) else validate(ours)


@pytest.fixture(scope="module")
def stored(namespace: str) -> str:
    """The name of a job that is really there; its backend is not supported, so an operator makes nothing for it."""
    document = changed("spec.config.generator.inference_engine", {"backend": "vllm", "num_engines": 3})
    run("create", "--namespace", namespace, "--filename=-", document=document)
    return str(document["metadata"]["name"])


def test_checkpoints_cannot_change(namespace: str, stored: str) -> None:
    patch = json.dumps({"spec": {"storage": {"checkpoints": {"mountPath": "/elsewhere"}}}})
    options = ("--type=merge", "--dry-run=server", f"--patch={patch}")
    call = attempt("patch", "--namespace", namespace, DEFINITION, stored, *options)
    assert call.returncode != 0
    assert "create another RLTrainingJob" in call.stderr


def test_scale_shows_and_sets_the_number_of_engines(namespace: str, stored: str) -> None:
    where = ("--namespace", namespace, DEFINITION, stored)
    assert json.loads(run("get", "--subresource=scale", *where, "-o", "json"))["spec"]["replicas"] == 3
    run("scale", *where, "--replicas=5")
    job = json.loads(run("get", *where, "-o", "json"))
    assert job["spec"]["config"]["generator"]["inference_engine"]["num_engines"] == 5


TIME = "2026-01-31T12:00:00Z"
STATUS: dict[str, Any] = {
    "observedGeneration": 1,
    "phase": "Running",
    "conditions": [
        {
            "type": "Ready",
            "status": "True",
            "reason": "Training",
            "message": "step 3 of 20",
            "observedGeneration": 1,
            "lastTransitionTime": TIME,
        }
    ],
    "attempt": 2,
    "submissionId": "job-5c2b6f1e-2",
    "startTime": TIME,
    "attemptStartTime": TIME,
    "completionTime": TIME,
    "lastFailure": {
        "reason": "DriverExited",
        "role": "head",
        "pod": "job-head",
        "exitCode": 137,
        "message": "killed",
        "remedy": "raise the memory",
        "time": TIME,
        "attempt": 1,
    },
    "rayCluster": {"name": "job", "dashboard": "http://job-head-svc.default.svc:8265"},
    "resolvedConfig": {"configMap": "job-config-1", "hash": "0" * 64},
    "progress": {
        "step": 3,
        "totalSteps": 20,
        "epoch": 0,
        "percent": 15,
        "etaSeconds": 100,
        "reward": 0.25,
        "evalScore": 0.5,
        "tokensPerSecond": 1000.5,
        "weightVersion": 3,
        "phase": "Training",
        "message": "generating",
        "updated": TIME,
    },
    "engines": {"desired": 3, "ready": 2, "selector": "rltrain.io/job=job,rltrain.io/role=inference"},
    "checkpoint": {"latestStep": 2, "path": "/checkpoints/job/global_step_2", "time": TIME, "bytes": 2**40},
    "durations": {"initializing": 60.5, "train/generate": 12.25},
}


def test_a_whole_status_is_kept_as_it_is(namespace: str, stored: str) -> None:
    document = {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {"name": stored, "namespace": namespace},
        "status": STATUS,
    }
    options = ("--server-side", "--subresource=status", "--dry-run=server", "--validate=strict", "--output=json")
    applied = json.loads(run("apply", *options, "--field-manager=rltrain-api-tests", "--filename=-", document=document))
    assert applied["status"] == STATUS
    job = parse_job(applied)
    assert isinstance(job, RLTrainingJob), job
    assert job.status.model_dump(mode="json", by_alias=True, exclude_none=True) == STATUS


def test_explanations_reach_the_leaves(definition: None) -> None:
    """The API server publishes the schema a little after it serves the resource, hence the deadline."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        call = attempt("explain", f"{names.PLURAL}.spec.config.trainer.algorithm.advantage_estimator")
        if call.returncode == 0:
            break
        assert time.monotonic() < deadline, f"not explained within {DEADLINE_SECONDS} seconds: {call.stderr}"
        time.sleep(0.5)
    assert "How the advantage of a response is estimated" in " ".join(call.stdout.split())
    assert "grpo" in call.stdout
