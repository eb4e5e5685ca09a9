"""Paths: files that matter lie on a volume."""

from __future__ import annotations

import pytest

from rltrain_api.errors import ErrorCode
from rltrain_api.rules import paths
from rule_cases import (
    ALGORITHM,
    CONFIG,
    DELETED,
    ENGINE,
    PLACEMENT,
    TRAINER,
    UPSTREAM,
    Case,
    check_every_rule_is_broken,
    check_every_rule_is_documented,
    check_failure,
    check_remedy,
)

STEP = "global_step_4"
LORA = f"{TRAINER}.policy.model.lora"

CASES = {
    "checkpoints on a data volume": Case(
        {f"{TRAINER}.ckpt_path": "/data/checkpoints"},
        f"{TRAINER}.ckpt_path",
        ErrorCode.NOT_MOUNTED,
        ("'/data/checkpoints'", "use a path under /checkpoints"),
        {f"{TRAINER}.ckpt_path": "/checkpoints/"},
    ),
    "checkpoints in a home directory, by default": Case(
        {f"{TRAINER}.ckpt_path": DELETED},
        f"{TRAINER}.ckpt_path",
        ErrorCode.NOT_MOUNTED,
        ("is unset, and SkyRL's default '~/ckpts/'",),
        {f"{TRAINER}.ckpt_path": "/checkpoints/job"},
    ),
    "checkpoints beside their volume": Case(
        {f"{TRAINER}.ckpt_path": "/checkpoints-of-mine"},
        f"{TRAINER}.ckpt_path",
        ErrorCode.NOT_MOUNTED,
        ("/checkpoints-of-mine",),
        {"spec.storage.checkpoints.mountPath": "/checkpoints-of-mine"},
    ),
    "checkpoints that climb out of their volume": Case(
        {f"{TRAINER}.ckpt_path": "/checkpoints/../home"},
        f"{TRAINER}.ckpt_path",
        ErrorCode.NOT_MOUNTED,
        ("/checkpoints/../home",),
        {f"{TRAINER}.ckpt_path": "/checkpoints/a/../b"},
    ),
    "checkpoints in an object store": Case(
        {f"{TRAINER}.ckpt_path": "s3://bucket/job"},
        f"{TRAINER}.ckpt_path",
        ErrorCode.CONFLICT,
        ("'s3://bucket/job' is in an object store", "names a volume"),
        {"spec.storage.checkpoints": {"url": "s3://bucket"}},
    ),
    "checkpoints in another store": Case(
        {"spec.storage.checkpoints": {"url": "s3://bucket/runs/"}, f"{TRAINER}.ckpt_path": "s3://bucket/runs-old/job"},
        f"{TRAINER}.ckpt_path",
        ErrorCode.CONFLICT,
        ("'s3://bucket/runs-old/job'", "s3://bucket/runs/<directory>"),
        {f"{TRAINER}.ckpt_path": "s3://bucket/runs/job"},
    ),
    "checkpoints on a volume that the job has not": Case(
        {"spec.storage.checkpoints": {"url": "gs://bucket"}},
        f"{TRAINER}.ckpt_path",
        ErrorCode.CONFLICT,
        ("gs://bucket/<directory>",),
        {f"{TRAINER}.ckpt_path": "gs://bucket/job"},
    ),
    "checkpoints in a store that nothing knows": Case(
        {f"{TRAINER}.ckpt_path": "az://bucket/job"},
        f"{TRAINER}.ckpt_path",
        ErrorCode.NOT_YET_SUPPORTED,
        ("'az://bucket/job'",),
        {f"{TRAINER}.ckpt_path": "/checkpoints/job"},
    ),
    "resume path with a password": Case(
        {f"{TRAINER}.resume_mode": "from_path", f"{TRAINER}.resume_path": f"s3://key:word@bucket/old/{STEP}"},
        f"{TRAINER}.resume_path",
        ErrorCode.NOT_YET_SUPPORTED,
        ("object store",),
        {f"{TRAINER}.resume_path": f"s3://bucket/old/{STEP}"},
    ),
    "checkpoints of upstream in a store that it does not know": Case(
        {f"{TRAINER}.ckpt_path": "az://bucket/job"},
        f"{TRAINER}.ckpt_path",
        ErrorCode.NOT_MOUNTED,
        ("'az://bucket/job'",),
        {f"{TRAINER}.ckpt_path": "s3://bucket/job"},
        UPSTREAM,
    ),
    "resume path on no volume": Case(
        {f"{TRAINER}.resume_mode": "from_path", f"{TRAINER}.resume_path": f"/old/{STEP}"},
        f"{TRAINER}.resume_path",
        ErrorCode.NOT_MOUNTED,
        ("/old/global_step_4",),
        {f"{TRAINER}.resume_path": f"/data/old/{STEP}"},
    ),
    "resume path in an object store": Case(
        {f"{TRAINER}.resume_mode": "from_path", f"{TRAINER}.resume_path": f"s3://bucket/old/{STEP}"},
        f"{TRAINER}.resume_path",
        ErrorCode.CONFLICT,
        ("loses a slash", "resume_mode to latest"),
        {
            f"{TRAINER}.resume_mode": "latest",
            f"{TRAINER}.resume_path": None,
            f"{TRAINER}.ckpt_path": "s3://bucket/old",
        },
        UPSTREAM,
    ),
    "second training file on no volume": Case(
        {f"{CONFIG}.data.train_data": ["/data/a.parquet", "b.parquet"]},
        f"{CONFIG}.data.train_data[1]",
        ErrorCode.NOT_MOUNTED,
        ("'b.parquet'",),
        {f"{CONFIG}.data.train_data": ["/data/a.parquet", "/data/b.jsonl"]},
    ),
    "training data in a home directory, by default": Case(
        {f"{CONFIG}.data.train_data": DELETED},
        f"{CONFIG}.data.train_data[0]",
        ErrorCode.NOT_MOUNTED,
        ("is unset, and SkyRL's default '~/data/gsm8k/train.parquet'",),
        {f"{CONFIG}.data.train_data": ["/data/train.parquet"]},
    ),
    "evaluation file on no volume": Case(
        {f"{CONFIG}.data.val_data": ["/elsewhere.parquet"]},
        f"{CONFIG}.data.val_data[0]",
        ErrorCode.NOT_MOUNTED,
        ("/elsewhere.parquet",),
        {f"{TRAINER}.eval_before_train": False, f"{TRAINER}.eval_interval": -1},
    ),
    "local dataset of upstream on no volume": Case(
        {f"{CONFIG}.data.train_data": ["openai/gsm8k:train", "hf://datasets/a/b.parquet", "~/rows"]},
        f"{CONFIG}.data.train_data[2]",
        ErrorCode.NOT_MOUNTED,
        ("'~/rows'",),
        {f"{CONFIG}.data.train_data": ["openai/gsm8k:train", "hf://datasets/a/b.parquet"]},
        UPSTREAM,
    ),
    "training file of no known kind": Case(
        {f"{CONFIG}.data.train_data": ["/data/train.csv"]},
        f"{CONFIG}.data.train_data[0]",
        ErrorCode.INVALID,
        ("'/data/train.csv'", ".parquet, .json or .jsonl"),
        {f"{CONFIG}.data.train_data": ["/data/train.json"]},
    ),
    "directory of training files": Case(
        {f"{CONFIG}.data.train_data": ["/data/train"]},
        f"{CONFIG}.data.train_data[0]",
        ErrorCode.INVALID,
        ("'/data/train'", "owner/name or owner/name:split"),
        {f"{CONFIG}.data.train_data": ["openai/gsm8k", "openai/gsm8k:test"]},
    ),
    "exported models on no volume, by default": Case(
        {f"{TRAINER}.hf_save_interval": 10},
        f"{TRAINER}.export_path",
        ErrorCode.NOT_MOUNTED,
        ("is unset, and SkyRL's default is ~/exports/", "hf_save_interval is 10", "/checkpoints or /data"),
        {f"{TRAINER}.export_path": "gs://bucket/exports"},
        UPSTREAM,
    ),
    "reference that passes through no volume": Case(
        {
            f"{TRAINER}.update_ref_every_epoch": True,
            f"{ALGORITHM}.use_kl_loss": True,
            f"{PLACEMENT}.ref_num_gpus_per_node": 2,
            f"{TRAINER}.export_path": "/tmp/exports",
        },
        f"{TRAINER}.export_path",
        ErrorCode.NOT_MOUNTED,
        ("is /tmp/exports", "update_ref_every_epoch is true"),
        {f"{TRAINER}.update_ref_every_epoch": False},
        UPSTREAM,
    ),
    "batches dumped into a store that cannot take them": Case(
        {f"{TRAINER}.dump_data_batch": True, f"{TRAINER}.export_path": "s3://bucket/exports"},
        f"{TRAINER}.export_path",
        ErrorCode.NOT_MOUNTED,
        ("dump_data_batch is true",),
        {f"{TRAINER}.export_path": "/checkpoints/exports"},
        UPSTREAM,
    ),
    "evaluations dumped to no volume": Case(
        {f"{TRAINER}.dump_eval_results": True},
        f"{TRAINER}.export_path",
        ErrorCode.NOT_MOUNTED,
        ("dump_eval_results is true",),
        {f"{TRAINER}.dump_eval_results": False},
        UPSTREAM,
    ),
    "adapters that engines cannot read": Case(
        {f"{LORA}.rank": 8},
        f"{LORA}.lora_sync_path",
        ErrorCode.NOT_MOUNTED,
        ("is unset, and SkyRL's default is /tmp/skyrl_lora_sync", "lora.rank is 8"),
        {f"{LORA}.lora_sync_path": "/checkpoints/adapters"},
        UPSTREAM,
    ),
    "adapters that only one pod can read": Case(
        {
            f"{LORA}.rank": 8,
            f"{PLACEMENT}.colocate_all": True,
            f"{PLACEMENT}.policy_num_nodes": 2,
            f"{PLACEMENT}.policy_num_gpus_per_node": 1,
            f"{ENGINE}.num_engines": 2,
        },
        f"{LORA}.lora_sync_path",
        ErrorCode.NOT_MOUNTED,
        ("engines in other pods",),
        {f"{PLACEMENT}.policy_num_nodes": 1, f"{PLACEMENT}.policy_num_gpus_per_node": 2},
        UPSTREAM,
    ),
    "logs that are lost with their pods": Case(
        {f"{TRAINER}.log_path": "/var/log/skyrl"},
        f"{TRAINER}.log_path",
        ErrorCode.NOT_MOUNTED,
        ("/var/log/skyrl is on no volume", "SKYRL_DUMP_INFRA_LOG_TO_STDOUT"),
        {"spec.runtime.env": [{"name": "SKYRL_DUMP_INFRA_LOG_TO_STDOUT", "value": "1"}]},
        UPSTREAM,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_broken(case: str) -> None:
    check_failure(CASES[case])


@pytest.mark.parametrize("case", CASES)
def test_put_right(case: str) -> None:
    check_remedy(CASES[case])


def test_every_rule_is_broken() -> None:
    check_every_rule_is_broken(paths, CASES.values())


def test_every_rule_is_documented() -> None:
    check_every_rule_is_documented(paths, CASES.values())
