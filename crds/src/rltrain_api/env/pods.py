"""The environment of one job's pods: its layers, from the job and from what stands around it.

`pod_environment` is what the operator writes into pods; `job_environment` is the same with every value's history, for
people. Pure: the shell's environment and the chart's values are arguments.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

from rltrain_api.env.compose import Environment, Layer, LayerValues, compose, doubts
from rltrain_api.env.derive import clashes, default_variables, job_derived, storage_derived
from rltrain_api.env.presets import PRESETS
from rltrain_api.job import RLTrainingJob


def job_environment(
    job: RLTrainingJob,
    *,
    cluster_wide: Mapping[str, str] | None = None,
    forwarded: Mapping[str, str] | None = None,
    submission: Mapping[str, str] | None = None,
) -> Environment:
    """The environment of a job's pods, with the history of every value.

    Args:
        job: The job; nothing but its runtime and its configuration is looked at.
        cluster_wide: Variables that the chart sets for all jobs.
        forwarded: Variables of a person's shell, chosen by `forward`.
        submission: `env_vars` of a submission's runtime_env. They reach Ray's workers, and no raylet.
    """
    environment = _composed(job, cluster_wide or {}, forwarded or {}, submission or {})
    warnings = (*environment.warnings, *doubts(environment), *clashes(environment.values, job.spec.config))
    return replace(environment, warnings=warnings)


def pod_environment(job: RLTrainingJob, cluster_wide: Mapping[str, str] | None = None) -> list[tuple[str, str]]:
    """The names and values that every pod of a job gets, in the order of the pods' `env`.

    Keys of `envFrom`, tokens, and what single pods get besides are not in it.
    """
    return list(_composed(job, cluster_wide or {}, {}, {}).values.items())


def _composed(
    job: RLTrainingJob, cluster_wide: Mapping[str, str], forwarded: Mapping[str, str], submission: Mapping[str, str]
) -> Environment:
    runtime, config = job.spec.runtime, job.spec.config
    layers = [
        LayerValues(Layer.DEFAULTS, default_variables(config), origin="defaults"),
        LayerValues(Layer.DERIVED, job_derived(config, runtime.trainer), origin="spec.config"),
        LayerValues(Layer.DERIVED, storage_derived(job.spec.storage), origin="spec.storage.cache"),
        LayerValues(Layer.CLUSTER, cluster_wide, origin="chart"),
        LayerValues(Layer.FORWARDED, forwarded, origin="shell"),
        LayerValues(Layer.JOB, {variable.name: variable.value for variable in runtime.env}, origin="spec.runtime.env"),
        LayerValues(Layer.SUBMISSION, submission, origin="runtime_env"),
    ]
    if runtime.env_preset is not None:
        preset = PRESETS[runtime.env_preset]
        layers.append(LayerValues(Layer.PRESET, preset.values, preset.removed, f"preset {preset.name}"))
    return compose(layers, runtime.exclude_env)


def submitted_variables(runtime_env_json: str) -> dict[str, str]:
    """The variables in the JSON that `ray job submit --runtime-env-json` takes.

    Raises:
        ValueError: it is not JSON, not an object, or has `env_vars` that are not text; the message quotes no value.
    """
    try:
        runtime_env = json.loads(runtime_env_json)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error.msg} at column {error.colno}") from error
    variables = runtime_env.get("env_vars", {}) if isinstance(runtime_env, dict) else None
    if not isinstance(variables, dict):
        raise ValueError('must be an object such as {"env_vars": {"NCCL_DEBUG": "INFO"}}')
    for name, value in variables.items():
        if not isinstance(value, str):
            raise ValueError(f"env_vars.{name} must be text, as in every environment; put it in quotes")
    return variables
