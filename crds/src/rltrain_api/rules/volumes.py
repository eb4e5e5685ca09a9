"""Rules of the job's volumes: where they are mounted, and that files that matter lie on one.

A path inside a pod that is on no volume is lost with the pod, and a path in a home directory (SkyRL's defaults) is such
a path.
"""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterator

from rltrain_api.config import SkyRLTrainConfig
from rltrain_api.errors import ErrorCode, FieldError
from rltrain_api.job import RLTrainingJob, Storage, Volume
from rltrain_api.quantity import parse_quantity

_CHECKPOINTS = "spec.storage.checkpoints"
# Volumes that every pod has besides `data`.
_TAKEN_NAMES = {"checkpoints": "storage.checkpoints", "shared-memory": "the volume of /dev/shm"}
# Directories that the container itself lives by; a volume there would hide what is in them.
_TAKEN_DIRECTORIES = ("/dev", "/proc", "/sys", "/tmp/ray")  # noqa: S108 - Ray's own directory


def check_volumes(job: RLTrainingJob) -> Iterator[FieldError]:
    """Errors of volumes and of the paths that must lie on them."""
    storage = job.spec.storage
    volumes = _volumes(storage)
    for path, volume in volumes:
        yield from _source(path, volume)
    yield from _mount_paths(storage)
    yield from _volume_names(storage)
    yield from _paths_on_volumes(job.spec.config, storage)


def _volumes(storage: Storage) -> list[tuple[str, Volume]]:
    data: list[tuple[str, Volume]] = [
        (f"spec.storage.data[{index}]", volume) for index, volume in enumerate(storage.data)
    ]
    return [(_CHECKPOINTS, storage.checkpoints), *data]


def _source(path: str, volume: Volume) -> Iterator[FieldError]:
    template, name = volume.claim_template, volume.claim_name
    if (template is None) == (name is None):
        problem = (
            "sets neither claimTemplate nor claimName" if name is None else "sets both claimTemplate and claimName"
        )
        yield FieldError(
            path, ErrorCode.CONFLICT, f"{problem}; set claimTemplate for a new volume or claimName for an existing one"
        )
    if template is not None and parse_quantity(template.storage) <= 0:
        yield FieldError(
            f"{path}.claimTemplate.storage", ErrorCode.OUT_OF_RANGE, "a volume cannot have size 0; use 10Gi, say"
        )


def _mount_paths(storage: Storage) -> Iterator[FieldError]:
    mounts = [(_CHECKPOINTS, storage.checkpoints.mount_path)]
    mounts += [(f"spec.storage.data[{index}]", volume.mount_path) for index, volume in enumerate(storage.data)]
    first: dict[str, str] = {}
    for owner, mount in mounts:
        path = f"{owner}.mountPath"
        if posixpath.normpath(mount) != mount:
            yield FieldError(
                path, ErrorCode.INVALID, f"{mount!r} takes a detour; write it as {posixpath.normpath(mount)!r}"
            )
        taken = next((directory for directory in _TAKEN_DIRECTORIES if is_below(mount, directory)), None)
        if taken is not None:
            yield FieldError(
                path, ErrorCode.CONFLICT, f"{mount!r} would hide {taken}, which the pod needs; mount it elsewhere"
            )
        if mount in first:
            yield FieldError(
                path, ErrorCode.DUPLICATE, f"{mount!r} is where {first[mount]} is mounted; use another directory"
            )
        first.setdefault(mount, owner)


def _volume_names(storage: Storage) -> Iterator[FieldError]:
    counts = Counter(volume.name for volume in storage.data)
    for index, volume in enumerate(storage.data):
        path = f"spec.storage.data[{index}].name"
        if volume.name in _TAKEN_NAMES:
            yield FieldError(
                path,
                ErrorCode.CONFLICT,
                f"{volume.name!r} is the name of {_TAKEN_NAMES[volume.name]}; choose another one",
            )
        if counts[volume.name] > 1:
            yield FieldError(
                path,
                ErrorCode.DUPLICATE,
                f"{volume.name!r} is the name of {counts[volume.name]} volumes; give each its own",
            )


def _paths_on_volumes(config: SkyRLTrainConfig, storage: Storage) -> Iterator[FieldError]:
    trainer, data = config.trainer, config.data
    mounts = [storage.checkpoints.mount_path, *(volume.mount_path for volume in storage.data)]
    paths = [(f"data.train_data[{index}]", path) for index, path in enumerate(data.train_data)]
    if trainer.eval_before_train or trainer.eval_interval > 0:
        paths += [(f"data.val_data[{index}]", path) for index, path in enumerate(data.val_data)]
    if trainer.resume_mode == "from_path" and trainer.resume_path is not None:
        paths.append(("trainer.resume_path", trainer.resume_path))
    yield from _not_mounted("trainer.ckpt_path", trainer.ckpt_path, [storage.checkpoints.mount_path])
    for field, path in paths:
        yield from _not_mounted(field, path, mounts)


def _not_mounted(field: str, path: str, mounts: list[str]) -> Iterator[FieldError]:
    if any(is_below(path, mount) for mount in mounts):
        return
    where = " or ".join(dict.fromkeys(mounts))
    if "://" in path:
        yield FieldError(
            f"spec.config.{field}",
            ErrorCode.NOT_YET_SUPPORTED,
            f"{path!r} is in an object store, which this release cannot use; use a path under {where}",
        )
        return
    yield FieldError(
        f"spec.config.{field}",
        ErrorCode.NOT_MOUNTED,
        f"{path!r} is on no volume that may hold it, so pods would neither share nor keep it; use a path under {where}",
    )


def is_below(path: str, directory: str) -> bool:
    """Whether an absolute path is a directory itself or lies under it; a relative path or `~` never does."""
    normal, root = posixpath.normpath(path), posixpath.normpath(directory)
    return normal == root or normal.startswith(f"{root.rstrip('/')}/")
