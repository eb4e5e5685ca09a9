"""Rules of the job's volumes themselves: one source each, a size, an access mode that serves the nodes that the pods
must be on, and mounts that neither collide nor hide anything.
"""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterator

from rltrain_api import names
from rltrain_api.errors import ErrorCode, FieldError
from rltrain_api.fetching import SCRIPT_DIRECTORY
from rltrain_api.quantity import parse_quantity
from rltrain_api.rules.facts import Facts, Rule
from rltrain_api.sizing.pools import plan_pools
from rltrain_api.spec.storage import CheckpointVolume, Storage, Volume

_CHECKPOINTS = "spec.storage.checkpoints"
_CACHE = "spec.storage.cache"
# Volumes that pods have besides `data`.
_TAKEN_NAMES = {
    "checkpoints": "storage.checkpoints",
    "cache": "storage.cache",
    "resume": "storage.checkpoints.resumeFrom",
    "shared-memory": "the volume of /dev/shm",
    "initializer-script": "the volume of an initializer's script",
}
# Directories that the container itself lives by; a volume there would hide what is in them.
_TAKEN_DIRECTORIES = ("/dev", "/proc", "/sys", "/tmp/ray", SCRIPT_DIRECTORY)  # noqa: S108 - Ray's own directory
_SEVERAL_NODES = "ReadWriteMany"


def is_below(path: str, directory: str) -> bool:
    """Whether an absolute path is a directory itself or lies under it; a relative path or `~` never does."""
    normal, root = posixpath.normpath(path), posixpath.normpath(directory)
    return normal == root or normal.startswith(f"{root.rstrip('/')}/")


def mount_paths(storage: Storage) -> list[str]:
    """The directories of the job's volumes in its pods, checkpoints first; files that matter lie below one of them."""
    return [mount for _, mount in _mounts(storage)]


def why_several_nodes(facts: Facts) -> str | None:
    """Why the job's pods cannot all be on one node, in words; None where they may, as far as the job itself says.

    Whether a node has room for them only the cluster knows.
    """
    nodes = {
        "policy_num_nodes": facts.placement.policy_num_nodes,
        "ref_num_nodes": facts.placement.ref_num_nodes if facts.needs_reference else 1,
        "critic_num_nodes": facts.placement.critic_num_nodes if facts.has_critic else 1,
    }
    for field, number in nodes.items():
        if number > 1:
            return f"config.trainer.placement.{field} is {number}"
    on_nodes_of_their_own = 0
    for size in plan_pools(facts):
        if size.hosts > 1:
            return f"an engine spans {size.hosts} pods, because one has at most {size.gpus_each} GPUs"
        pool = getattr(facts.spec.pools, size.name, facts.spec.pools.trainer)
        on_nodes_of_their_own += size.pods if pool.network.host_network else 0
    if on_nodes_of_their_own > 1:
        return f"{on_nodes_of_their_own} pods use their node's own network, where Ray's ports are free for one of them"
    pools = {"head": facts.spec.pools.head, "trainer": facts.spec.pools.trainer}
    if not facts.placement.colocate_all:
        pools["inference"] = facts.spec.pools.inference
    chosen: dict[str, tuple[str, str]] = {}
    for pool, wanted in pools.items():
        for label, value in wanted.node_selector.items():
            other, first = chosen.setdefault(label, (pool, value))
            if first != value:
                return f"pools.{other} wants nodes with {label}={first}, and pools.{pool} with {label}={value}"
    return None


def _volumes(storage: Storage) -> list[tuple[str, Volume]]:
    data: list[tuple[str, Volume]] = [
        (f"spec.storage.data[{index}]", volume) for index, volume in enumerate(storage.data)
    ]
    cache: list[tuple[str, Volume]] = [] if storage.cache is None else [(_CACHE, storage.cache)]
    return [(_CHECKPOINTS, storage.checkpoints), *data, *cache]


def _mounts(storage: Storage) -> list[tuple[str, str]]:
    """(path of the volume in the document, directory in the pods), checkpoints first where they are on a volume."""
    return [
        *([(_CHECKPOINTS, storage.checkpoints.mount_path)] if storage.checkpoints.url is None else []),
        *((f"spec.storage.data[{index}]", volume.mount_path) for index, volume in enumerate(storage.data)),
        *([] if storage.cache is None else [(_CACHE, storage.cache.mount_path)]),
    ]


def volume_has_one_source(facts: Facts) -> Iterator[FieldError]:
    """A volume has one of claimTemplate and claimName; checkpoints may have url in their place. Ours."""
    for path, volume in _volumes(facts.spec.storage):
        sources = {"claimTemplate": volume.claim_template, "claimName": volume.claim_name}
        remedy = "set claimTemplate for a new volume or claimName for an existing one"
        if isinstance(volume, CheckpointVolume):
            sources["url"] = volume.url
            remedy = "set claimTemplate for a new volume, claimName for an existing one or url for an object store"
        given = [name for name, source in sources.items() if source is not None]
        if len(given) != 1:
            problem = f"sets {' and '.join(given)}" if given else f"sets none of {', '.join(sources)}"
            yield FieldError(path, ErrorCode.CONFLICT, f"{problem}; {remedy}")


def new_volume_has_a_size(facts: Facts) -> Iterator[FieldError]:
    """claimTemplate.storage is above 0. Ours: the API server would refuse the claim."""
    for path, volume in _volumes(facts.spec.storage):
        if volume.claim_template is not None and parse_quantity(volume.claim_template.storage) <= 0:
            yield FieldError(
                f"{path}.claimTemplate.storage",
                ErrorCode.OUT_OF_RANGE,
                f"a volume cannot have size {volume.claim_template.storage}; use 10Gi, say",
            )


def access_modes_serve_the_nodes(facts: Facts) -> Iterator[FieldError]:
    """A new volume that pods of several nodes mount is ReadWriteMany. Ours: pods of a second node never start."""
    why = why_several_nodes(facts)
    if why is None:
        return
    for path, volume in _volumes(facts.spec.storage):
        if volume.claim_template is not None and _SEVERAL_NODES not in volume.claim_template.access_modes:
            yield FieldError(
                f"{path}.claimTemplate.accessModes",
                ErrorCode.CONFLICT,
                f"ReadWriteOnce is for the pods of one node, and these are on several ({why}); use [ReadWriteMany] "
                "with a storage class that has it, or bring the pods to one node",
            )


def only_a_new_volume_is_deleted(facts: Facts) -> Iterator[FieldError]:
    """deletePolicy Delete comes with claimTemplate. Ours: what was there before the job is not the job's to delete."""
    checkpoints = facts.spec.storage.checkpoints
    if checkpoints.delete_policy == "Delete" and checkpoints.claim_name is not None:
        yield FieldError(
            f"{_CHECKPOINTS}.deletePolicy",
            ErrorCode.CONFLICT,
            f"is Delete, and the claim {checkpoints.claim_name} was there before the job, which never deletes it; "
            "remove deletePolicy, or let claimTemplate make a claim of the job's own",
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
    resumes = facts.spec.storage.checkpoints.resume_from is not None
    directories = (*_TAKEN_DIRECTORIES, *([names.RESUME_MOUNT_PATH] if resumes else []))
    for owner, mount in _mounts(facts.spec.storage):
        taken = next((directory for directory in directories if is_below(mount, directory)), None)
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
    access_modes_serve_the_nodes,
    only_a_new_volume_is_deleted,
    mount_path_is_direct,
    mount_hides_nothing,
    mounts_are_apart,
    volume_name_is_free,
    volume_names_differ,
)
SKYRL_RULES: tuple[Rule, ...] = ()
