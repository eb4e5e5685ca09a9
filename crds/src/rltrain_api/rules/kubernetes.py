"""Rules of the Kubernetes part: names that children can carry, environment, pools, initializers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from decimal import Decimal

from rltrain_api import names
from rltrain_api.errors import ErrorCode, FieldError
from rltrain_api.job import EnvVar, Pool, Resources, RLTrainingJob
from rltrain_api.quantity import parse_quantity

_JOB_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
_LABEL_KEY = re.compile(
    r"([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
)
# A label's value, and with it the name of anything that a label names, has at most this many characters.
_MAX_LABEL_LENGTH = 63
# Set by us or by KubeRay in every pod; another value would cut the pod off from its cluster or open it to everybody.
_TAKEN_VARIABLES = frozenset({"RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"})
_TAKEN_PREFIX = "RLTRAIN_"
_LEAST_MEMORY = Decimal(16 * 1024**2)  # nothing of ours starts in less, so less is a slip such as 512m for 512Mi


def check_kubernetes(job: RLTrainingJob) -> Iterator[FieldError]:
    """Errors of names, environment, pools and initializers."""
    yield from _job_name(job)
    yield from _environment("spec.runtime.env", job.spec.runtime.env)
    yield from _environment_sources(job)
    pools = job.spec.pools
    for role, pool in (("head", pools.head), ("trainer", pools.trainer), ("inference", pools.inference)):
        yield from _pool(f"spec.pools.{role}", pool)
    yield from _initializers(job)


def _job_name(job: RLTrainingJob) -> Iterator[FieldError]:
    name, path = job.metadata.name, "metadata.name"
    if not name:
        yield FieldError(path, ErrorCode.REQUIRED, "is required and missing; add it")
        return
    if not _JOB_NAME.fullmatch(name):
        yield FieldError(
            path,
            ErrorCode.INVALID,
            f"{name!r} cannot name a Service; begin with a letter, use only a-z, 0-9 and '-', and end with a letter or "
            "digit",
        )
    if len(name) > names.MAX_JOB_NAME_LENGTH:
        yield FieldError(
            path,
            ErrorCode.OUT_OF_RANGE,
            f"has {len(name)} characters, and the names of the job's children leave room for "
            f"{names.MAX_JOB_NAME_LENGTH}; choose a shorter one",
        )
    for index, volume in enumerate(job.spec.storage.data):
        yield from _child_name(f"spec.storage.data[{index}].name", "claim", names.claim_name(name, volume.name))
    for index, initializer in enumerate(job.spec.storage.initializers):
        child = names.initializer_name(name, initializer.name)
        yield from _child_name(f"spec.storage.initializers[{index}].name", "Job", child)


def _child_name(path: str, kind: str, child: str) -> Iterator[FieldError]:
    over = len(child) - _MAX_LABEL_LENGTH
    if over > 0:
        yield FieldError(
            path,
            ErrorCode.OUT_OF_RANGE,
            f"its {kind} would be named {child!r}, {len(child)} characters of at most {_MAX_LABEL_LENGTH}; shorten "
            f"this name or the job's by {over}",
        )


def _environment(path: str, variables: Sequence[EnvVar]) -> Iterator[FieldError]:
    counts = Counter(variable.name for variable in variables)
    for index, variable in enumerate(variables):
        name, where = variable.name, f"{path}[{index}].name"
        if counts[name] > 1:
            yield FieldError(where, ErrorCode.DUPLICATE, f"{name} is set {counts[name]} times; keep one of them")
        if name.startswith(_TAKEN_PREFIX) or name in _TAKEN_VARIABLES:
            yield FieldError(
                where, ErrorCode.CONFLICT, f"{name} is set by the operator and cannot be changed; remove it"
            )


def _environment_sources(job: RLTrainingJob) -> Iterator[FieldError]:
    for index, source in enumerate(job.spec.runtime.env_from):
        if (source.secret_ref is None) == (source.config_map_ref is None):
            number = "neither" if source.secret_ref is None else "both"
            yield FieldError(
                f"spec.runtime.envFrom[{index}]",
                ErrorCode.CONFLICT,
                f"sets {number} of secretRef and configMapRef; set exactly one",
            )


def _pool(path: str, pool: Pool) -> Iterator[FieldError]:
    yield from _resources(f"{path}.resources", pool.resources)
    if pool.shm_size is not None and parse_quantity(pool.shm_size) > parse_quantity(pool.resources.memory):
        yield FieldError(
            f"{path}.shmSize",
            ErrorCode.OUT_OF_RANGE,
            f"{pool.shm_size} is more than resources.memory {pool.resources.memory}, which /dev/shm counts towards; "
            "lower it or raise the memory",
        )
    for key, value in pool.node_selector.items():
        if not _LABEL_KEY.fullmatch(key):
            yield FieldError(
                f"{path}.nodeSelector",
                ErrorCode.INVALID,
                f"{key!r} is not a label's key, such as zone or example.com/gpu",
            )
        if not _LABEL_VALUE.fullmatch(value):
            yield FieldError(
                f"{path}.nodeSelector.{key}",
                ErrorCode.INVALID,
                f"{value!r} is not a label's value; use letters, digits, '-', '_' and '.', inside letters or digits",
            )


def _resources(path: str, resources: Resources) -> Iterator[FieldError]:
    if parse_quantity(resources.cpu) <= 0:
        yield FieldError(f"{path}.cpu", ErrorCode.OUT_OF_RANGE, "no container runs on 0 CPU; use 500m or more, say")
    memory = parse_quantity(resources.memory)
    if memory < _LEAST_MEMORY:
        yield FieldError(
            f"{path}.memory",
            ErrorCode.OUT_OF_RANGE,
            f"{resources.memory} is {memory.normalize():f} bytes, in which nothing starts; write 4Gi or 512Mi, say",
        )


def _initializers(job: RLTrainingJob) -> Iterator[FieldError]:
    initializers = job.spec.storage.initializers
    counts = Counter(initializer.name for initializer in initializers)
    for index, initializer in enumerate(initializers):
        path, name = f"spec.storage.initializers[{index}]", initializer.name
        if counts[name] > 1:
            yield FieldError(
                f"{path}.name",
                ErrorCode.DUPLICATE,
                f"{name!r} is the name of {counts[name]} initializers; give each its own",
            )
        yield from _environment(f"{path}.env", initializer.env)
        yield from _resources(f"{path}.resources", initializer.resources)
