"""Errors of form: each with its dotted path, what is wrong and what to do."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from rltrain_api.errors import ErrorCode, FieldError
from rltrain_api.job import RLTrainingJob
from rltrain_api.parse import parse_job

QUICKSTART = yaml.safe_load((Path(__file__).parents[2] / "examples" / "quickstart.yaml").read_text(encoding="utf-8"))


def changed(path: str, value: Any) -> dict[str, Any]:
    document: dict[str, Any] = copy.deepcopy(QUICKSTART)
    *parents, last = path.split(".")
    inner: Any = document
    for key in parents:
        inner = inner[int(key)] if isinstance(inner, list) else inner.setdefault(key, {})
    inner[last] = value
    return document


def without(path: str) -> dict[str, Any]:
    document: dict[str, Any] = copy.deepcopy(QUICKSTART)
    *parents, last = path.split(".")
    inner: Any = document
    for key in parents:
        inner = inner[int(key)] if isinstance(inner, list) else inner[key]
    del inner[last]
    return document


# Name of the case -> (document, path of the one error, its code, words that its message must hold).
ERRORS: dict[str, tuple[dict[str, Any], str, ErrorCode, tuple[str, ...]]] = {
    "misspelt field": (
        changed("spec.config.trainer.sead", 1),
        "spec.config.trainer.sead",
        ErrorCode.UNKNOWN_FIELD,
        ("no such field", "did you mean 'seed'?"),
    ),
    "field like nothing": (
        changed("spec.config.trainer.zzzzzz", 1),
        "spec.config.trainer.zzzzzz",
        ErrorCode.UNKNOWN_FIELD,
        ("no such field", "remove it"),
    ),
    "override of a field that is not there": (
        changed("spec.overrides", ["trainer.epochs=3", "trainer.sead=1"]),
        "spec.overrides[1]",
        ErrorCode.UNKNOWN_FIELD,
        ("trainer.sead: ", "did you mean 'seed'?"),
    ),
    "override of another type": (
        changed("spec.overrides", ["trainer.epochs=many"]),
        "spec.overrides[0]",
        ErrorCode.WRONG_TYPE,
        ("trainer.epochs: must be an integer", "'many'"),
    ),
    "override of a whole section": (
        changed("spec.overrides", ["trainer.placement={policy_num_nodes: 0}"]),
        "spec.overrides[0]",
        ErrorCode.OUT_OF_RANGE,
        ("trainer.placement.policy_num_nodes: must be at least 1",),
    ),
    "override of a section after one of its field": (
        changed("spec.overrides", ["trainer.epochs=1", "trainer={epochs: 0}"]),
        "spec.overrides[1]",
        ErrorCode.OUT_OF_RANGE,
        ("trainer.epochs: must be at least 1",),
    ),
    "override with Hydra's prefix": (
        changed("spec.overrides", ["+trainer.epochs=3"]),
        "spec.overrides[0]",
        ErrorCode.INVALID,
        ("Hydra's prefix", "write it without"),
    ),
    "override through a value": (
        changed("spec.overrides", ["trainer.seed.of=3"]),
        "spec.overrides[0]",
        ErrorCode.INVALID,
        ("trainer.seed is", "no fields"),
    ),
    "override that is no text": (
        changed("spec.overrides", [3]),
        "spec.overrides[0]",
        ErrorCode.WRONG_TYPE,
        ("must be a string",),
    ),
    "value of a variable that is no text, which may be a secret": (
        changed("spec.runtime.env", [{"name": "PIN", "value": 4711}]),
        "spec.runtime.env[0].value",
        ErrorCode.WRONG_TYPE,
        ("put it in quotes", "a value of another type (int)"),
    ),
    "SkyRL's name in another place": (
        changed("spec.config.generator.hf_save_interval", 5),
        "spec.config.generator.hf_save_interval",
        ErrorCode.UNKNOWN_FIELD,
        ("no such field here", "belongs below spec.config.trainer"),
    ),
    "snake_case outside config": (
        changed("spec.runtime.image_pull_policy", "Always"),
        "spec.runtime.image_pull_policy",
        ErrorCode.UNKNOWN_FIELD,
        ("did you mean 'imagePullPolicy'?",),
    ),
    "misspelt field in a list": (
        changed("spec.storage.data.0.mountpath", "/data"),
        "spec.storage.data[0].mountpath",
        ErrorCode.UNKNOWN_FIELD,
        ("did you mean 'mountPath'?",),
    ),
    "misspelt field at the top": (
        changed("specs", {}),
        "specs",
        ErrorCode.UNKNOWN_FIELD,
        ("did you mean 'spec'?",),
    ),
    "required field missing": (
        without("spec.runtime.image"),
        "spec.runtime.image",
        ErrorCode.REQUIRED,
        ("missing", "add it"),
    ),
    "text for an integer": (
        changed("spec.config.trainer.epochs", "3"),
        "spec.config.trainer.epochs",
        ErrorCode.WRONG_TYPE,
        ("must be an integer", "got '3'"),
    ),
    "bool for an integer": (
        changed("spec.config.trainer.epochs", True),
        "spec.config.trainer.epochs",
        ErrorCode.WRONG_TYPE,
        ("must be an integer", "got True"),
    ),
    "null where nothing is derived": (
        changed("spec.config.trainer.epochs", None),
        "spec.config.trainer.epochs",
        ErrorCode.WRONG_TYPE,
        ("must not be null", "remove it"),
    ),
    "number for a text": (
        changed("spec.runtime.env", [{"name": "A", "value": 1}]),
        "spec.runtime.env[0].value",
        ErrorCode.WRONG_TYPE,
        ("must be a string", "quotes"),
    ),
    "word for a bool or count": (
        changed("spec.config.trainer.policy.fsdp_config.reshard_after_forward", "yes"),
        "spec.config.trainer.policy.fsdp_config.reshard_after_forward",
        ErrorCode.WRONG_TYPE,
        ("true, false or an integer of at least 1", "got 'yes'"),
    ),
    "label that is called as a type": (
        changed("spec.pools.head.nodeSelector", {"bool": 1}),
        "spec.pools.head.nodeSelector.bool",
        ErrorCode.WRONG_TYPE,
        ("must be a string", "got 1"),
    ),
    "word outside an enumeration": (
        changed("spec.config.trainer.algorithm.loss_reduction", "mean"),
        "spec.config.trainer.algorithm.loss_reduction",
        ErrorCode.INVALID,
        ("'token_mean', 'sequence_mean'", "got 'mean'"),
    ),
    "number under its bound": (
        changed("spec.config.trainer.train_batch_size", 0),
        "spec.config.trainer.train_batch_size",
        ErrorCode.OUT_OF_RANGE,
        ("at least 1", "got 0"),
    ),
    "list too short": (
        changed("spec.config.trainer.policy.optimizer_config.adam_betas", [0.9]),
        "spec.config.trainer.policy.optimizer_config.adam_betas",
        ErrorCode.OUT_OF_RANGE,
        ("at least 2 entries",),
    ),
    "not a quantity": (
        changed("spec.pools.head.resources.memory", "4 GB"),
        "spec.pools.head.resources.memory",
        ErrorCode.INVALID,
        ("quantity such as 500m, 2 or 4Gi", "got '4 GB'"),
    ),
    "fractional number for a quantity": (
        changed("spec.pools.head.resources.cpu", 0.5),
        "spec.pools.head.resources.cpu",
        ErrorCode.WRONG_TYPE,
        ("must be a string",),
    ),
    "mount path that is not absolute": (
        changed("spec.storage.data.0.mountPath", "data"),
        "spec.storage.data[0].mountPath",
        ErrorCode.INVALID,
        ("absolute path",),
    ),
    "volume name with capitals": (
        changed("spec.storage.data.0.name", "Data"),
        "spec.storage.data[0].name",
        ErrorCode.INVALID,
        ("a-z, 0-9",),
    ),
    "GPU resource without a domain": (
        changed("spec.pools.trainer.gpuResource", "gpu"),
        "spec.pools.trainer.gpuResource",
        ErrorCode.INVALID,
        ("nvidia.com/gpu",),
    ),
    "GPU resource of the head": (
        changed("spec.pools.head.gpuResource", "nvidia.com/gpu"),
        "spec.pools.head.gpuResource",
        ErrorCode.UNKNOWN_FIELD,
        ("no such field",),
    ),
    "section that is no map": (
        changed("spec.storage.checkpoints", "/checkpoints"),
        "spec.storage.checkpoints",
        ErrorCode.WRONG_TYPE,
        ("map of fields",),
    ),
    "another kind": (changed("kind", "RayJob"), "kind", ErrorCode.INVALID, ("'RLTrainingJob'", "got 'RayJob'")),
    "initializer without a name": (
        without("spec.storage.initializers.0.name"),
        "spec.storage.initializers[0].name",
        ErrorCode.REQUIRED,
        ("add it",),
    ),
    "long value, cut": (
        changed("spec.runtime.imagePullPolicy", "x" * 500),
        "spec.runtime.imagePullPolicy",
        ErrorCode.INVALID,
        ("…",),
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_error_of_form(case: str) -> None:
    document, path, code, words = ERRORS[case]
    errors = parse_job(document)
    assert isinstance(errors, list), "the document was accepted"
    assert [(error.path, error.code) for error in errors] == [(path, code)]
    for word in words:
        assert word in errors[0].message
    assert len(errors[0].message) < 400


def test_all_errors_come_at_once_and_sorted() -> None:
    document = changed("spec.config.trainer.sead", 1)
    document["spec"]["runtime"] = {"env": [{"nam": "A"}]}
    errors = parse_job(document)
    assert isinstance(errors, list)
    assert [error.path for error in errors] == [
        "spec.config.trainer.sead",
        "spec.runtime.env[0].nam",
        "spec.runtime.env[0].name",
        "spec.runtime.image",
    ]


def test_overrides_win_over_the_configuration_and_the_last_one_wins() -> None:
    document = changed(
        "spec.overrides", ["trainer.epochs=3", "trainer.policy.optimizer_config.lr=1e-5", "trainer.epochs=4"]
    )
    job = parse_job(document)
    assert isinstance(job, RLTrainingJob)
    assert job.spec.config.trainer.epochs == 4
    assert job.spec.config.trainer.policy.optimizer_config.lr == 1e-5
    assert job.spec.overrides == document["spec"]["overrides"]
    assert document["spec"]["config"]["trainer"]["epochs"] == 2, "the document itself stays as it was"


def test_an_override_makes_a_field_set() -> None:
    job = parse_job(changed("spec.overrides", ["trainer.algorithm.temperature=null", "trainer.hf_save_interval=5"]))
    assert isinstance(job, RLTrainingJob)
    assert job.spec.config.trainer.algorithm.temperature is None
    assert "hf_save_interval" in job.spec.config.trainer.model_fields_set


def test_errors_of_overrides_and_of_the_rest_come_together() -> None:
    document = changed("spec.overrides", ["trainer.epochs=many", "nonsense"])
    document["spec"]["config"]["trainer"]["sead"] = 1
    errors = parse_job(document)
    assert isinstance(errors, list)
    assert [error.path for error in errors] == ["spec.config.trainer.sead", "spec.overrides[0]", "spec.overrides[1]"]


def test_a_document_of_nothing_names_what_is_missing() -> None:
    errors = parse_job({})
    assert isinstance(errors, list)
    assert [error.path for error in errors] == ["spec"]


def test_the_quickstart_is_read() -> None:
    job = parse_job(QUICKSTART)
    assert isinstance(job, RLTrainingJob)
    assert job.metadata.name == "quickstart"
    assert job.spec.pools.trainer.gpu_resource == "nvidia.com/gpu"
    assert job.spec.storage.initializers[0].backoff_limit == 2


def test_an_object_of_the_api_server_is_read() -> None:
    document = changed("spec.pools.head.resources.cpu", 2)
    document["metadata"] |= {
        "uid": "5c2b6f1e-0000-4000-8000-000000000000",
        "generation": 3,
        "creationTimestamp": "2026-01-31T12:00:00Z",
        "deletionTimestamp": "2026-01-31T13:00:00Z",
        "managedFields": [{"manager": "kubectl"}],
    }
    document["status"] = {
        "observedGeneration": 3,
        "phase": "Running",
        "conditions": [
            {"type": "Ready", "status": "True", "reason": "Training", "lastTransitionTime": "2026-01-31T12:00:00Z"}
        ],
        "ofANewerOperator": 1,
    }
    job = parse_job(document)
    assert isinstance(job, RLTrainingJob), job
    assert job.metadata.deleting
    assert job.spec.pools.head.resources.cpu == "2"
    ready = job.status.condition("Ready")
    assert ready is not None
    assert ready.reason == "Training"
    assert job.status.condition("Failed") is None


def test_an_error_reads_as_one_line() -> None:
    error = FieldError("spec.runtime.image", ErrorCode.REQUIRED, "is required and missing; add it")
    assert str(error) == "spec.runtime.image: is required and missing; add it"
