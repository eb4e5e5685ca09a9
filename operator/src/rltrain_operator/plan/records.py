"""What is written down for a job: the resolved configuration, the tokens, the run's curve."""

from __future__ import annotations

import json
from typing import Any

from rltrain_api import names
from rltrain_api.job import ObjectMeta
from rltrain_api.wire import History
from rltrain_operator.plan.metadata import Manifest, child_metadata

CONFIG_KEY = "config.json"
HISTORY_KEY = "history.json"


def plan_config_map(job: ObjectMeta, document: dict[str, Any]) -> Manifest:
    """The immutable record of one generation's resolved configuration, readable long after the run."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": child_metadata(job, names.config_map_name(job.name, job.generation), "config"),
        "immutable": True,
        "data": {CONFIG_KEY: json.dumps(document, indent=2, sort_keys=True)},
    }


def plan_secret(job: ObjectMeta, *, driver_token: str, ray_token: str) -> Manifest:
    """The job's two tokens, for its pods."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": child_metadata(job, names.secret_name(job.name), "tokens"),
        "type": "Opaque",
        "immutable": True,
        "stringData": {names.DRIVER_TOKEN_KEY: driver_token, names.RAY_TOKEN_KEY: ray_token},
    }


def plan_history(job: ObjectMeta, history: History) -> Manifest:
    """The run's curve; written over and over while it grows."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": child_metadata(job, names.history_name(job.name), "history"),
        "data": {HISTORY_KEY: history.model_dump_json(by_alias=True, exclude_none=True)},
    }
