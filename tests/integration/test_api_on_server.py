"""The CustomResourceDefinition on a real API server: accepted, explained, and judging as our own code does.

Needs kubectl (KUBECTL or on PATH) and an API server that KUBECONFIG reaches. Objects are only tried (dry run), save one
that is invalid for the operator, so that no cluster is made for it; all of it is removed at the end.
"""

from __future__ import annotations

import json
import re
import time

import pytest

from api_server import (
    DEADLINE_SECONDS,
    DELETED,
    DRY_RUN,
    MANAGER,
    Document,
    assert_both_accept,
    attempt,
    changed,
    errors_of,
    example,
    run,
    try_to_create,
)
from rltrain_api import names
from rltrain_api.config import AlgorithmConfig
from rltrain_api.errors import ErrorCode
from rltrain_api.job import RLTrainingJob
from rltrain_api.validate import parse_job

pytestmark = pytest.mark.controlplane

QUICKSTART = example("quickstart.yaml")
COLOCATED = example("backends/vllm-colocated.yaml")  # upstream's trainer, 4 GPUs, 4 engines
TRAINER = "spec.config.trainer"
ALGORITHM = f"{TRAINER}.algorithm"
GENERATOR = "spec.config.generator"
ENGINE = f"{GENERATOR}.inference_engine"


ACCEPTED: dict[str, Document] = {
    "quickstart": QUICKSTART,
    "null for what SkyRL derives": changed(QUICKSTART, {f"{ALGORITHM}.temperature": None}),
    "null for the resume mode": changed(QUICKSTART, {f"{TRAINER}.resume_mode": None}),
    "integer quantity": changed(QUICKSTART, {"spec.pools.head.resources.cpu": 2}),
    "count for resharding": changed(QUICKSTART, {f"{TRAINER}.policy.fsdp_config.reshard_after_forward": 2}),
    "bool for resharding": changed(QUICKSTART, {f"{TRAINER}.policy.fsdp_config.reshard_after_forward": False}),
    "toleration as it is": changed(QUICKSTART, {"spec.pools.head.tolerations": [{"key": "gpu", "operator": "Exists"}]}),
    "defaults of everything optional": changed(QUICKSTART, {"spec.pools": DELETED}),
    "overrides": changed(
        QUICKSTART, {"spec.overrides": ["trainer.epochs=3", "trainer.policy.optimizer_config.lr=1e-6"]}
    ),
    "preset and exclusions of variables": changed(
        QUICKSTART, {"spec.runtime.envPreset": "debug", "spec.runtime.excludeEnv": ["NCCL*", "HF_HOME"]}
    ),
    "free maps": changed(
        COLOCATED,
        {
            f"{ENGINE}.engine_init_kwargs": {"max_model_len": 2048, "hf_overrides": {"rope_theta": [1, None]}},
            f"{TRAINER}.policy.model_config_kwargs": {"attention_dropout": 0.1},
        },
    ),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_both_accept(case: str, namespace: str) -> None:
    assert_both_accept(namespace, ACCEPTED[case])


# Name of the case -> (document, words that the API server's refusal must hold).
REFUSED: dict[str, tuple[Document, str]] = {
    "unknown value of a newer SkyRL": (
        changed(QUICKSTART, {f"{ALGORITHM}.loss_reduction": "token_mean_legacy"}),
        "sequence_mean",
    ),
    "no image": (changed(QUICKSTART, {"spec.runtime": {}}), "spec.runtime.image"),
    "fraction for an integer": (changed(QUICKSTART, {f"{TRAINER}.seed": 1.5}), f"{TRAINER}.seed"),
    "text for an integer": (changed(QUICKSTART, {f"{TRAINER}.seed": "1"}), f"{TRAINER}.seed"),
    "number under its bound": (changed(QUICKSTART, {f"{TRAINER}.epochs": 0}), "greater than or equal to 1"),
    "number at its exclusive bound": (changed(QUICKSTART, {f"{ALGORITHM}.eps_clip_low": 1}), "less than 1"),
    "word outside an enumeration": (changed(QUICKSTART, {f"{ALGORITHM}.loss_reduction": "mean"}), "token_mean"),
    "word outside a nullable enumeration": (changed(QUICKSTART, {f"{TRAINER}.resume_mode": "newest"}), "from_path"),
    "one beta": (changed(QUICKSTART, {f"{TRAINER}.policy.optimizer_config.adam_betas": [0.9]}), "at least 2 items"),
    "two volumes of one name": (
        changed(QUICKSTART, {"spec.storage.data": [QUICKSTART["spec"]["storage"]["data"][0]] * 2}),
        "Duplicate value",
    ),
    "one variable twice": (
        changed(QUICKSTART, {"spec.runtime.env": [{"name": "A"}, {"name": "A"}]}),
        "Duplicate value",
    ),
    "negative quantity": (changed(QUICKSTART, {"spec.pools.head.resources.cpu": -1}), "greater than or equal to 0"),
    "no quantity": (changed(QUICKSTART, {"spec.pools.head.resources.cpu": "2x"}), "should match"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_both_refuse(case: str, namespace: str) -> None:
    document, words = REFUSED[case]
    created = try_to_create(namespace, document)
    assert created.returncode != 0
    assert words in created.stderr
    assert errors_of(document)


# --- a job that is there

STORED = "stored"


@pytest.fixture(scope="module")
def stored(namespace: str) -> str:
    """The name of a job that is really there; its backend is not supported, so an operator makes nothing for it."""
    changes = {"metadata.name": STORED, ENGINE: {"backend": "vllm", "num_engines": 3}}
    run("create", "--namespace", namespace, "--filename=-", document=changed(QUICKSTART, changes))
    return STORED


# Path of a field that does not exist, as the server writes it, at several depths.
UNKNOWN = {
    "beside spec": "sped",
    "in the spec": "spec.runtimes",
    "outside of config": "spec.pools.trainer.resources.gpu",
    "in an entry of a list": "spec.storage.data[0].size",
    "in config": "spec.config.trianer",
    "a misspelt leaf": f"{TRAINER}.sead",
    "a newer SkyRL's": f"{TRAINER}.max_training_steps",
    "far down": f"{ALGORITHM}.off_policy_correction.tis_ratio_typ",
    "in a section that is not set": f"{TRAINER}.critic.model.lora.ranks",
}
WAYS = {
    "create": ("create", *DRY_RUN),
    "apply on the server": ("apply", "--server-side", MANAGER, *DRY_RUN),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", UNKNOWN)
def test_unknown_fields_are_refused(case: str, way: str, namespace: str) -> None:
    path = UNKNOWN[case]
    document = changed(QUICKSTART, {re.sub(r"\[(\d+)\]", r".\1", path): 1})
    call = attempt(*WAYS[way], "--namespace", namespace, "--filename=-", document=document)
    assert call.returncode != 0
    # A server-side apply is checked against the published schema, which names entries of a list by their key.
    said = call.stderr.replace('[name="data"]', "[0]")
    assert f'unknown field "{path}"' in said or f".{path}: field not declared in schema" in said
    (error,) = errors_of(document)
    assert (error.path, error.code) == (path, ErrorCode.UNKNOWN_FIELD)


def test_columns(namespace: str, stored: str) -> None:
    narrow = run("get", "rltj", "--namespace", namespace).splitlines()
    wide = run("get", "rltj", "--namespace", namespace, "--output=wide").splitlines()
    assert narrow[0].split() == ["NAME", "PHASE", "STEP", "PROGRESS", "REWARD", "ENGINES", "AGE"]
    assert wide[0].split() == [*narrow[0].split(), "ETA", "GOODPUT", "GPU-SECONDS", "ATTEMPT", "CLUSTER"]
    assert [line.split()[0] for line in narrow[1:]] == [stored]


@pytest.mark.parametrize("name", ["rltj", "rltrain", "all", names.KIND])
def test_short_name_categories_and_kind_find_it(name: str, namespace: str, stored: str) -> None:
    found = run("get", name, "--namespace", namespace, "--output=name").split()
    assert f"{names.KIND.lower()}.{names.GROUP}/{stored}" in found


def test_scale_shows_and_sets_the_number_of_engines(namespace: str, definition: str, stored: str) -> None:
    where = ("--namespace", namespace, definition, stored)
    assert json.loads(run("get", "--subresource=scale", *where, "-o", "json"))["spec"]["replicas"] == 3
    run("scale", *where, "--replicas=5")
    job = json.loads(run("get", *where, "-o", "json"))
    assert job["spec"]["config"]["generator"]["inference_engine"]["num_engines"] == 5


TIME = "2026-01-31T12:00:00Z"
STATUS: Document = {
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
    "initializers": [{"name": "data", "state": "Complete", "attempts": 1, "message": ""}],
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
    options = ("--server-side", "--subresource=status", *DRY_RUN, "--output=json")
    applied = json.loads(run("apply", *options, MANAGER, "--filename=-", document=document))
    assert applied["status"] == STATUS
    job = parse_job(applied)
    assert isinstance(job, RLTrainingJob), job
    assert job.status.model_dump(mode="json", by_alias=True, exclude_none=True) == STATUS


# --- kubectl explain


def explained(path: str) -> str:
    """What `kubectl explain` says; the API server publishes a schema a little after it serves the resource."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        call = attempt("explain", path)
        if call.returncode == 0:
            return call.stdout
        assert time.monotonic() < deadline, f"not explained within {DEADLINE_SECONDS} seconds: {call.stderr}"
        time.sleep(0.5)


def test_explanations_reach_the_leaves(definition: str) -> None:
    said = explained("rltj.spec.config.trainer.algorithm.advantage_estimator")
    assert "How the advantage of a response is estimated" in " ".join(said.split())
    assert "grpo" in said


def test_every_field_of_the_algorithm_is_explained(definition: str) -> None:
    _, _, fields = explained("rltj.spec.config.trainer.algorithm").partition("FIELDS:\n")
    # A field is two spaces, its name, a tab and its type; what follows, four spaces deep, is its description.
    found = dict(re.findall(r"^  (\w+)\t(?:.*\n(?:  enum:.*\n)?)((?:    .*\n)*)", fields, re.MULTILINE))
    assert found.keys() == AlgorithmConfig.model_fields.keys()
    for name, field in AlgorithmConfig.model_fields.items():
        assert str(field.description) in " ".join(found[name].split()), name
