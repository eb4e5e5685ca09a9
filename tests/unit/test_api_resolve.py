"""Defaults and derivations, against what SkyRL's constructors derive."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from rltrain_api.config import SkyRLTrainConfig
from rltrain_api.job import RLTrainingJob
from rltrain_api.parse import parse_job
from rltrain_api.resolve import document_hash, resolve, resolved_document

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart.yaml"

# Name of the case -> (what a person sets, what must come out at each path).
DERIVATIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "everything unset": (
        {},
        {
            "generator.max_input_length": 512,
            "generator.eval_sampling_params.temperature": 0.0,
            "generator.eval_sampling_params.max_generate_length": 1024,
            "generator.eval_sampling_params.top_p": 1.0,
            "trainer.algorithm.temperature": 1.0,
            "trainer.algorithm.max_seq_len": 1536,
            "trainer.ref.model.path": "Qwen/Qwen2.5-1.5B-Instruct",
        },
    ),
    "input length follows the prompt, and the sequence both": (
        {
            "trainer": {"max_prompt_length": 100},
            "generator": {"sampling_params": {"max_generate_length": 28}},
        },
        {
            "generator.max_input_length": 100,
            "trainer.algorithm.max_seq_len": 128,
            "generator.eval_sampling_params.max_generate_length": 28,
        },
    ),
    "sequence length follows a given input length": (
        {"trainer": {"max_prompt_length": 100}, "generator": {"max_turns": 3, "max_input_length": 300}},
        {"generator.max_input_length": 300, "trainer.algorithm.max_seq_len": 1324},
    ),
    "temperature follows sampling": (
        {"generator": {"sampling_params": {"temperature": 0.7}}},
        {"trainer.algorithm.temperature": 0.7, "generator.eval_sampling_params.temperature": 0.0},
    ),
    "evaluation takes nothing but the length from sampling": (
        {"generator": {"sampling_params": {"top_p": 0.9, "stop": ["</answer>"]}}},
        {"generator.eval_sampling_params.top_p": 1.0, "generator.eval_sampling_params.stop": None},
    ),
    "reference follows the policy": (
        {"trainer": {"policy": {"model": {"path": "/data/model"}}}},
        {"trainer.ref.model.path": "/data/model"},
    ),
    "what is set stays": (
        {
            "trainer": {
                "algorithm": {"temperature": 0.5, "max_seq_len": 7},
                "ref": {"model": {"path": "/data/reference"}},
            },
            "generator": {"eval_sampling_params": {"temperature": 0.3}},
        },
        {
            "trainer.algorithm.temperature": 0.5,
            "trainer.algorithm.max_seq_len": 7,
            "trainer.ref.model.path": "/data/reference",
            "generator.eval_sampling_params.temperature": 0.3,
            "generator.eval_sampling_params.max_generate_length": 1024,
        },
    ),
    "null means unset": (
        {"trainer": {"algorithm": {"temperature": None}}, "generator": {"eval_sampling_params": None}},
        {"trainer.algorithm.temperature": 1.0, "generator.eval_sampling_params.temperature": 0.0},
    ),
}


def value_at(document: dict[str, Any], path: str) -> Any:
    value: Any = document
    for key in path.split("."):
        value = value[key]
    return value


def quickstart(**trainer: Any) -> RLTrainingJob:
    document = yaml.safe_load(QUICKSTART.read_text(encoding="utf-8"))
    document["spec"]["config"]["trainer"] |= trainer
    job = parse_job(document)
    assert isinstance(job, RLTrainingJob), job
    return job


@pytest.mark.parametrize("case", DERIVATIONS)
def test_derivations(case: str) -> None:
    given, expected = DERIVATIONS[case]
    resolved = resolve(SkyRLTrainConfig.model_validate(given)).model_dump()
    assert {path: value_at(resolved, path) for path in expected} == expected


def test_resolving_leaves_the_given_config_alone() -> None:
    config = SkyRLTrainConfig()
    resolve(config)
    assert config.generator.max_input_length is None
    assert config.trainer.ref.model.path is None


def test_document_is_plain_data_and_resolves_to_itself() -> None:
    document = resolved_document(quickstart())
    assert json.loads(json.dumps(document)) == document
    assert resolve(SkyRLTrainConfig.model_validate(document)).model_dump(mode="json") == document


def test_document_keeps_the_order_of_declaration() -> None:
    document = resolved_document(quickstart())
    assert list(document) == ["data", "trainer", "generator", "environment"]
    assert list(document["data"]) == ["train_data", "val_data"]


def test_hash_ignores_how_a_number_was_written() -> None:
    one = quickstart(policy={"model": {"path": "/data/model"}, "optimizer_config": {"lr": 1}})
    other = quickstart(policy={"optimizer_config": {"lr": "1.0"}, "model": {"path": "/data/model"}})
    assert document_hash(resolved_document(one)) == document_hash(resolved_document(other))


def test_hash_is_the_same_for_a_default_and_the_same_value_set() -> None:
    assert document_hash(resolved_document(quickstart())) == document_hash(
        resolved_document(quickstart(update_epochs_per_batch=1))
    )


def test_hash_changes_with_any_value() -> None:
    hashes = {document_hash(resolved_document(quickstart(seed=seed))) for seed in range(4)}
    assert len(hashes) == 4
    assert all(len(text) == 64 for text in hashes)


def test_hash_ignores_the_order_of_keys() -> None:
    assert document_hash({"a": 1, "b": 2}) == document_hash({"b": 2, "a": 1})


VARIABLES: dict[str, tuple[dict[str, Any], dict[str, str], Any]] = {
    "W&B is off where nobody set a logger": ({}, {"SKYRL_DISABLE_WANDB": "1"}, "console"),
    "it is not off": ({}, {"SKYRL_DISABLE_WANDB": "0"}, "wandb"),
    "the configuration wins": ({"logger": ["wandb", "console"]}, {"SKYRL_DISABLE_WANDB": "1"}, ["wandb", "console"]),
}


@pytest.mark.parametrize(("trainer", "variables", "logger"), VARIABLES.values(), ids=VARIABLES)
def test_a_variable_says_the_logger_where_nobody_set_it(
    trainer: dict[str, Any], variables: dict[str, str], logger: Any
) -> None:
    assert resolved_document(job_with(trainer, variables))["trainer"]["logger"] == logger


def test_variables_say_the_counts_of_the_asynchronous_loop_where_nobody_set_them() -> None:
    variables = {"SKYRL_ASYNC_MAX_STALENESS": "2", "SKYRL_ASYNC_GENERATION_WORKERS": "64"}
    said = resolved_document(job_with({}, variables))["trainer"]["fully_async"]
    assert (said["max_staleness_steps"], said["num_parallel_generation_workers"]) == (2, 64)
    fields = {"fully_async": {"max_staleness_steps": 7}}
    kept = resolved_document(job_with(fields, variables))["trainer"]["fully_async"]
    assert (kept["max_staleness_steps"], kept["num_parallel_generation_workers"]) == (7, 64)
    wrong = resolved_document(job_with({}, {"SKYRL_ASYNC_MAX_STALENESS": "two"}))["trainer"]["fully_async"]
    assert wrong["max_staleness_steps"] == 4


def job_with(trainer: dict[str, Any], variables: dict[str, str]) -> RLTrainingJob:
    env = [{"name": name, "value": value} for name, value in variables.items()]
    document = {
        "apiVersion": "rltrain.io/v1alpha1",
        "kind": "RLTrainingJob",
        "metadata": {"name": "job"},
        "spec": {
            "config": {"trainer": trainer},
            "runtime": {"image": "trainer", "env": env},
            "storage": {"checkpoints": {"claimName": "checkpoints"}},
        },
    }
    return RLTrainingJob.model_validate(document)
