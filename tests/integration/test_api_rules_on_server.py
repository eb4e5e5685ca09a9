"""Every rule between fields that the API server checks itself (CEL): what it refuses, what it says, what mends it.

Each rule has a job that breaks it and the same job after the remedy, and our own code judges both alike. The last test
fails when the definition has a rule that is not tried here. Needs kubectl and an API server, as test_api_on_server.py.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from api_server import (
    DELETED,
    Document,
    assert_both_accept,
    attempt,
    changed,
    errors_of,
    example,
    rule_messages,
    run,
    try_to_create,
)

pytestmark = pytest.mark.controlplane

QUICKSTART = example("quickstart.yaml")
COLOCATED = example("backends/vllm-colocated.yaml")  # upstream's trainer, 4 GPUs, 4 engines
TRAINER = "spec.config.trainer"
ALGORITHM = f"{TRAINER}.algorithm"
GENERATOR = "spec.config.generator"
ENGINE = f"{GENERATOR}.inference_engine"

Rule = tuple[Document, dict[str, Any], dict[str, Any], str, str]
# Name -> (document, changes that break it, further changes that mend it, words of the server, path of our error).
CEL: dict[str, Rule] = {
    "name too long": (
        QUICKSTART,
        {"metadata.name": "j" * 46},
        {"metadata.name": "j" * 45},
        "metadata.name may have at most 45 characters",
        "metadata.name",
    ),
    "name begins with a digit": (
        QUICKSTART,
        {"metadata.name": "1job"},
        {"metadata.name": "job1"},
        "metadata.name must begin with a letter",
        "metadata.name",
    ),
    "batch not of whole mini-batches": (
        QUICKSTART,
        {f"{TRAINER}.train_batch_size": 33},
        {f"{TRAINER}.train_batch_size": 48},
        "must be a multiple of policy_mini_batch_size",
        f"{TRAINER}.train_batch_size",
    ),
    "default batch not of whole mini-batches": (
        COLOCATED,
        {f"{TRAINER}.policy_mini_batch_size": 384},
        {f"{TRAINER}.policy_mini_batch_size": 512},
        "must be a multiple of policy_mini_batch_size",
        f"{TRAINER}.train_batch_size",
    ),
    "batch not of whole mini-batches of the critic": (
        COLOCATED,
        {
            f"{TRAINER}.critic.model.path": "Qwen/Qwen2.5-1.5B-Instruct",
            f"{TRAINER}.placement.critic_num_gpus_per_node": 4,
            f"{TRAINER}.critic_mini_batch_size": 384,
        },
        {f"{TRAINER}.critic_mini_batch_size": 512},
        "must be a multiple of critic_mini_batch_size",
        f"{TRAINER}.train_batch_size",
    ),
    "no critic": (
        COLOCATED,
        {f"{ALGORITHM}.advantage_estimator": "gae", f"{TRAINER}.placement.critic_num_gpus_per_node": 4},
        {f"{TRAINER}.critic.model.path": "Qwen/Qwen2.5-1.5B-Instruct"},
        "advantage_estimator gae needs a critic",
        f"{TRAINER}.critic.model.path",
    ),
    "no checkpoint kept": (
        QUICKSTART,
        {f"{TRAINER}.max_ckpts_to_keep": 0},
        {f"{TRAINER}.max_ckpts_to_keep": -1},
        "max_ckpts_to_keep 0 would keep no checkpoint",
        f"{TRAINER}.max_ckpts_to_keep",
    ),
    "resume from nowhere": (
        QUICKSTART,
        {f"{TRAINER}.resume_mode": "from_path"},
        {f"{TRAINER}.resume_path": "/checkpoints/quickstart/global_step_16"},
        "needs resume_path",
        f"{TRAINER}.resume_path",
    ),
    "divergence counted twice": (
        COLOCATED,
        {
            f"{ALGORITHM}.use_kl_in_reward": True,
            f"{ALGORITHM}.use_kl_loss": DELETED,
            f"{TRAINER}.placement.ref_num_gpus_per_node": 4,
        },
        {f"{ALGORITHM}.use_kl_loss": False},
        "use_kl_in_reward and use_kl_loss (default true) exclude each other",
        f"{ALGORITHM}.use_kl_loss",
    ),
    "old form of truncation without its cap": (
        COLOCATED,
        {f"{ALGORITHM}.use_tis": True},
        {f"{ALGORITHM}.tis_imp_ratio_cap": 2.0},
        "use_tis needs a tis_imp_ratio_cap above 0",
        f"{ALGORITHM}.tis_imp_ratio_cap",
    ),
    "experts on some of an engine's GPUs": (
        COLOCATED,
        {f"{ENGINE}.expert_parallel_size": 2},
        {f"{ENGINE}.tensor_parallel_size": 2, f"{ENGINE}.num_engines": 2},
        "expert_parallel_size must be 1, or tensor_parallel_size times data_parallel_size",
        f"{ENGINE}.expert_parallel_size",
    ),
    "engines on other GPUs than the policy's": (
        COLOCATED,
        {f"{ENGINE}.num_engines": 3},
        {f"{ENGINE}.num_engines": 2, f"{ENGINE}.data_parallel_size": 2},
        "the engines' GPUs (num_engines times tensor",
        f"{ENGINE}.num_engines",
    ),
    "input shorter than the prompt": (
        QUICKSTART,
        {f"{GENERATOR}.max_input_length": 63, f"{GENERATOR}.max_turns": 2},
        {f"{GENERATOR}.max_input_length": 64},
        "generator.max_input_length must be at least trainer.max_prompt_length",
        f"{GENERATOR}.max_input_length",
    ),
    "one turn with room for more": (
        QUICKSTART,
        {f"{GENERATOR}.max_input_length": 128},
        {f"{GENERATOR}.max_turns": 2},
        "with one turn, generator.max_input_length must equal trainer.max_prompt_length",
        f"{GENERATOR}.max_input_length",
    ),
    "two sources of a volume": (
        QUICKSTART,
        {"spec.storage.data.0.claimName": "data"},
        {"spec.storage.data.0.claimTemplate": DELETED},
        "set exactly one of claimTemplate (a new volume) and claimName",
        "spec.storage.data[0]",
    ),
    "no source of a volume": (
        QUICKSTART,
        {"spec.storage.checkpoints": {}},
        {"spec.storage.checkpoints.claimName": "runs"},
        "set exactly one of claimTemplate (a new volume), claimName (an existing one), url (an object store)",
        "spec.storage.checkpoints",
    ),
    "variables from nowhere": (
        QUICKSTART,
        {"spec.runtime.envFrom": [{}]},
        {"spec.runtime.envFrom": [{"secretRef": {"name": "wandb"}}]},
        "set exactly one of secretRef and configMapRef",
        "spec.runtime.envFrom[0]",
    ),
    "variables from two places at once": (
        QUICKSTART,
        {"spec.runtime.envFrom": [{"secretRef": {"name": "a"}, "configMapRef": {"name": "b"}}]},
        {"spec.runtime.envFrom": [{"secretRef": {"name": "a"}}, {"configMapRef": {"name": "b"}}]},
        "set exactly one of secretRef and configMapRef",
        "spec.runtime.envFrom[0]",
    ),
    "a claim of somebody else's to be deleted": (
        QUICKSTART,
        {"spec.storage.checkpoints": {"claimName": "runs", "deletePolicy": "Delete"}},
        {"spec.storage.checkpoints.deletePolicy": "Retain"},
        "deletePolicy Delete needs claimTemplate",
        "spec.storage.checkpoints.deletePolicy",
    ),
    "an initializer that does two things": (
        QUICKSTART,
        {"spec.storage.initializers.0.dataset": {"from": "https://data.example.com/train.jsonl", "to": "/data/set"}},
        {"spec.storage.initializers.0.dataset": DELETED},
        "set exactly one of command, dataset, model and script",
        "spec.storage.initializers[0]",
    ),
    "an initializer that does nothing": (
        QUICKSTART,
        {"spec.storage.initializers.0.command": DELETED},
        {"spec.storage.initializers.0.script": {"configMap": "prepare", "key": "prepare.py"}},
        "set exactly one of command, dataset, model and script",
        "spec.storage.initializers[0]",
    ),
}


@pytest.mark.parametrize("case", CEL)
def test_both_refuse_what_breaks_a_rule(case: str, namespace: str) -> None:
    base, broken, _, words, path = CEL[case]
    document = changed(base, broken)
    created = try_to_create(namespace, document)
    assert created.returncode != 0
    assert words in created.stderr
    assert path in [error.path for error in errors_of(document)]


@pytest.mark.parametrize("case", CEL)
def test_both_accept_what_keeps_it(case: str, namespace: str) -> None:
    base, broken, mended, _, _ = CEL[case]
    assert_both_accept(namespace, changed(changed(base, broken), mended))


# Path -> (another value, words that the refusal must hold: each says the way round).
IMMUTABLE: dict[str, tuple[Any, tuple[str, ...]]] = {
    "spec.managedBy": ("example.com/other", ("managedBy cannot be changed", "create another RLTrainingJob")),
    "spec.runtime.trainer": ("skyrl", ("runtime.trainer cannot be changed", "create another RLTrainingJob")),
    "spec.storage.checkpoints.mountPath": (
        "/elsewhere",
        ("storage.checkpoints cannot be changed", "create another RLTrainingJob", "storage.checkpoints.claimName"),
    ),
    "spec.storage.checkpoints.claimTemplate.storage": ("2Gi", ("storage.checkpoints cannot be changed",)),
}


@pytest.fixture(scope="module")
def stored(namespace: str) -> str:
    """The name of a job that is really there; its backend is not supported, so an operator makes nothing for it."""
    name = "unchangeable"
    changes = {"metadata.name": name, f"{ENGINE}.backend": "vllm"}
    run("create", "--namespace", namespace, "--filename=-", document=changed(QUICKSTART, changes))
    return name


@pytest.mark.parametrize("path", IMMUTABLE)
def test_some_things_cannot_change(path: str, namespace: str, definition: str, stored: str) -> None:
    value, words = IMMUTABLE[path]
    patch = json.dumps(changed({}, {path: value}))
    options = ("--type=merge", "--dry-run=server", f"--patch={patch}")
    call = attempt("patch", "--namespace", namespace, definition, stored, *options)
    assert call.returncode != 0
    for expected in words:
        assert expected in call.stderr


def test_every_rule_of_the_definition_is_tried() -> None:
    said = [words for *_, words, _ in CEL.values()] + [words[0] for _, words in IMMUTABLE.values()]
    untried = [message for message in rule_messages() if not any(words in message for words in said)]
    assert untried == []
