"""Rules of the job's volumes themselves: one source each, a size, and mounts that neither collide nor hide anything."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterator

from rltrain_api.errors import ErrorCode, FieldError
from rltrain_api.quantity import parse_quantity
from rltrain_api.rules.facts import Facts, Rule
from rltrain_api.spec.storage import Storage, Volume

_CHECKPOINTS = "spec.storage.checkpoints"
# Volumes that every pod has besides `data`.
_TAKEN_NAMES = {"checkpoints": "storage.checkpoints", "shared-memory": "the volume of /dev/shm"}
# Directories that the container itself lives by; a volume there would hide what is in them.
_TAKEN_DIRECTORIES = ("/dev", "/proc", "/sys", "/tmp/ray")  # noqa: S108 - Ray's own directory


def is_below(path: str, directory: str) -> bool:
    """Whether an absolute path is a directory itself or lies under it; a relative path or `~` never does."""
    normal, root = posixpath.normpath(path), posixpath.normpath(directory)
    return normal == root or normal.startswith(f"{root.rstrip('/')}/")


def _volumes(storage: Storage) -> list[tuple[str, Volume]]:
    data: list[tuple[str, Volume]] = [
        (f"spec.storage.data[{index}]", volume) for index, volume in enumerate(storage.data)
    ]
    return [(_CHECKPOINTS, storage.checkpoints), *data]


def _mounts(storage: Storage) -> list[tuple[str, str]]:
    """(path of the volume in the document, directory in the pods), checkpoints first."""
    return [
        (_CHECKPOINTS, storage.checkpoints.mount_path),
        *((f"spec.storage.data[{index}]", volume.mount_path) for index, volume in enumerate(storage.data)),
    ]


def volume_has_one_source(facts: Facts) -> Iterator[FieldError]:
    """A volume has either claimTemplate or claimName. Ours."""
    for path, volume in _volumes(facts.spec.storage):
        template, name = volume.claim_template, volume.claim_name
        if (template is None) == (name is None):
            problem = (
                "sets neither claimTemplate nor claimName" if name is None else "sets both claimTemplate and claimName"
            )
            yield FieldError(
                path,
                ErrorCode.CONFLICT,
                f"{problem}; set claimTemplate for a new volume or claimName for an existing one",
            )


def new_volume_has_a_size(facts: Facts) -> Iterator[FieldError]:
    """claimTemplate.storage is above 0. Ours: the API server would refuse the claim."""
    for path, volume in _volumes(facts.spec.storage):
        if volume.claim_template is not None and parse_quantity(volume.claim_template.storage) <= 0:
            yield FieldError(
                f"{path}.claimTemplate.storage",
                ErrorCode.OUT_OF_RANGE,
                f"a volume cannot have size {volume.claim_template.storage}; use 10Gi, say",
            )


def mount_path_is_direct(facts: Facts) -> Iterator[FieldError]:
    """A mountPath has no `..`, `.` or double slash. Ours: paths are compared with it."""
    for owner, mount in _mounts(facts.spec.storage):
        direct = posixpath.normpath(mount).replace("//", "/")
        if direct != mount:
            yield FieldError(
                f"{owner}.mountPath", ErrorCode.INVALID, f"{mount!r} takes a detour; write it as {direct!r}"
            )


def mount_hides_nothing(facts: Facts) -> Iterator[FieldError]:
    """No volume is mounted over a directory that the pod needs. Ours."""
    for owner, mount in _mounts(facts.spec.storage):
        taken = next((directory for directory in _TAKEN_DIRECTORIES if is_below(mount, directory)), None)
        if taken is not None:
            yield FieldError(
                f"{owner}.mountPath",
                ErrorCode.CONFLICT,
                f"{mount!r} would hide {taken}, which the pod needs; mount it elsewhere",
            )


def mounts_are_apart(facts: Facts) -> Iterator[FieldError]:
    """No two volumes are mounted in one directory. Ours: the API server would refuse the pods."""
    first: dict[str, str] = {}
    for owner, mount in _mounts(facts.spec.storage):
        if mount in first:
            yield FieldError(
                f"{owner}.mountPath",
                ErrorCode.DUPLICATE,
                f"{mount!r} is where {first[mount]} is mounted; use another directory",
            )
        first.setdefault(mount, owner)


def volume_name_is_free(facts: Facts) -> Iterator[FieldError]:
    """No data volume is named as one that every pod has. Ours."""
    for index, volume in enumerate(facts.spec.storage.data):
        if volume.name in _TAKEN_NAMES:
            yield FieldError(
                f"spec.storage.data[{index}].name",
                ErrorCode.CONFLICT,
                f"{volume.name!r} is the name of {_TAKEN_NAMES[volume.name]}; choose another one",
            )


def volume_names_differ(facts: Facts) -> Iterator[FieldError]:
    """No two data volumes have one name. Ours."""
    volumes = facts.spec.storage.data
    counts = Counter(volume.name for volume in volumes)
    for index, volume in enumerate(volumes):
        if counts[volume.name] > 1:
            yield FieldError(
                f"spec.storage.data[{index}].name",
                ErrorCode.DUPLICATE,
                f"{volume.name!r} is the name of {counts[volume.name]} volumes; give each its own",
            )


RULES: tuple[Rule, ...] = (
    volume_has_one_source,
    new_volume_has_a_size,
    mount_path_is_direct,
    mount_hides_nothing,
    mounts_are_apart,
    volume_name_is_free,
    volume_names_differ,
)
SKYRL_RULES: tuple[Rule, ...] = ()
