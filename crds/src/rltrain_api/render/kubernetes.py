"""What of a job has no counterpart elsewhere, said for the fields that are set.

Whatever a renderer does not name as carried over is left out with a note, so that no field is lost in silence, one
that is added tomorrow included. This module must not know any single place.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from typing import Any

from rltrain_api.job import RLTrainingJob
from rltrain_api.spec.storage import Initializer

# Fields of the spec that every renderer makes something of, or has a note of its own for.
CARRIED_EVERYWHERE = (
    "config",
    "overrides",
    "runtime.trainer",
    "runtime.image",
    "runtime.env",
    "runtime.envFrom",
    "runtime.envPreset",
    "runtime.excludeEnv",
    "pools.trainer.resources",
    "pools.inference.resources",
    "storage.checkpoints.claimTemplate",
    "storage.checkpoints.claimName",
    "storage.checkpoints.mountPath",
    "storage.checkpoints.url",
    "storage.checkpoints.resumeFrom",
    "storage.data",
    "storage.cache",
    "storage.initializers",
)


def notes_without_kubernetes(job: RLTrainingJob, carried: Iterable[str] = ()) -> list[str]:
    """Notes for places that know neither Kubernetes nor the operator.

    `carried` are the fields of the spec that the place makes use of besides `CARRIED_EVERYWHERE`.
    """
    notes = left_out(job, carried, "only Kubernetes and RLTrain's operator can do it")
    return [*notes, *resume_notes(job), *initializer_notes(job)]


def left_out(job: RLTrainingJob, carried: Iterable[str], why: str) -> list[str]:
    """One note with every field of the spec that the job sets and that is not carried over, if there are any."""
    spec = job.model_dump(mode="json", by_alias=True, exclude_unset=True)["spec"]
    fields = [f"spec.{path}" for path in _others(spec, frozenset((*CARRIED_EVERYWHERE, *carried)), "")]
    return [f"{', '.join(fields)}: left out, because {why}"] if fields else []


def _others(section: Any, carried: frozenset[str], above: str) -> Iterator[str]:
    """Paths of what is in the section and not carried; as a whole where nothing below is carried."""
    for name, value in section.items():
        path = f"{above}{name}"
        if path in carried:
            continue
        if isinstance(value, dict) and any(known.startswith(f"{path}.") for known in carried):
            yield from _others(value, carried, f"{path}.")
        else:
            yield path


def resume_notes(job: RLTrainingJob) -> Iterator[str]:
    """What the operator would do about a checkpoint of another job."""
    origin = job.spec.storage.checkpoints.resume_from
    if origin is not None:
        yield (
            f"spec.storage.checkpoints.resumeFrom: left out; copy global_step_{origin.step} of {origin.job}, if SkyRL "
            "has written it, and add trainer.resume_mode=from_path and trainer.resume_path"
        )


def deadline_notes(job: RLTrainingJob) -> Iterator[str]:
    """How a deadline is another one where each attempt is a run of its own."""
    if job.spec.active_deadline_seconds is not None and job.spec.failure_policy.backoff_limit > 0:
        yield "spec.activeDeadlineSeconds: counts anew for each attempt here"


def initializer_notes(job: RLTrainingJob) -> Iterator[str]:
    """What has to be done by hand before the first run, in order."""
    for index, initializer in enumerate(job.spec.storage.initializers):
        yield f"spec.storage.initializers[{index}] ({initializer.name}): before the first run, {_deed(initializer)}"


def _deed(initializer: Initializer) -> str:
    fetch = initializer.dataset or initializer.model
    if fetch is not None:
        return f"fetch {fetch.source} into {fetch.to}"
    if initializer.script is not None:
        words = shlex.join([initializer.script.key, *initializer.args])
        return f"run what the ConfigMap {initializer.script.config_map} holds: {words}"
    return f"run: {shlex.join([*(initializer.command or []), *initializer.args])}"


def mount_notes(job: RLTrainingJob, remedy: str) -> Iterator[str]:
    """A note for each volume: the directory that the run expects, and the `remedy` where the place has none."""
    storage = job.spec.storage
    if storage.checkpoints.url is None:
        yield f"spec.storage.checkpoints: the run writes below {storage.checkpoints.mount_path}; {remedy}"
    for index, volume in enumerate(storage.data):
        yield f"spec.storage.data[{index}] ({volume.name}): the run reads below {volume.mount_path}; {remedy}"
    if storage.cache is not None:
        yield f"spec.storage.cache: downloads are kept below {storage.cache.mount_path}; {remedy}"
