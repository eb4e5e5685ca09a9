"""Every rule with a case that passes and cases that fail, and the errors of many rules at once."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from rltrain_api import names
from rltrain_api.errors import ErrorCode
from rltrain_api.job import RLTrainingJob
from rltrain_api.rules.support import SUPPORTED_VALUES
from rltrain_api.validate import parse_job, validate

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart.yaml"

MINIMAL = """
apiVersion: rltrain.io/v1alpha1
kind: RLTrainingJob
metadata: {name: job}
spec:
  config:
    data: {train_data: [/data/train.parquet], val_data: [/data/validation.parquet]}
    trainer:
      placement: {colocate_all: false, policy_num_gpus_per_node: 2}
      policy: {model: {path: /data/model}}
      algorithm: {use_kl_loss: false}
      train_batch_size: 8
      policy_mini_batch_size: 4
      ckpt_path: /checkpoints/job
      logger: console
    generator:
      inference_engine: {backend: builtin}
      n_samples_per_prompt: 4
  runtime: {image: trainer}
  storage:
    checkpoints: {claimName: checkpoints}
    data: [{name: data, mountPath: /data, claimName: data}]
"""

TRAINER = "spec.config.trainer"
GENERATOR = "spec.config.generator"
CLAIM = {"storage": "10Gi"}

Changes = dict[str, Any]
DELETED = object()


def document(changes: Changes) -> dict[str, Any]:
    """The minimal valid document with the value at each dotted path replaced, or removed where it is DELETED."""
    result: dict[str, Any] = copy.deepcopy(yaml.safe_load(MINIMAL))
    for path, value in changes.items():
        *parents, last = path.split(".")
        inner: Any = result
        for key in parents:
            inner = inner[int(key)] if isinstance(inner, list) else inner.setdefault(key, {})
        if value is DELETED:
            del inner[last]
        else:
            inner[last] = value
    return result


def parsed(changes: Changes) -> RLTrainingJob:
    job = parse_job(document(changes))
    assert isinstance(job, RLTrainingJob), job
    return job


VALID: dict[str, Changes] = {
    "minimal": {},
    "name of the greatest length": {"metadata.name": "j" * names.MAX_JOB_NAME_LENGTH},
    "one mini-batch per step": {f"{TRAINER}.train_batch_size": 4},
    "a GPU's share is one micro-batch": {f"{TRAINER}.micro_train_batch_size_per_gpu": 8},
    "responses make up for odd prompts": {f"{TRAINER}.train_batch_size": 3, f"{TRAINER}.policy_mini_batch_size": 3},
    "several nodes": {
        f"{TRAINER}.placement.policy_num_nodes": 2,
        f"{TRAINER}.placement.policy_num_gpus_per_node": 4,
    },
    "KL loss with the reference on the policy's GPUs": {
        f"{TRAINER}.algorithm.use_kl_loss": True,
        f"{TRAINER}.placement.ref_num_gpus_per_node": 2,
    },
    "dual clip": {f"{TRAINER}.algorithm.policy_loss_type": "dual_clip"},
    "clip ratio that nobody uses": {f"{TRAINER}.algorithm.clip_ratio_c": 1.0},
    "input length equal to the prompt's": {f"{GENERATOR}.max_input_length": 512},
    "longer input over several turns": {f"{GENERATOR}.max_turns": 3, f"{GENERATOR}.max_input_length": 2048},
    "resume from a path": {
        f"{TRAINER}.resume_mode": "from_path",
        f"{TRAINER}.resume_path": "/checkpoints/other/global_step_40/",
    },
    "start fresh by null": {f"{TRAINER}.resume_mode": None},
    "keep three checkpoints": {f"{TRAINER}.max_ckpts_to_keep": 3},
    "evaluation data on no volume without evaluation": {
        f"{TRAINER}.eval_before_train": False,
        f"{TRAINER}.eval_interval": -1,
        "spec.config.data.val_data": ["/elsewhere.parquet"],
    },
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


@pytest.mark.parametrize("case", VALID)
def test_valid(case: str) -> None:
    assert validate(parsed(VALID[case])) == []


# Name of the case -> (changes, path of the one error, its code, words that its message must hold).
INVALID: dict[str, tuple[Changes, str, ErrorCode, tuple[str, ...]]] = {
    # Names
    "name missing": ({"metadata.name": DELETED}, "metadata.name", ErrorCode.REQUIRED, ("add it",)),
    "name begins with a digit": ({"metadata.name": "1job"}, "metadata.name", ErrorCode.INVALID, ("begin with",)),
    "name with a dot": ({"metadata.name": "a.b"}, "metadata.name", ErrorCode.INVALID, ("a-z, 0-9",)),
    "name ends with a dash": ({"metadata.name": "job-"}, "metadata.name", ErrorCode.INVALID, ("end with",)),
    "name too long": (
        {"metadata.name": "j" * (names.MAX_JOB_NAME_LENGTH + 1)},
        "metadata.name",
        ErrorCode.OUT_OF_RANGE,
        ("46 characters", "45", "shorter"),
    ),
    "initializer's Job too long": (
        {
            "metadata.name": "j" * 45,
            "spec.storage.initializers": [{"name": "i" * 13, "command": ["true"]}],
        },
        "spec.storage.initializers[0].name",
        ErrorCode.OUT_OF_RANGE,
        ("64 characters of at most 63", "by 1"),
    ),
    "claim too long": (
        {"metadata.name": "j" * 45, "spec.storage.data.0.name": "d" * 20},
        "spec.storage.data[0].name",
        ErrorCode.OUT_OF_RANGE,
        ("66 characters of at most 63", "by 3"),
    ),
    # Environment
    "variable of ours": (
        {"spec.runtime.env": [{"name": "RLTRAIN_RUN", "value": "x"}]},
        "spec.runtime.env[0].name",
        ErrorCode.CONFLICT,
        ("RLTRAIN_RUN", "remove it"),
    ),
    "variable that opens the cluster": (
        {"spec.runtime.env": [{"name": "RAY_AUTH_MODE", "value": "disabled"}]},
        "spec.runtime.env[0].name",
        ErrorCode.CONFLICT,
        ("RAY_AUTH_MODE",),
    ),
    "variable of ours in an initializer": (
        {"spec.storage.initializers": [{"name": "a", "command": ["a"], "env": [{"name": "RLTRAIN_X"}]}]},
        "spec.storage.initializers[0].env[0].name",
        ErrorCode.CONFLICT,
        ("RLTRAIN_X",),
    ),
    "environment from nowhere": (
        {"spec.runtime.envFrom": [{}]},
        "spec.runtime.envFrom[0]",
        ErrorCode.CONFLICT,
        ("neither", "exactly one"),
    ),
    "environment from two places": (
        {"spec.runtime.envFrom": [{"secretRef": {"name": "a"}, "configMapRef": {"name": "b"}}]},
        "spec.runtime.envFrom[0]",
        ErrorCode.CONFLICT,
        ("both", "exactly one"),
    ),
    # Pools
    "no CPU": (
        {"spec.pools.head.resources": {"cpu": 0}},
        "spec.pools.head.resources.cpu",
        ErrorCode.OUT_OF_RANGE,
        ("0 CPU",),
    ),
    "memory in thousandths": (
        {"spec.pools.trainer.resources": {"memory": "512m"}},
        "spec.pools.trainer.resources.memory",
        ErrorCode.OUT_OF_RANGE,
        ("512m is 0.512 bytes", "512Mi"),
    ),
    "initializer without memory": (
        {"spec.storage.initializers": [{"name": "a", "command": ["a"], "resources": {"memory": "1Mi"}}]},
        "spec.storage.initializers[0].resources.memory",
        ErrorCode.OUT_OF_RANGE,
        ("1Mi is 1048576 bytes",),
    ),
    "shared memory larger than memory": (
        {"spec.pools.inference": {"resources": {"memory": "2Gi"}, "shmSize": "3Gi"}},
        "spec.pools.inference.shmSize",
        ErrorCode.OUT_OF_RANGE,
        ("3Gi is more than resources.memory 2Gi",),
    ),
    "node label's key": (
        {"spec.pools.head.nodeSelector": {"a b": "c"}},
        "spec.pools.head.nodeSelector",
        ErrorCode.INVALID,
        ("'a b'",),
    ),
    "node label's value": (
        {"spec.pools.head.nodeSelector": {"zone": "-a"}},
        "spec.pools.head.nodeSelector.zone",
        ErrorCode.INVALID,
        ("'-a'",),
    ),
    # Volumes
    "no source": (
        {"spec.storage.checkpoints": {}},
        "spec.storage.checkpoints",
        ErrorCode.CONFLICT,
        ("neither claimTemplate nor claimName",),
    ),
    "two sources": (
        {"spec.storage.data.0.claimTemplate": CLAIM},
        "spec.storage.data[0]",
        ErrorCode.CONFLICT,
        ("both claimTemplate and claimName",),
    ),
    "volume of nothing": (
        {"spec.storage.checkpoints": {"claimTemplate": {"storage": "0Gi"}}},
        "spec.storage.checkpoints.claimTemplate.storage",
        ErrorCode.OUT_OF_RANGE,
        ("size 0",),
    ),
    "two volumes on one directory": (
        {
            "spec.storage.data": [
                {"name": "data", "mountPath": "/data", "claimName": "a"},
                {"name": "more", "mountPath": "/data", "claimName": "b"},
            ]
        },
        "spec.storage.data[1].mountPath",
        ErrorCode.DUPLICATE,
        ("'/data'", "spec.storage.data[0]"),
    ),
    "mount path with a detour": (
        {
            "spec.storage.data": [
                {"name": "data", "mountPath": "/data", "claimName": "a"},
                {"name": "more", "mountPath": "/data/../more", "claimName": "b"},
            ]
        },
        "spec.storage.data[1].mountPath",
        ErrorCode.INVALID,
        ("'/more'",),
    ),
    "mount over the devices": (
        {
            "spec.storage.data": [
                {"name": "data", "mountPath": "/data", "claimName": "a"},
                {"name": "more", "mountPath": "/dev/shm", "claimName": "b"},
            ]
        },
        "spec.storage.data[1].mountPath",
        ErrorCode.CONFLICT,
        ("hide /dev",),
    ),
    "data volume named checkpoints": (
        {"spec.storage.data.0.name": "checkpoints"},
        "spec.storage.data[0].name",
        ErrorCode.CONFLICT,
        ("storage.checkpoints", "another one"),
    ),
    "data volume named as that of /dev/shm": (
        {"spec.storage.data.0.name": "shared-memory"},
        "spec.storage.data[0].name",
        ErrorCode.CONFLICT,
        ("/dev/shm",),
    ),
    "checkpoints on a data volume": (
        {f"{TRAINER}.ckpt_path": "/data/checkpoints"},
        f"{TRAINER}.ckpt_path",
        ErrorCode.NOT_MOUNTED,
        ("'/data/checkpoints'", "use a path under /checkpoints"),
    ),
    "checkpoints in a home directory, by default": (
        {f"{TRAINER}.ckpt_path": DELETED},
        f"{TRAINER}.ckpt_path",
        ErrorCode.NOT_MOUNTED,
        ("'~/ckpts/'",),
    ),
    "checkpoints beside their volume": (
        {f"{TRAINER}.ckpt_path": "/checkpoints-of-mine"},
        f"{TRAINER}.ckpt_path",
        ErrorCode.NOT_MOUNTED,
        ("/checkpoints-of-mine",),
    ),
    "checkpoints that climb out of their volume": (
        {f"{TRAINER}.ckpt_path": "/checkpoints/../home"},
        f"{TRAINER}.ckpt_path",
        ErrorCode.NOT_MOUNTED,
        ("/checkpoints/../home",),
    ),
    "checkpoints in an object store": (
        {f"{TRAINER}.ckpt_path": "s3://bucket/job"},
        f"{TRAINER}.ckpt_path",
        ErrorCode.NOT_YET_SUPPORTED,
        ("object store", "/checkpoints"),
    ),
    "second training file on no volume": (
        {"spec.config.data.train_data": ["/data/a.parquet", "b.parquet"]},
        "spec.config.data.train_data[1]",
        ErrorCode.NOT_MOUNTED,
        ("'b.parquet'",),
    ),
    "evaluation file on no volume": (
        {"spec.config.data.val_data": ["/elsewhere.parquet"]},
        "spec.config.data.val_data[0]",
        ErrorCode.NOT_MOUNTED,
        ("/elsewhere.parquet",),
    ),
    "resume path on no volume": (
        {f"{TRAINER}.resume_mode": "from_path", f"{TRAINER}.resume_path": "/old/global_step_4"},
        f"{TRAINER}.resume_path",
        ErrorCode.NOT_MOUNTED,
        ("/old/global_step_4",),
    ),
    # What this release does not support
    "FSDP 1": ({f"{TRAINER}.strategy": "fsdp"}, f"{TRAINER}.strategy", ErrorCode.NOT_YET_SUPPORTED, ("to fsdp2",)),
    "Megatron": ({f"{TRAINER}.strategy": "megatron"}, f"{TRAINER}.strategy", ErrorCode.NOT_YET_SUPPORTED, ("fsdp2",)),
    "engines on the trainer's GPUs": (
        {f"{TRAINER}.placement.colocate_all": True},
        f"{TRAINER}.placement.colocate_all",
        ErrorCode.NOT_YET_SUPPORTED,
        ("is true", "set it to false"),
    ),
    "engines on the trainer's GPUs, by default": (
        {f"{TRAINER}.placement.colocate_all": DELETED},
        f"{TRAINER}.placement.colocate_all",
        ErrorCode.NOT_YET_SUPPORTED,
        ("unset, and SkyRL's default is true", "set it to false"),
    ),
    "reference on GPUs of its own": (
        {f"{TRAINER}.placement.colocate_policy_ref": False},
        f"{TRAINER}.placement.colocate_policy_ref",
        ErrorCode.NOT_YET_SUPPORTED,
        ("set it to true",),
    ),
    "vLLM": (
        {f"{GENERATOR}.inference_engine.backend": "vllm"},
        f"{GENERATOR}.inference_engine.backend",
        ErrorCode.NOT_YET_SUPPORTED,
        ("is vllm", "not support yet", "set it to builtin"),
    ),
    "SGLang": (
        {f"{GENERATOR}.inference_engine.backend": "sglang"},
        f"{GENERATOR}.inference_engine.backend",
        ErrorCode.NOT_YET_SUPPORTED,
        ("is sglang",),
    ),
    "vLLM, by default": (
        {f"{GENERATOR}.inference_engine": DELETED},
        f"{GENERATOR}.inference_engine.backend",
        ErrorCode.NOT_YET_SUPPORTED,
        ("unset, and SkyRL's default is vllm",),
    ),
    **{
        f"engine with {field} 2": (
            {f"{GENERATOR}.inference_engine.{field}": 2},
            f"{GENERATOR}.inference_engine.{field}",
            ErrorCode.NOT_YET_SUPPORTED,
            ("is 2", "set it to 1"),
        )
        for field in (
            "tensor_parallel_size",
            "pipeline_parallel_size",
            "expert_parallel_size",
            "data_parallel_size",
        )
    },
    "sequence parallelism": (
        {f"{TRAINER}.policy.sequence_parallel_size": 2},
        f"{TRAINER}.policy.sequence_parallel_size",
        ErrorCode.NOT_YET_SUPPORTED,
        ("set it to 1",),
    ),
    "another estimator": (
        {f"{TRAINER}.algorithm.advantage_estimator": "rloo"},
        f"{TRAINER}.algorithm.advantage_estimator",
        ErrorCode.NOT_YET_SUPPORTED,
        ("is rloo", "grpo"),
    ),
    "another loss": (
        {f"{TRAINER}.algorithm.policy_loss_type": "gspo"},
        f"{TRAINER}.algorithm.policy_loss_type",
        ErrorCode.NOT_YET_SUPPORTED,
        ("regular or dual_clip",),
    ),
    "another logger, by default": (
        {f"{TRAINER}.logger": DELETED},
        f"{TRAINER}.logger",
        ErrorCode.NOT_YET_SUPPORTED,
        ("default is wandb", "console"),
    ),
    "further sampling parameters": (
        {f"{GENERATOR}.sampling_params.additional_kwargs": {"best_of": 3}},
        f"{GENERATOR}.sampling_params.additional_kwargs",
        ErrorCode.NOT_YET_SUPPORTED,
        ("set it to null",),
    ),
    "further sampling parameters of evaluation": (
        {f"{GENERATOR}.eval_sampling_params": {"additional_kwargs": {"best_of": 3}}},
        f"{GENERATOR}.eval_sampling_params.additional_kwargs",
        ErrorCode.NOT_YET_SUPPORTED,
        ("set it to null",),
    ),
    # The configuration tree
    "no model": (
        {f"{TRAINER}.policy.model.path": None},
        f"{TRAINER}.policy.model.path",
        ErrorCode.REQUIRED,
        ("null", "directory"),
    ),
    "no checkpoint kept": (
        {f"{TRAINER}.max_ckpts_to_keep": 0},
        f"{TRAINER}.max_ckpts_to_keep",
        ErrorCode.OUT_OF_RANGE,
        ("-1",),
    ),
    "one turn with longer input": (
        {f"{GENERATOR}.max_input_length": 600},
        f"{GENERATOR}.max_input_length",
        ErrorCode.CONFLICT,
        ("600", "512", "unset"),
    ),
    "several turns with shorter input": (
        {f"{GENERATOR}.max_turns": 2, f"{GENERATOR}.max_input_length": 500},
        f"{GENERATOR}.max_input_length",
        ErrorCode.OUT_OF_RANGE,
        ("500", "512"),
    ),
    "a group of one": (
        {f"{GENERATOR}.n_samples_per_prompt": 1},
        f"{GENERATOR}.n_samples_per_prompt",
        ErrorCode.OUT_OF_RANGE,
        ("grpo", "2 or more"),
    ),
    "dual clip at one": (
        {f"{TRAINER}.algorithm.policy_loss_type": "dual_clip", f"{TRAINER}.algorithm.clip_ratio_c": 1},
        f"{TRAINER}.algorithm.clip_ratio_c",
        ErrorCode.OUT_OF_RANGE,
        ("1 is not above 1",),
    ),
    "sampling without chance": (
        {f"{GENERATOR}.sampling_params.temperature": 0},
        f"{GENERATOR}.sampling_params.temperature",
        ErrorCode.OUT_OF_RANGE,
        ("nothing to learn",),
    ),
    "logits divided by zero": (
        {f"{TRAINER}.algorithm.temperature": 0},
        f"{TRAINER}.algorithm.temperature",
        ErrorCode.OUT_OF_RANGE,
        ("divided by 0", "unset"),
    ),
    "reference on fewer GPUs": (
        {f"{TRAINER}.algorithm.use_kl_loss": True},
        f"{TRAINER}.placement.ref_num_gpus_per_node",
        ErrorCode.CONFLICT,
        ("1 differs from policy_num_gpus_per_node 2", "use_kl_loss"),
    ),
    "reference on more nodes": (
        {
            f"{TRAINER}.algorithm.use_kl_loss": True,
            f"{TRAINER}.placement.ref_num_gpus_per_node": 2,
            f"{TRAINER}.placement.ref_num_nodes": 3,
        },
        f"{TRAINER}.placement.ref_num_nodes",
        ErrorCode.CONFLICT,
        ("3 differs from policy_num_nodes 1",),
    ),
    "resume from nowhere": (
        {f"{TRAINER}.resume_mode": "from_path"},
        f"{TRAINER}.resume_path",
        ErrorCode.REQUIRED,
        ("global_step_N",),
    ),
    "resume path that is no checkpoint": (
        {f"{TRAINER}.resume_mode": "from_path", f"{TRAINER}.resume_path": "/checkpoints/job"},
        f"{TRAINER}.resume_path",
        ErrorCode.INVALID,
        ("global_step_N",),
    ),
    "resume path that is not used": (
        {f"{TRAINER}.resume_path": "/checkpoints/job/global_step_4"},
        f"{TRAINER}.resume_path",
        ErrorCode.CONFLICT,
        ("ignored", "latest"),
    ),
    # Batch sizes
    "step smaller than a mini-batch": (
        {f"{TRAINER}.train_batch_size": 2},
        f"{TRAINER}.train_batch_size",
        ErrorCode.OUT_OF_RANGE,
        ("2 prompts are fewer than the 4",),
    ),
    "step not of whole mini-batches": (
        {f"{TRAINER}.train_batch_size": 10},
        f"{TRAINER}.train_batch_size",
        ErrorCode.NOT_DIVISIBLE,
        ("not a multiple of policy_mini_batch_size 4", "use 8 or 12"),
    ),
    "sequences do not divide among GPUs": (
        {f"{TRAINER}.placement.policy_num_gpus_per_node": 3},
        f"{TRAINER}.policy_mini_batch_size",
        ErrorCode.NOT_DIVISIBLE,
        ("16 sequences", "3 data-parallel GPUs"),
    ),
    "more GPUs than sequences": (
        {f"{TRAINER}.placement.policy_num_gpus_per_node": 32},
        f"{TRAINER}.policy_mini_batch_size",
        ErrorCode.NOT_DIVISIBLE,
        ("16 sequences", "32 data-parallel GPUs"),
    ),
    "micro-batches do not divide a GPU's share": (
        {f"{TRAINER}.micro_train_batch_size_per_gpu": 3},
        f"{TRAINER}.micro_train_batch_size_per_gpu",
        ErrorCode.NOT_DIVISIBLE,
        ("3 sequences", "8 on each of 2", "a divisor of 8"),
    ),
    "micro-batch larger than a GPU's share": (
        {f"{TRAINER}.micro_train_batch_size_per_gpu": 16},
        f"{TRAINER}.micro_train_batch_size_per_gpu",
        ErrorCode.NOT_DIVISIBLE,
        ("a divisor of 8",),
    ),
}


@pytest.mark.parametrize("case", INVALID)
def test_invalid(case: str) -> None:
    changes, path, code, words = INVALID[case]
    errors = validate(parsed(changes))
    assert [(error.path, error.code) for error in errors] == [(path, code)]
    for word in words:
        assert word in errors[0].message


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


def test_sequence_parallelism_must_divide_the_gpus() -> None:
    errors = validate(parsed({f"{TRAINER}.policy.sequence_parallel_size": 3}))
    assert [error.code for error in errors] == [ErrorCode.NOT_DIVISIBLE, ErrorCode.NOT_YET_SUPPORTED]


def test_all_errors_come_at_once() -> None:
    """SkyRL's defaults as they are: everything that a cluster or this release cannot do is named, sorted by path."""
    errors = validate(parsed({"spec.config": {}}))
    assert [error.path.removeprefix("spec.config.") for error in errors] == [
        "data.train_data[0]",
        "data.val_data[0]",
        "generator.inference_engine.backend",
        "trainer.ckpt_path",
        "trainer.logger",
        "trainer.placement.colocate_all",
    ]


def test_every_line_of_the_support_table_is_tested() -> None:
    tested = {path for _, path, code, _ in INVALID.values() if code is ErrorCode.NOT_YET_SUPPORTED}
    assert {f"spec.config.{support.path}" for support in SUPPORTED_VALUES} <= tested


def test_validating_changes_nothing() -> None:
    job = parsed({})
    before = job.model_dump()
    validate(job)
    assert job.model_dump() == before


def test_the_quickstart_is_valid() -> None:
    job = parse_job(yaml.safe_load(QUICKSTART.read_text(encoding="utf-8")))
    assert isinstance(job, RLTrainingJob), job
    assert validate(job) == []
