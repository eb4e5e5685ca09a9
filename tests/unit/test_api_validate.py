"""The whole of validation: valid jobs, many errors at once, overrides that are to blame, nothing changed.

Single rules have their cases in test_rules_*.py.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from rltrain_api import names, rules
from rltrain_api.errors import ErrorCode
from rltrain_api.job import RLTrainingJob
from rltrain_api.validate import RULES, SKYRL_RULES, parse_job, validate
from rule_cases import (
    ALGORITHM,
    BUILTIN,
    CONFIG,
    DELETED,
    DOCUMENTATION,
    ENGINE,
    GENERATOR,
    PLACEMENT,
    TRAINER,
    UPSTREAM,
    Changes,
    document,
    holds_and_source,
    parsed,
    rules_of,
)

REPOSITORY = Path(__file__).parents[2]
QUICKSTART = REPOSITORY / "examples" / "quickstart.yaml"
CLAIM = {"storage": "10Gi"}

VALID: dict[str, Changes] = {
    "minimal": {},
    "name of the greatest length": {"metadata.name": "j" * names.MAX_JOB_NAME_LENGTH},
    "one mini-batch per step": {f"{TRAINER}.train_batch_size": 4},
    "a GPU's share is one micro-batch": {f"{TRAINER}.micro_train_batch_size_per_gpu": 8},
    "responses make up for odd prompts": {f"{TRAINER}.train_batch_size": 3, f"{TRAINER}.policy_mini_batch_size": 3},
    "several nodes": {
        f"{PLACEMENT}.policy_num_nodes": 2,
        f"{PLACEMENT}.policy_num_gpus_per_node": 4,
    },
    "KL loss with the reference on the policy's GPUs": {
        f"{ALGORITHM}.use_kl_loss": True,
        f"{PLACEMENT}.ref_num_gpus_per_node": 2,
    },
    "dual clip": {f"{ALGORITHM}.policy_loss_type": "dual_clip"},
    "clip ratio that nobody uses": {f"{ALGORITHM}.clip_ratio_c": 1.0},
    "filter of groups that teach nothing": {f"{ALGORITHM}.zero_variance_filter": True},
    "input length equal to the prompt's": {f"{GENERATOR}.max_input_length": 512},
    "longer input over several turns": {f"{GENERATOR}.max_turns": 3, f"{GENERATOR}.max_input_length": 2048},
    "repetition penalty": {f"{GENERATOR}.sampling_params.repetition_penalty": 1.1},
    "resume from a path": {
        f"{TRAINER}.resume_mode": "from_path",
        f"{TRAINER}.resume_path": "/checkpoints/other/global_step_40/",
    },
    "start fresh by null": {f"{TRAINER}.resume_mode": None},
    "keep three checkpoints": {f"{TRAINER}.max_ckpts_to_keep": 3},
    "evaluation data on no volume without evaluation": {
        f"{TRAINER}.eval_before_train": False,
        f"{TRAINER}.eval_interval": -1,
        f"{CONFIG}.data.val_data": ["/elsewhere.parquet"],
    },
    "evaluation before training alone": {f"{TRAINER}.eval_before_train": True, f"{TRAINER}.eval_interval": -1},
    "model from the Hub": {f"{TRAINER}.policy.model.path": "Qwen/Qwen2.5-0.5B-Instruct"},
    "no further sampling parameters": {f"{GENERATOR}.sampling_params.additional_kwargs": {}},
    "checkpoint path is the volume itself": {f"{TRAINER}.ckpt_path": "/checkpoints/"},
    "claims from templates": {
        "spec.storage.checkpoints": {"claimTemplate": CLAIM},
        "spec.storage.data": [{"name": "data", "mountPath": "/data", "claimTemplate": CLAIM}],
    },
    "volume inside a volume": {
        "spec.storage.data": [
            {"name": "data", "mountPath": "/data", "claimName": "a"},
            {"name": "more", "mountPath": "/data/more", "claimName": "b"},
        ]
    },
    "directory whose name begins like a taken one": {
        "spec.storage.data": [
            {"name": "data", "mountPath": "/data", "claimName": "a"},
            {"name": "devices", "mountPath": "/devices", "claimName": "b"},
        ]
    },
    "integer CPU": {"spec.pools.head.resources": {"cpu": 2, "memory": "4Gi"}},
    "shared memory as large as memory": {
        "spec.pools.trainer": {"resources": {"memory": "4Gi"}, "shmSize": "4096Mi"},
    },
    "node labels": {"spec.pools.head.nodeSelector": {"example.com/pool": "a_b.c-1", "zone": ""}},
    "tolerations": {
        "spec.pools.trainer.tolerations": [
            {"operator": "Exists"},
            {"key": "example.com/gpu", "value": "h100", "effect": "NoSchedule"},
            {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute"},
            {"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 0},
        ]
    },
    "images": {
        "spec.runtime.image": f"registry.example.com:5000/team/trainer:1.2-rc_3@sha256:{'0f' * 32}",
        "spec.runtime.images": {"inference": "vllm/vllm-openai", "head": "rltrain.local/trainer:dev"},
    },
    "queue": {"spec.queueName": "research"},
    "environment": {
        "spec.runtime.env": [{"name": "NCCL_DEBUG", "value": "INFO"}],
        "spec.runtime.envFrom": [{"secretRef": {"name": "tracker"}}, {"configMapRef": {"name": "proxy"}}],
    },
    "initializers": {
        "spec.storage.initializers": [
            {"name": "fetch", "command": ["fetch"]},
            {"name": "convert", "command": ["convert"], "env": [{"name": "A", "value": "1"}]},
        ]
    },
}

# On top of the least job of upstream's trainer.
VALID_UPSTREAM: dict[str, Changes] = {
    "minimal": {},
    "SkyRL's GSM8K run": {
        f"{PLACEMENT}": {"policy_num_gpus_per_node": 4, "ref_num_gpus_per_node": 4},
        f"{ALGORITHM}": {"use_kl_loss": True},
        f"{TRAINER}.train_batch_size": 1024,
        f"{TRAINER}.policy_mini_batch_size": 256,
        f"{TRAINER}.micro_train_batch_size_per_gpu": 64,
        f"{TRAINER}.micro_forward_batch_size_per_gpu": 64,
        f"{TRAINER}.logger": "wandb",
        f"{GENERATOR}": {"n_samples_per_prompt": 5, "batched": True, "inference_engine": {"num_engines": 4}},
        "spec.runtime.envFrom": [{"secretRef": {"name": "wandb"}}],
    },
    "Megatron with every kind of parallelism": {
        f"{TRAINER}.strategy": "megatron",
        f"{PLACEMENT}.policy_num_nodes": 2,
        f"{PLACEMENT}.policy_num_gpus_per_node": 8,
        f"{TRAINER}.policy.megatron_config": {
            "tensor_model_parallel_size": 2,
            "pipeline_model_parallel_size": 2,
            "context_parallel_size": 2,
            "expert_model_parallel_size": 4,
            "expert_tensor_parallel_size": 1,
        },
    },
    "a critic": {
        f"{ALGORITHM}.advantage_estimator": "gae",
        f"{TRAINER}.critic.model.path": "/data/model",
        f"{TRAINER}.critic_mini_batch_size": 8,
        f"{PLACEMENT}.critic_num_gpus_per_node": 4,
    },
    "shared sequences": {
        f"{PLACEMENT}.policy_num_gpus_per_node": 4,
        f"{TRAINER}.policy.sequence_parallel_size": 2,
    },
    "adapters on one node": {
        f"{PLACEMENT}.colocate_all": True,
        f"{ENGINE}.num_engines": 2,
        f"{TRAINER}.policy.model.lora.rank": 32,
    },
    "off-policy correction without asking for log-probabilities": {
        f"{ALGORITHM}.off_policy_correction.tis_ratio_type": "sequence",
        f"{GENERATOR}.sampling_params.logprobs": None,
    },
    "an old-style cap": {f"{ALGORITHM}.use_tis": True, f"{ALGORITHM}.tis_imp_ratio_cap": 2.0},
    "remote engines": {
        f"{ENGINE}.run_engines_locally": False,
        f"{ENGINE}.num_engines": 2,
        f"{ENGINE}.remote_urls": ["a:8000", "b:8000"],
        f"{GENERATOR}.sampling_params.logprobs": None,
    },
    "checkpoints in an object store": {f"{TRAINER}.ckpt_path": "gs://bucket/run"},
    "dataset from the Hub": {f"{CONFIG}.data.train_data": ["openai/gsm8k:train"]},
    "environments without threads": {f"{CONFIG}.environment.skyrl_gym.max_env_workers": 0},
    "a larger reference on GPUs of its own": {
        f"{ALGORITHM}.use_kl_loss": True,
        f"{PLACEMENT}.colocate_policy_ref": False,
        f"{PLACEMENT}.ref_num_nodes": 2,
        f"{PLACEMENT}.ref_num_gpus_per_node": 8,
    },
}


@pytest.mark.parametrize("case", VALID)
def test_valid(case: str) -> None:
    assert validate(parsed(VALID[case])) == []


@pytest.mark.parametrize("case", VALID_UPSTREAM)
def test_valid_with_upstreams_trainer(case: str) -> None:
    assert validate(parsed(VALID_UPSTREAM[case], UPSTREAM)) == []


def test_duplicates_are_reported_at_each_place() -> None:
    twice = [{"name": "a", "command": ["a"]}, {"name": "a", "command": ["b"]}]
    variables = [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]
    volumes = [{"name": "data", "mountPath": path, "claimName": "data"} for path in ("/data", "/more")]
    errors = validate(
        parsed({"spec.storage.initializers": twice, "spec.runtime.env": variables, "spec.storage.data": volumes})
    )
    assert {error.code for error in errors} == {ErrorCode.DUPLICATE}
    assert [error.path for error in errors] == [
        "spec.runtime.env[0].name",
        "spec.runtime.env[1].name",
        "spec.storage.data[0].name",
        "spec.storage.data[1].name",
        "spec.storage.initializers[0].name",
        "spec.storage.initializers[1].name",
    ]


def test_all_errors_come_at_once() -> None:
    """SkyRL's defaults as they are: everything that a cluster or this trainer cannot do is named, sorted by path."""
    errors = validate(parsed({CONFIG: {}}))
    assert [error.path.removeprefix(f"{CONFIG}.") for error in errors] == [
        "data.train_data[0]",
        "data.val_data[0]",
        "generator.inference_engine.backend",
        "trainer.ckpt_path",
        "trainer.logger",
        "trainer.placement.colocate_all",
    ]


def test_upstreams_trainer_takes_skyrls_defaults_but_for_what_is_outside_of_pods() -> None:
    errors = validate(parsed({CONFIG: {}}, UPSTREAM))
    assert [error.path.removeprefix(f"{CONFIG}.") for error in errors] == [
        "data.train_data[0]",
        "data.val_data[0]",
        "trainer.ckpt_path",
        "trainer.logger",
    ]


# Changes -> the errors' paths: a later rule says nothing where an earlier one is its cause.
CAUSES: dict[str, tuple[str, Changes, list[str]]] = {
    "GPUs that do not divide, and so no mini-batch": (
        UPSTREAM,
        {f"{TRAINER}.policy.sequence_parallel_size": 3, f"{TRAINER}.micro_train_batch_size_per_gpu": 7},
        [f"{TRAINER}.policy.sequence_parallel_size"],
    ),
    "a mini-batch that does not divide, and so no share of it": (
        BUILTIN,
        {f"{PLACEMENT}.policy_num_gpus_per_node": 3, f"{TRAINER}.micro_train_batch_size_per_gpu": 7},
        [f"{TRAINER}.policy_mini_batch_size"],
    ),
    "memory that is a slip, and so no room for /dev/shm": (
        BUILTIN,
        {"spec.pools.head": {"resources": {"memory": "4m"}, "shmSize": "1Gi"}},
        ["spec.pools.head.resources.memory"],
    ),
    "a name that is too long by itself": (
        BUILTIN,
        {"metadata.name": "j" * 60, "spec.storage.initializers": [{"name": "i" * 13, "command": ["a"]}]},
        ["metadata.name"],
    ),
    "a toleration of no known form": (
        BUILTIN,
        {"spec.pools.head.tolerations": [{"operator": "Is", "tolerationSeconds": "1"}]},
        ["spec.pools.head.tolerations[0].operator", "spec.pools.head.tolerations[0].tolerationSeconds"],
    ),
    "a resume path that is no step and on no volume": (
        BUILTIN,
        {f"{TRAINER}.resume_mode": "from_path", f"{TRAINER}.resume_path": "/elsewhere/step"},
        [f"{TRAINER}.resume_path", f"{TRAINER}.resume_path"],  # two things to put right
    ),
}


@pytest.mark.parametrize("case", CAUSES)
def test_what_follows_from_an_error_is_not_an_error_of_its_own(case: str) -> None:
    ground, changes, paths = CAUSES[case]
    assert [error.path for error in validate(parsed(changes, ground))] == paths


def test_an_override_is_blamed_for_what_it_has_set() -> None:
    overrides = ["trainer.epochs=2", "trainer.train_batch_size=10", "generator.inference_engine.num_engines=2"]
    (error,) = validate(parsed({"spec.overrides": overrides}))
    assert error.path == "spec.overrides[1]"
    assert error.message.startswith("trainer.train_batch_size: 10 prompts are not a multiple of")


def test_the_last_override_of_a_field_is_blamed() -> None:
    overrides = ["trainer.train_batch_size=6", "trainer.train_batch_size=10"]
    assert [error.path for error in validate(parsed({"spec.overrides": overrides}))] == ["spec.overrides[1]"]


def test_an_override_can_put_a_job_right() -> None:
    changes: dict[str, Any] = {f"{TRAINER}.train_batch_size": 10}
    assert validate(parsed(changes)) != []
    assert validate(parsed({**changes, "spec.overrides": ["trainer.train_batch_size=12"]})) == []


def test_a_job_that_nobody_parsed_is_judged_too() -> None:
    """Overrides of a job made in Python may have no form; that is the reader's business and must not end validation."""
    job = parsed({f"{TRAINER}.train_batch_size": 10})
    spec = job.spec.model_copy(update={"overrides": ["no override at all"]})
    errors = validate(job.model_copy(update={"spec": spec}))
    assert [error.path for error in errors] == [f"{TRAINER}.train_batch_size"]


def test_validating_changes_nothing() -> None:
    for ground in (BUILTIN, UPSTREAM):
        job = parsed({}, ground)
        before = job.model_dump()
        validate(job)
        assert job.model_dump() == before


def test_the_quickstart_is_valid() -> None:
    job = parse_job(yaml.safe_load(QUICKSTART.read_text(encoding="utf-8")))
    assert isinstance(job, RLTrainingJob), job
    assert validate(job) == []


def test_every_module_of_rules_is_asked_and_tested() -> None:
    asked = {rule for rule in (*RULES, *SKYRL_RULES)}
    for module in pkgutil.iter_modules(rules.__path__):
        subject = importlib.import_module(f"{rules.__name__}.{module.name}")
        if hasattr(subject, "RULES"):
            assert set(rules_of(subject)) <= asked, module.name
            assert (REPOSITORY / "tests" / "unit" / f"test_rules_{module.name}.py").is_file(), module.name
    assert len(asked) == len(RULES) + len(SKYRL_RULES)
    assert len({rule.__name__ for rule in asked}) == len(asked)


def test_every_check_of_skyrls_that_a_rule_names_is_in_the_list_of_them() -> None:
    lines = {
        match.group(1): match.group(0) for match in re.finditer(r"^\| ([CGI]\d+).*$", DOCUMENTATION.read_text(), re.M)
    }
    for rule in (*RULES, *SKYRL_RULES):
        _, source = holds_and_source(rule)
        for number in re.findall(r"\b[CGI]\d+\b", source):
            assert f"`{rule.__name__}`" in lines[number], f"{number}: {rule.__name__}"


def test_a_change_of_the_ground_is_a_change() -> None:
    """The tables rest on this: a path that is set is set, one that is deleted is gone, and the ground stays whole."""
    assert document({"metadata.name": "a"})["metadata"]["name"] == "a"
    assert "name" not in document({"metadata.name": DELETED})["metadata"]
    assert document({})["metadata"]["name"] == "job"
