"""What pools add to their pods: labels, annotations, volumes, and the patch of last resort.

Kubernetes' own objects are judged by the API server when pods are made, which is late and far from the job; here is
what people get wrong most, and what would take from a pod what the operator relies on.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from rltrain_api.errors import ErrorCode, FieldError
from rltrain_api.rules.facts import Facts, Rule
from rltrain_api.rules.pools import LABEL_VALUE, bad_value, is_label_key, pools_by_path
from rltrain_api.rules.volumes import mount_paths
from rltrain_api.rules.wording import written
from rltrain_api.spec.base import DNS_LABEL_PATTERN
from rltrain_api.spec.merging import DELETE, DIRECTIVE, MERGE_KEYS

_RAY_CONTAINER = "ray"
_SHARED_MEMORY = "shared-memory"
_SHARED_MEMORY_PATH = "/dev/shm"  # noqa: S108 - the mount point, not a temporary file
_OWN_PREFIXES = ("rltrain.io/", "ray.io/", "app.kubernetes.io/")
_OWN_VARIABLES = ("RLTRAIN_",)
# Maps whose keys are anybody's: one named "env" is no list of variables.
_MAPS_OF_TEXT = frozenset({"labels", "annotations", "nodeSelector", "matchLabels", "requests", "limits"})


def pod_labels_are_labels(facts: Facts) -> Iterator[FieldError]:
    """Keys of labels and annotations, and values of labels, have their form. Ours: the pods would be refused."""
    for path, pool in pools_by_path(facts):
        for field, entries in (("labels", pool.labels), ("annotations", pool.annotations)):
            for key in entries:
                if not is_label_key(key):
                    example = "such as team or example.com/team"
                    message = f"{key!r} is not a key of {field}, {example}"
                    yield FieldError(f"{path}.{field}", ErrorCode.INVALID, message)
        for key, value in pool.labels.items():
            if is_label_key(key) and not LABEL_VALUE.fullmatch(value):
                yield FieldError(f"{path}.labels.{key}", ErrorCode.INVALID, bad_value(value))


def pod_labels_are_not_the_operators(facts: Facts) -> Iterator[FieldError]:
    """A pool sets no label or annotation of the operator's or KubeRay's. Ours: pods are found by them."""
    for path, pool in pools_by_path(facts):
        for field, entries in (("labels", pool.labels), ("annotations", pool.annotations)):
            for key in entries:
                if _is_own(key):
                    yield FieldError(
                        f"{path}.{field}",
                        ErrorCode.CONFLICT,
                        f"{key} is set by the operator or by KubeRay; use a prefix of your own, such as "
                        "example.com/team",
                    )


def extra_volumes_have_names(facts: Facts) -> Iterator[FieldError]:
    """A pool's volumes have names that differ from each other and from the job's own. Ours."""
    for path, pool in pools_by_path(facts):
        taken = _job_volumes(facts)
        counts = Counter(str(volume.get("name")) for volume in pool.volumes)
        for index, volume in enumerate(pool.volumes):
            where, name = f"{path}.volumes[{index}].name", volume.get("name")
            if not isinstance(name, str) or not re.fullmatch(DNS_LABEL_PATTERN, name) or len(name) > 63:
                message = f"{written(name)} is not a volume's name; use at most 63 of a-z, 0-9 and '-'"
                yield FieldError(where, ErrorCode.REQUIRED if name is None else ErrorCode.INVALID, message)
            elif name in taken:
                message = f"{name} is the name of a volume that the operator adds; choose another"
                yield FieldError(where, ErrorCode.DUPLICATE, message)
            elif counts[name] > 1:
                message = f"{name} is the name of {counts[name]} volumes; give each its own"
                yield FieldError(where, ErrorCode.DUPLICATE, message)


def extra_mounts_show_volumes(facts: Facts) -> Iterator[FieldError]:
    """A pool's volumeMounts name volumes that there are, at paths where nothing else is. Ours."""
    for path, pool in pools_by_path(facts):
        volumes = {str(volume.get("name")) for volume in pool.volumes} | _job_volumes(facts)
        taken = _job_paths(facts)
        for index, mount in enumerate(pool.volume_mounts):
            where, name, place = f"{path}.volumeMounts[{index}]", mount.get("name"), mount.get("mountPath")
            if not isinstance(name, str) or name not in volumes:
                known = ", ".join(sorted(volumes))
                yield FieldError(
                    f"{where}.name",
                    ErrorCode.INVALID,
                    f"{written(name)} is no volume of these pods, which are {known}; add it to volumes",
                )
            if not isinstance(place, str) or not place.startswith("/") or ":" in place:
                message = f"{written(place)} is not an absolute path; write /models, say"
                yield FieldError(f"{where}.mountPath", ErrorCode.INVALID, message)
            elif place.rstrip("/") in taken:
                message = f"{place} has another volume already; choose another path"
                yield FieldError(f"{where}.mountPath", ErrorCode.DUPLICATE, message)
            else:
                taken.add(place.rstrip("/"))


def patch_is_a_patch(facts: Facts) -> Iterator[FieldError]:
    """podPatch has maps and lists where a pod's template has them, and entries of lists have their keys. Ours."""
    for path, pool in pools_by_path(facts):
        if pool.pod_patch is not None:
            yield from _patch_form(f"{path}.podPatch", pool.pod_patch)


def patch_keeps_what_the_operator_needs(facts: Facts) -> Iterator[FieldError]:
    """podPatch removes and renames nothing that the operator or KubeRay find pods, containers and data by. Ours."""
    for path, pool in pools_by_path(facts):
        where, patch = f"{path}.podPatch", pool.pod_patch
        if patch is not None and not list(_patch_form(where, patch)):
            yield from _patch_losses(where, patch, facts)


def _patch_form(where: str, patch: Mapping[str, Any]) -> Iterator[FieldError]:
    for key, value in patch.items():
        if key not in ("metadata", "spec"):
            message = f"a pod's template has no field {key!r}; its fields are metadata and spec"
            yield FieldError(where, ErrorCode.UNKNOWN_FIELD, message)
        elif not isinstance(value, Mapping):
            yield FieldError(f"{where}.{key}", ErrorCode.WRONG_TYPE, f"must be a map; got {written(value)}")
        elif key == "metadata":
            yield from _metadata_form(f"{where}.metadata", value)
        else:
            yield from _map_form(f"{where}.spec", value)


def _metadata_form(where: str, metadata: Mapping[str, Any]) -> Iterator[FieldError]:
    for key, value in metadata.items():
        if key not in ("labels", "annotations"):
            message = f"{key} of a pod is KubeRay's to set; only labels and annotations can be patched"
            yield FieldError(f"{where}.{key}", ErrorCode.CONFLICT, message)
        elif value is not None and not isinstance(value, Mapping):
            yield FieldError(f"{where}.{key}", ErrorCode.WRONG_TYPE, f"must be a map; got {written(value)}")


def _map_form(where: str, entries: Mapping[str, Any]) -> Iterator[FieldError]:
    for key, value in entries.items():
        if str(key).startswith("$"):
            message = f"{key} is not taken here; use null to remove a field, and {DIRECTIVE}: {DELETE} in an entry of "
            yield FieldError(where, ErrorCode.INVALID, message + f"one of {', '.join(MERGE_KEYS)} to remove that")
        elif key in MERGE_KEYS and value is not None:
            yield from _list_form(f"{where}.{key}", MERGE_KEYS[key], value)
        elif isinstance(value, Mapping) and key not in _MAPS_OF_TEXT:
            yield from _map_form(f"{where}.{key}", value)


def _list_form(where: str, by: str, entries: object) -> Iterator[FieldError]:
    if not isinstance(entries, list):
        yield FieldError(where, ErrorCode.WRONG_TYPE, f"must be a list; got {written(entries)}")
        return
    for index, entry in enumerate(entries):
        if not isinstance(entry, Mapping):
            yield FieldError(f"{where}[{index}]", ErrorCode.WRONG_TYPE, f"must be a map; got {written(entry)}")
        elif entry.get(by) is None:
            message = f"is missing, and entries are told apart by it; add the {by} of the entry to change or to add"
            yield FieldError(f"{where}[{index}].{by}", ErrorCode.REQUIRED, message)
        else:
            rest = {key: value for key, value in entry.items() if (key, value) != (DIRECTIVE, DELETE)}
            yield from _map_form(f"{where}[{index}]", rest)


def _patch_losses(where: str, patch: Mapping[str, Any], facts: Facts) -> Iterator[FieldError]:
    metadata, spec = patch.get("metadata", {}), patch.get("spec", {})
    for field in ("labels", "annotations"):
        if field in metadata and metadata[field] is None:
            yield _loss(f"{where}.metadata.{field}", f"would remove all {field}, the operator's among them")
        for key in metadata.get(field) or {}:
            if _is_own(key):
                yield _loss(f"{where}.metadata.{field}", f"{key} is set by the operator or by KubeRay")
    yield from _list_losses(f"{where}.spec", spec, "containers", {_RAY_CONTAINER})
    yield from _list_losses(f"{where}.spec", spec, "volumes", _job_volumes(facts))
    for index, container in enumerate(spec.get("containers") or []):
        if container["name"] == _RAY_CONTAINER:
            place = f"{where}.spec.containers[{index}]"
            yield from _list_losses(place, container, "volumeMounts", _job_paths(facts))
            yield from _list_losses(place, container, "env", set())
            for entry in container.get("env") or []:
                if str(entry["name"]).startswith(_OWN_VARIABLES):
                    yield _loss(f"{place}.env", f"{entry['name']} is set by the operator")


def _list_losses(where: str, patch: Mapping[str, Any], field: str, kept: set[str]) -> Iterator[FieldError]:
    if field in patch and patch[field] is None:
        yield _loss(f"{where}.{field}", f"would remove all {field}, the operator's among them")
    for entry in patch.get(field) or []:
        name = str(entry[MERGE_KEYS[field]])
        if entry.get(DIRECTIVE) == DELETE and name in kept:
            yield _loss(f"{where}.{field}", f"would remove {name}, which the job needs")


def _loss(where: str, what: str) -> FieldError:
    return FieldError(where, ErrorCode.CONFLICT, f"{what}; leave it out of the patch")


def _is_own(key: str) -> bool:
    return str(key).startswith(_OWN_PREFIXES)


def _job_volumes(facts: Facts) -> set[str]:
    """Names that the operator gives to volumes of a job, or may give."""
    return {"checkpoints", "cache", "resume", _SHARED_MEMORY, *(volume.name for volume in facts.spec.storage.data)}


def _job_paths(facts: Facts) -> set[str]:
    storage = facts.spec.storage
    return {_SHARED_MEMORY_PATH, *mount_paths(storage)}


RULES: tuple[Rule, ...] = (
    pod_labels_are_labels,
    pod_labels_are_not_the_operators,
    extra_volumes_have_names,
    extra_mounts_show_volumes,
    patch_is_a_patch,
    patch_keeps_what_the_operator_needs,
)
SKYRL_RULES: tuple[Rule, ...] = ()
