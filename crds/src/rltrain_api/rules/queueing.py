"""Queues: what of `spec.scheduling` goes with which scheduler."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rltrain_api.errors import ErrorCode, FieldError
from rltrain_api.rules.facts import Facts, Rule

_LABEL_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")


def priority_class_has_a_queue(facts: Facts) -> Iterator[FieldError]:
    """scheduling.workloadPriorityClass is set for a job in a queue of Kueue's only. Ours: nobody else reads it."""
    scheduling = facts.spec.scheduling
    if scheduling.workload_priority_class is None:
        return
    path = "spec.scheduling.workloadPriorityClass"
    if scheduling.scheduler != "kueue":
        yield FieldError(
            path,
            ErrorCode.CONFLICT,
            f"is read by Kueue, and scheduling.scheduler is {scheduling.scheduler}, which goes by "
            "spec.priorityClassName; remove it",
        )
    elif facts.spec.queue_name is None:
        yield FieldError(
            path, ErrorCode.CONFLICT, "has no meaning without spec.queueName; set that to a LocalQueue, or remove this"
        )


def scheduler_has_a_queue(facts: Facts) -> Iterator[FieldError]:
    """With scheduler kai, queueName is set. Ours: KAI leaves pods without a queue alone, for ever."""
    if facts.spec.scheduling.scheduler == "kai" and facts.spec.queue_name is None:
        yield FieldError(
            "spec.queueName",
            ErrorCode.REQUIRED,
            "is missing, and KAI schedules no pod without a queue; name one of its queues",
        )


def topology_fits_the_scheduler(facts: Facts) -> Iterator[FieldError]:
    """scheduling.topology has the form that the scheduler reads, and one reads it. Ours."""
    scheduling = facts.spec.scheduling
    topology, scheduler = scheduling.topology, scheduling.scheduler
    if topology is None:
        return
    path = "spec.scheduling.topology"
    if scheduler == "yunikorn":
        yield FieldError(path, ErrorCode.CONFLICT, "YuniKorn places no pods by topology; remove it")
        return
    if scheduler == "kueue" and facts.spec.queue_name is None:
        yield FieldError(
            path, ErrorCode.CONFLICT, "is read by Kueue for jobs in a queue; set spec.queueName, or remove this"
        )
    if scheduler == "volcano" and not re.fullmatch(r"[0-9]{1,3}", topology.level):
        yield FieldError(
            f"{path}.level",
            ErrorCode.INVALID,
            f"{topology.level!r} is not a tier; Volcano wants the highest one as a whole number, such as 1",
        )
    if scheduler in ("kueue", "kai") and not _LABEL_KEY.fullmatch(topology.level):
        yield FieldError(
            f"{path}.level",
            ErrorCode.INVALID,
            f"{topology.level!r} is not a node label's key, such as cloud.provider.com/topology-rack",
        )
    if scheduler == "kai" and topology.name is None:
        yield FieldError(
            f"{path}.name", ErrorCode.REQUIRED, "is missing, and KAI looks the level up in it; name a Topology object"
        )
    if scheduler != "kai" and topology.name is not None:
        yield FieldError(
            f"{path}.name", ErrorCode.CONFLICT, f"is read by KAI, and scheduling.scheduler is {scheduler}; remove it"
        )


RULES: tuple[Rule, ...] = (priority_class_has_a_queue, scheduler_has_a_queue, topology_fits_the_scheduler)
SKYRL_RULES: tuple[Rule, ...] = ()
