"""What is written down for a job: the resolved configuration, the tokens, the run's curve."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from rltrain_api import names
from rltrain_api.job import ObjectMeta, RLTrainingJob
from rltrain_api.spec.storage import Retention
from rltrain_api.wire import History
from rltrain_operator.plan.metadata import Manifest, child_metadata, fingerprint
from rltrain_operator.plan.once import once_per_job

CONFIG_KEY = "config.json"
OVERRIDES_KEY = "overrides.json"
MODULES_KEY = "modules.json"
RETENTION_KEY = "retention.json"
HISTORY_KEY = "history.json"


def plan_config_map(
    job: ObjectMeta,
    document: dict[str, Any],
    overrides: list[str] | None = None,
    modules: Sequence[str] = (),
    retention: Retention | None = None,
) -> Manifest:
    """The immutable record of one generation's resolved configuration, readable long after the run.

    `overrides` are what upstream's trainer is told of it, for a job that runs that one; `modules` are those that the
    builtin trainer imports, and `retention` the checkpoints that it keeps.
    """
    data = {CONFIG_KEY: json.dumps(document, indent=2, sort_keys=True)}
    if modules:
        data[MODULES_KEY] = json.dumps(list(modules))
    if retention is not None:
        data[RETENTION_KEY] = retention.model_dump_json(by_alias=True)
    if overrides is not None:
        data[OVERRIDES_KEY] = json.dumps(overrides, indent=2)
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": child_metadata(job, names.config_map_name(job.name, job.generation), "config"),
        "immutable": True,
        "data": data,
    }


# What may change without another run: these fields count at once, or say how long something may take.
POLICIES = frozenset(
    {
        "active_deadline_seconds",
        "failure_policy",
        "managed_by",
        "startup_deadline_seconds",
        "suspend",
        "ttl_seconds_after_finished",
        "update_policy",
    }
)


@once_per_job
def spec_hash(job: RLTrainingJob) -> str:
    """Tells two specs that ask for one run by what was written in them, and not by what is made of it."""
    return fingerprint(job.spec.model_dump(mode="json", exclude=set(POLICIES), exclude_defaults=True))


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
