"""A small valid job with upstream's trainer, and what tests change in it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from rltrain_api.job import RLTrainingJob
from rltrain_api.parse import parse_job

_DOCUMENT: dict[str, Any] = {
    "apiVersion": "rltrain.io/v1alpha1",
    "kind": "RLTrainingJob",
    "metadata": {"name": "words", "namespace": "research"},
    "spec": {
        "config": {
            "data": {"train_data": ["/data/train.parquet"], "val_data": ["/data/validation.parquet"]},
            "trainer": {
                "placement": {"policy_num_gpus_per_node": 4, "ref_num_gpus_per_node": 4},
                "policy": {"model": {"path": "/data/model"}},
                "ckpt_path": "/checkpoints/run",
                "export_path": "/checkpoints/exports",
                "logger": "console",
            },
            "generator": {"inference_engine": {"num_engines": 4}},
        },
        "runtime": {"trainer": "skyrl", "image": "registry.example.com/skyrl:0.1.0"},
        "storage": {
            "checkpoints": {"claimTemplate": {"storage": "10Gi"}},
            "data": [{"name": "data", "mountPath": "/data", "claimName": "prompts"}],
        },
    },
}


def merged(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `change` laid over it, map by map; everything else is replaced."""
    result = copy.deepcopy(dict(base))
    for key, value in change.items():
        below = result.get(key)
        result[key] = merged(below, value) if isinstance(below, dict) and isinstance(value, Mapping) else value
    return result


def skyrl_document(**spec: Any) -> dict[str, Any]:
    """The document with `spec` merged into its spec; `config` may be given as a tree."""
    return merged(_DOCUMENT, {"spec": spec})


def skyrl_job(**spec: Any) -> RLTrainingJob:
    """The job of `skyrl_document`."""
    job = parse_job(skyrl_document(**spec))
    assert isinstance(job, RLTrainingJob), job
    return job
