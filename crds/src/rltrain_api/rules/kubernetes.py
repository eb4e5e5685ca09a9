"""Names that children can carry, and initializers: what Kubernetes asks of the job itself."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from rltrain_api import names
from rltrain_api.errors import ErrorCode, FieldError
from rltrain_api.rules.facts import Facts, Rule

_JOB_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
# A label's value, and with it the name of anything that a label names, has at most this many characters.
_MAX_LABEL_LENGTH = 63


def job_has_a_name(facts: Facts) -> Iterator[FieldError]:
    """metadata.name is there. Ours: every child is named after it."""
    if not facts.job.metadata.name:
        yield FieldError("metadata.name", ErrorCode.REQUIRED, "is required and missing; add it")


def job_name_can_name_a_service(facts: Facts) -> Iterator[FieldError]:
    """metadata.name is a DNS label that begins with a letter. Ours: KubeRay names a Service after it."""
    name = facts.job.metadata.name
    if name and not _JOB_NAME.fullmatch(name):
        yield FieldError(
            "metadata.name",
            ErrorCode.INVALID,
            f"{name!r} cannot name a Service; begin with a letter, use only a-z, 0-9 and '-', and end with a letter or "
            "digit",
        )


def job_name_leaves_room(facts: Facts) -> Iterator[FieldError]:
    """metadata.name has at most 45 characters. Ours: children's names are longer."""
    length = len(facts.job.metadata.name)
    if length > names.MAX_JOB_NAME_LENGTH:
        yield FieldError(
            "metadata.name",
            ErrorCode.OUT_OF_RANGE,
            f"has {length} characters, and the names of the job's children leave room for "
            f"{names.MAX_JOB_NAME_LENGTH}; choose a shorter one",
        )


def child_names_are_short(facts: Facts) -> Iterator[FieldError]:
    """Names made of the job's and a volume's or initializer's fit a label, 63 characters. Ours."""
    job, storage = facts.job.metadata.name, facts.spec.storage
    if len(job) > names.MAX_JOB_NAME_LENGTH:
        return
    children = [
        (f"spec.storage.data[{index}].name", "claim", names.claim_name(job, volume.name))
        for index, volume in enumerate(storage.data)
        if volume.claim_template is not None
    ]
    children += [
        (f"spec.storage.initializers[{index}].name", "Job", names.initializer_name(job, initializer.name))
        for index, initializer in enumerate(storage.initializers)
    ]
    for path, kind, child in children:
        over = len(child) - _MAX_LABEL_LENGTH
        if over > 0:
            yield FieldError(
                path,
                ErrorCode.OUT_OF_RANGE,
                f"its {kind} would be named {child!r}, {len(child)} characters of at most {_MAX_LABEL_LENGTH}; shorten "
                f"this name or the job's by {over}",
            )


def initializer_names_differ(facts: Facts) -> Iterator[FieldError]:
    """No two initializers have one name. Ours."""
    initializers = facts.spec.storage.initializers
    counts = Counter(initializer.name for initializer in initializers)
    for index, initializer in enumerate(initializers):
        if counts[initializer.name] > 1:
            yield FieldError(
                f"spec.storage.initializers[{index}].name",
                ErrorCode.DUPLICATE,
                f"{initializer.name!r} is the name of {counts[initializer.name]} initializers; give each its own",
            )


def queue_name_fits_a_label(facts: Facts) -> Iterator[FieldError]:
    """queueName has at most 63 characters. Ours: Kueue reads it from a label of the RayCluster."""
    name = facts.spec.queue_name
    if name is not None and len(name) > _MAX_LABEL_LENGTH:
        yield FieldError(
            "spec.queueName",
            ErrorCode.OUT_OF_RANGE,
            f"has {len(name)} characters, and Kueue reads it from a label, which has room for {_MAX_LABEL_LENGTH}; use "
            "the LocalQueue's own name",
        )


RULES: tuple[Rule, ...] = (
    job_has_a_name,
    job_name_can_name_a_service,
    job_name_leaves_room,
    child_names_are_short,
    initializer_names_differ,
    queue_name_fits_a_label,
)
SKYRL_RULES: tuple[Rule, ...] = ()
