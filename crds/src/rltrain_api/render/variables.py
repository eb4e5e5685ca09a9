"""The environment of a run elsewhere: what can be written down, and which secrets must come from the place itself.

The same variables as in the job's pods, but for those that SkyRL's driver sets by itself. A value that looks like a
secret is never written: the place is asked for it by name. This module must not know how a place is asked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from rltrain_api.env import Layer, is_secret, job_derived, job_environment
from rltrain_api.job import RLTrainingJob
from rltrain_api.render.upstream import job_for_skyrl

# What a tracker must have from the environment before anything starts (SkyRL asserts it for W&B).
_TRACKER_KEYS = {"wandb": "WANDB_API_KEY"}
# What a shell can export; Kubernetes takes "-" and "." in names, too.
_SHELL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Variables:
    """The environment of a run elsewhere.

    Args:
        values: Names and values that may be written down, in the order of the pods.
        secrets: Names whose values the job has, but which must not be written down; each with where they are.
        tracker_key: A name that the tracker needs and that `values` and `secrets` have not; "" where there is none.
        secret_sources: Names of the job's Secrets of which every key becomes a variable.
        config_map_sources: Names of the job's ConfigMaps of which every key becomes a variable.
    """

    values: dict[str, str]
    secrets: dict[str, str]
    tracker_key: str
    secret_sources: tuple[str, ...]
    config_map_sources: tuple[str, ...]

    @property
    def exported(self) -> dict[str, str]:
        """Those values whose names a shell can export."""
        return {name: value for name, value in self.values.items() if _SHELL_NAME.fullmatch(name)}

    @property
    def asked_for(self) -> list[str]:
        """Names that the place must give a value: the secrets, and the tracker's key unless a Secret may hold it."""
        key = [self.tracker_key] if self.tracker_key and not self.secret_sources else []
        return [*self.secrets, *key]


def variables_for_skyrl(job: RLTrainingJob) -> Variables:
    """The variables of the job's pods as far as they are known; see the module's docstring."""
    values: dict[str, str] = {}
    secrets: dict[str, str] = {}
    upstream = job_for_skyrl(job)
    # SkyRL's driver works these out itself and hands them to its Ray processes.
    derived = job_derived(upstream.spec.config, "skyrl")
    for setting in job_environment(upstream).settings:
        if setting.layer is Layer.DERIVED and setting.name in derived:
            continue
        if is_secret(setting.name, setting.value):
            secrets[setting.name] = setting.origin
        else:
            values[setting.name] = setting.value
    keys = (_TRACKER_KEYS.get(logger, "") for logger in job.spec.config.trainer.loggers)
    key = next((key for key in keys if key), "")
    sources = job.spec.runtime.env_from
    return Variables(
        values=values,
        secrets=secrets,
        tracker_key="" if key in values or key in secrets else key,
        secret_sources=tuple(source.secret_ref.name for source in sources if source.secret_ref is not None),
        config_map_sources=tuple(source.config_map_ref.name for source in sources if source.config_map_ref is not None),
    )


def notes_without_pods(variables: Variables) -> Iterator[str]:
    """What only Kubernetes makes of the variables, for places that have a plain environment."""
    for name, value in variables.values.items():
        if name not in variables.exported:
            yield f"spec.runtime.env: {name} is left out, because no shell can export such a name"
        elif "$(" in value:
            yield f"spec.runtime.env: {name} holds $(…), which only Kubernetes replaces; write out what it stands for"
    for name in variables.config_map_sources:
        yield f"spec.runtime.envFrom: what the ConfigMap {name} holds is not known here; set it too"


def secret_notes(variables: Variables) -> Iterator[str]:
    """Which values of the job are not written down, and where they stand."""
    for name, origin in variables.secrets.items():
        yield f"{origin}: {name} looks like a secret, so its value is not written"
