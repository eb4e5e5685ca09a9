"""What pods ask for and where they may run: resources, /dev/shm, GPUs of a pod, node labels, tolerations."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from rltrain_api.errors import ErrorCode, FieldError
from rltrain_api.quantity import parse_quantity
from rltrain_api.rules.facts import Facts, Rule
from rltrain_api.rules.wording import counted, written
from rltrain_api.sizing.pools import engines_have_pods, gpus_per_engine_pod, model_pools
from rltrain_api.spec.pools import Pool, Resources

LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_LABEL_KEY = re.compile(
    r"([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
)
_LEAST_MEMORY = Decimal(16 * 1024**2)  # nothing of ours starts in less, so less is a slip such as 512m for 512Mi

_TOLERATION_TYPES: dict[str, type] = {
    "key": str,
    "operator": str,
    "value": str,
    "effect": str,
    "tolerationSeconds": int,
}
_OPERATORS = ("Exists", "Equal", "Lt", "Gt")  # the last two compare numbers and are younger than the others
_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")


def pools_by_path(facts: Facts) -> list[tuple[str, Pool]]:
    """The job's pools, each with the path of its field."""
    pools = facts.spec.pools
    found: list[tuple[str, Pool]] = [
        ("spec.pools.head", pools.head),
        ("spec.pools.trainer", pools.trainer),
        ("spec.pools.inference", pools.inference),
    ]
    return found if pools.environment is None else [*found, ("spec.pools.environment", pools.environment)]


def _resources(facts: Facts) -> list[tuple[str, Resources]]:
    found = [(f"{path}.resources", pool.resources) for path, pool in pools_by_path(facts)]
    initializers = enumerate(facts.spec.storage.initializers)
    return found + [(f"spec.storage.initializers[{index}].resources", entry.resources) for index, entry in initializers]


def containers_have_cpu(facts: Facts) -> Iterator[FieldError]:
    """resources.cpu is above 0. Ours."""
    for path, resources in _resources(facts):
        if parse_quantity(resources.cpu) <= 0:
            yield FieldError(f"{path}.cpu", ErrorCode.OUT_OF_RANGE, "no container runs on 0 CPU; use 500m or more, say")


def containers_have_memory(facts: Facts) -> Iterator[FieldError]:
    """resources.memory is at least 16Mi. Ours: less is a slip, such as 512m for 512Mi."""
    for path, resources in _resources(facts):
        memory = parse_quantity(resources.memory)
        if memory < _LEAST_MEMORY:
            yield FieldError(
                f"{path}.memory",
                ErrorCode.OUT_OF_RANGE,
                f"{resources.memory} is {memory.normalize():f} bytes, in which nothing starts; write 4Gi or 512Mi, say",
            )


def shared_memory_fits_the_pod(facts: Facts) -> Iterator[FieldError]:
    """shmSize is above 0 and at most resources.memory. Ours: it counts as the pod's memory, and 0 means no bound."""
    for path, pool in pools_by_path(facts):
        if pool.shm_size is None:
            continue
        size, memory = parse_quantity(pool.shm_size), parse_quantity(pool.resources.memory)
        if size <= 0:
            yield FieldError(
                f"{path}.shmSize",
                ErrorCode.OUT_OF_RANGE,
                f"{pool.shm_size} means no bound to Kubernetes, and Ray needs some; remove it to get half of the "
                "memory, or use 1Gi, say",
            )
        if size > memory >= _LEAST_MEMORY:
            yield FieldError(
                f"{path}.shmSize",
                ErrorCode.OUT_OF_RANGE,
                f"{pool.shm_size} is more than resources.memory {pool.resources.memory}, which /dev/shm counts "
                "towards; lower it or raise the memory",
            )


def engine_pods_suit_the_builtin_trainer(facts: Facts) -> Iterator[FieldError]:
    """With runtime.trainer builtin, an inference pod has the GPUs of one engine. Ours: its engine is one process."""
    said = facts.spec.pools.inference.gpus_per_node
    if not facts.runs_upstream and said is not None and said != facts.gpus_per_engine:
        yield FieldError(
            "spec.pools.inference.gpusPerNode",
            ErrorCode.NOT_YET_SUPPORTED,
            f"{said} differs from the {counted(facts.gpus_per_engine, 'GPU')} of an engine, and an engine of the "
            "builtin trainer is one pod; remove it, or set spec.runtime.trainer to skyrl",
        )


def environments_have_pods_upstream_only(facts: Facts) -> Iterator[FieldError]:
    """With runtime.trainer builtin, there is no pool for environments. Ours: its environments run in the driver."""
    if not facts.runs_upstream and facts.spec.pools.environment is not None:
        yield FieldError(
            "spec.pools.environment",
            ErrorCode.NOT_YET_SUPPORTED,
            "is set, and the builtin trainer runs environments in the head pod; remove it and give pools.head the "
            "CPUs, or set spec.runtime.trainer to skyrl",
        )


def rdma_devices_have_a_name(facts: Facts) -> Iterator[FieldError]:
    """network.rdmaCount goes with network.rdmaResource. Ours."""
    for path, pool in pools_by_path(facts):
        network = pool.network
        if network.rdma_resource is None and network.rdma_count != 1:
            yield FieldError(
                f"{path}.network.rdmaCount",
                ErrorCode.CONFLICT,
                f"asks for {network.rdma_count} devices without a name; set rdmaResource to the name under which nodes "
                "offer them, such as rdma/ib, or remove it",
            )


def engines_and_pods_divide_each_other(facts: Facts) -> Iterator[FieldError]:
    """An inference pod holds whole engines, or an engine fills whole pods. Ours: the rest of a pod would idle."""
    if not engines_have_pods(facts):
        return
    each, engine = gpus_per_engine_pod(facts), facts.gpus_per_engine
    if each % engine and engine % each:
        yield FieldError(
            "spec.pools.inference.gpusPerNode",
            ErrorCode.NOT_DIVISIBLE,
            f"{counted(each, 'GPU')} of a pod and the {engine} of an engine (tensor times pipeline times data "
            f"parallel) do not divide each other; use {engine} or a divisor or multiple of it, up to 64",
        )


def engines_get_the_largest_pods(facts: Facts) -> Iterator[FieldError]:
    """An inference pod has at least as many GPUs as a pod that trains.

    Ours: Ray gives SkyRL's engines, which ask first, the largest pods, and the models would wait for theirs for ever.
    """
    if not engines_have_pods(facts):
        return
    each, largest = gpus_per_engine_pod(facts), model_pools(facts)[0]
    if each < largest.gpus_each:
        yield FieldError(
            "spec.pools.inference.gpusPerNode",
            ErrorCode.CONFLICT,
            f"{each} is less than the {counted(largest.gpus_each, 'GPU')} of a {largest.name} pod, which SkyRL's "
            "engines would take, and the model would wait for ever; remove it, or set it to "
            f"{largest.gpus_each} or more",
        )


def node_labels_are_labels(facts: Facts) -> Iterator[FieldError]:
    """Keys and values of nodeSelector have the form of labels. Ours: the API server would refuse the pods."""
    for path, pool in pools_by_path(facts):
        for key, value in pool.node_selector.items():
            if not is_label_key(key):
                yield FieldError(
                    f"{path}.nodeSelector",
                    ErrorCode.INVALID,
                    f"{key!r} is not a label's key, such as zone or example.com/gpu",
                )
            elif not LABEL_VALUE.fullmatch(value):
                yield FieldError(f"{path}.nodeSelector.{key}", ErrorCode.INVALID, bad_value(value))


def tolerations_are_tolerations(facts: Facts) -> Iterator[FieldError]:
    """A toleration has the fields, types and values that Kubernetes knows. Ours: a misspelt field would be dropped."""
    for path, pool in pools_by_path(facts):
        for index, toleration in enumerate(pool.tolerations):
            yield from _toleration_form(f"{path}.tolerations[{index}]", toleration)


def tolerations_make_sense(facts: Facts) -> Iterator[FieldError]:
    """A toleration's fields go together. Ours: the API server would refuse the pods."""
    for path, pool in pools_by_path(facts):
        for index, toleration in enumerate(pool.tolerations):
            where = f"{path}.tolerations[{index}]"
            if not list(_toleration_form(where, toleration)):
                yield from _toleration_sense(where, toleration)


def _toleration_form(where: str, toleration: Mapping[str, Any]) -> Iterator[FieldError]:
    known = ", ".join(_TOLERATION_TYPES)
    for key, value in toleration.items():
        kind = _TOLERATION_TYPES.get(key)
        if kind is None:
            yield FieldError(
                where,
                ErrorCode.UNKNOWN_FIELD,
                f"a toleration has no field {key!r}; its fields are {known}; correct the name, or remove it",
            )
        elif not isinstance(value, kind) or isinstance(value, bool):
            wanted = "an integer" if kind is int else "a string; put it in quotes"
            yield FieldError(f"{where}.{key}", ErrorCode.WRONG_TYPE, f"must be {wanted}; got {value!r}")
    for key, allowed in (("operator", _OPERATORS), ("effect", _EFFECTS)):
        value = toleration.get(key, "")
        if isinstance(value, str) and value and value not in allowed:
            yield FieldError(
                f"{where}.{key}", ErrorCode.INVALID, f"must be one of {', '.join(allowed)}; got {written(value)}"
            )
    key, value = toleration.get("key", ""), toleration.get("value", "")
    if isinstance(key, str) and key and not is_label_key(key):
        yield FieldError(
            f"{where}.key", ErrorCode.INVALID, f"{key!r} is not a taint's key, such as gpu or example.com/gpu"
        )
    if isinstance(value, str) and not LABEL_VALUE.fullmatch(value):
        yield FieldError(f"{where}.value", ErrorCode.INVALID, bad_value(value))


def _toleration_sense(where: str, toleration: Mapping[str, Any]) -> Iterator[FieldError]:
    key, value = toleration.get("key", ""), toleration.get("value", "")
    operator, effect = toleration.get("operator") or "Equal", toleration.get("effect", "")
    if not key and operator != "Exists":
        yield FieldError(
            f"{where}.key",
            ErrorCode.REQUIRED,
            f"is missing, and operator {operator} compares the taint of that key; add it, or set operator to Exists to "
            "tolerate every taint",
        )
    if value and operator == "Exists":
        yield FieldError(
            f"{where}.value",
            ErrorCode.CONFLICT,
            f"{value!r} cannot be compared by operator Exists, which asks for the key only; remove it, or set operator "
            "to Equal",
        )
    if operator in ("Lt", "Gt") and not re.fullmatch(r"-?(0|[1-9][0-9]*)", value):
        yield FieldError(
            f"{where}.value", ErrorCode.INVALID, f"{value!r} is not a whole number, which operator {operator} compares"
        )
    if "tolerationSeconds" in toleration and effect != "NoExecute":
        yield FieldError(
            f"{where}.tolerationSeconds",
            ErrorCode.CONFLICT,
            f"goes with effect NoExecute only, and effect is {effect or 'unset'}; remove it, or set effect to "
            "NoExecute",
        )


def is_label_key(key: str) -> bool:
    """Whether it has the form of the key of a label, an annotation or a taint."""
    prefix, slash, _ = key.rpartition("/")
    return bool(_LABEL_KEY.fullmatch(key)) and len(prefix) <= 253 and (bool(prefix) or not slash)


def bad_value(value: str) -> str:
    """What is wrong with a label's value, in words."""
    return (
        f"{value!r} is not a label's value; use at most 63 letters, digits, '-', '_' and '.', with a letter or digit "
        "at either end"
    )


RULES: tuple[Rule, ...] = (
    containers_have_cpu,
    containers_have_memory,
    shared_memory_fits_the_pod,
    engine_pods_suit_the_builtin_trainer,
    environments_have_pods_upstream_only,
    rdma_devices_have_a_name,
    node_labels_are_labels,
    tolerations_are_tolerations,
    tolerations_make_sense,
)
SKYRL_RULES: tuple[Rule, ...] = (engines_and_pods_divide_each_other, engines_get_the_largest_pods)
