"""spec.scheduling: whose queue spec.queueName names, and how near to each other the pods of a role shall be."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rltrain_api.spec.base import SUBDOMAIN_PATTERN, ObjectName, SpecModel


class Topology(SpecModel):
    """How near to each other the trainer's pods shall be, and the engines' pods."""

    level: Annotated[str, Field(min_length=1, max_length=317)] = Field(
        description="Within what: a level of the cluster's topology by its node label, such as "
        "cloud.provider.com/topology-rack; for volcano the highest tier, a whole number."
    )
    mode: Literal["Preferred", "Required"] = Field(
        default="Preferred",
        description="Preferred: where it fits, else wider. Required: the job waits until it fits.",
    )
    name: ObjectName | None = Field(
        default=None, description="The Topology object that has the level; kai wants it, no other scheduler reads it."
    )


class Scheduling(SpecModel):
    """Who decides when the job's pods start, all of them or none."""

    scheduler: Literal["kueue", "volcano", "yunikorn", "kai"] = Field(
        default="kueue",
        description="Whose queue spec.queueName names. kueue holds the whole cluster back until it has quota; the "
        "others start the pods of the cluster together, and KubeRay's operator must have been told to work with them.",
    )
    workload_priority_class: Annotated[str, Field(pattern=SUBDOMAIN_PATTERN, min_length=1, max_length=63)] | None = (
        Field(
            default=None,
            description="Kueue's WorkloadPriorityClass: the job's place in the queue and who may preempt it, without "
            "a say in the priority of pods.",
        )
    )
    topology: Topology | None = Field(
        default=None, description="How near to each other the pods of each role shall be; unset leaves it open."
    )
