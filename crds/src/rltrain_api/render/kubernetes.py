"""What of a job only Kubernetes can do, said of a place without it.

Each renderer says what it makes of volumes, initializers and retries itself, or takes the sentence from here.
This module must not know any single place.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

from rltrain_api.job import RLTrainingJob

# Fields of the spec that mean nothing without Kubernetes and this operator.
_KUBERNETES_ALONE = (
    "runtime.imagePullPolicy",
    "runtime.images",
    "pools.head",
    "pools.trainer.nodeSelector",
    "pools.trainer.tolerations",
    "pools.trainer.shmSize",
    "pools.trainer.gpuResource",
    "pools.inference.nodeSelector",
    "pools.inference.tolerations",
    "pools.inference.shmSize",
    "pools.inference.gpuResource",
    "queueName",
    "priorityClassName",
    "startupDeadlineSeconds",
    "ttlSecondsAfterFinished",
)


def notes_without_kubernetes(job: RLTrainingJob, but_for: tuple[str, ...] = ()) -> list[str]:
    """A note for the fields that are set and have no meaning elsewhere, and one for each initializer.

    `but_for` are fields of the spec that the place makes use of.
    """
    spec = job.model_dump(mode="json", by_alias=True, exclude_unset=True)["spec"]
    fields = [path for path in _KUBERNETES_ALONE if path not in but_for]
    alone = [f"spec.{path}" for path in fields if _is_set(spec, path.split("."))]
    notes = [f"{', '.join(alone)}: left out, because only Kubernetes can do it"] if alone else []
    return [*notes, *initializer_notes(job)]


def initializer_notes(job: RLTrainingJob) -> Iterator[str]:
    """What has to be run by hand before the first run, in order."""
    for index, initializer in enumerate(job.spec.storage.initializers):
        command = shlex.join([*initializer.command, *initializer.args])
        yield f"spec.storage.initializers[{index}] ({initializer.name}): run it before the first run: {command}"


def mount_notes(job: RLTrainingJob, remedy: str) -> Iterator[str]:
    """A note for each volume: the directory that the run expects, and the `remedy` where the place has none."""
    storage = job.spec.storage
    yield f"spec.storage.checkpoints: the run writes below {storage.checkpoints.mount_path}; {remedy}"
    for index, volume in enumerate(storage.data):
        yield f"spec.storage.data[{index}] ({volume.name}): the run reads below {volume.mount_path}; {remedy}"


def _is_set(section: Any, path: list[str]) -> bool:
    for name in path:
        if not isinstance(section, dict) or name not in section:
            return False
        section = section[name]
    return True
