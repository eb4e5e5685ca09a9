"""spec.pools: where the pods of each role run and what they get; how many there are follows from `config`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from rltrain_api.spec.base import EXTENDED_RESOURCE_PATTERN, Quantity, SpecModel, Toleration


class Resources(SpecModel):
    """What one container asks for."""

    cpu: Quantity = Field(
        default="1",
        description="CPU cores that are requested. No limit is set: a busy neighbour takes no more than its request, "
        "and an idle one lends its cores.",
    )
    memory: Quantity = Field(
        default="4Gi",
        description="Memory that is requested and is also the limit, so that a leak ends the pod that has it and no "
        "other.",
    )


class Pool(SpecModel):
    """Where the pods of one role run and what each gets."""

    resources: Resources = Field(default_factory=Resources, description="CPU and memory of each pod.")
    node_selector: Annotated[
        dict[Annotated[str, Field(min_length=1, max_length=317)], Annotated[str, Field(max_length=63)]],
        Field(max_length=32),
    ] = Field(default={}, description="Labels that a node must have, at most 32.")
    tolerations: Annotated[list[Toleration], Field(max_length=32)] = Field(
        default=[], description="Taints of nodes that the pods accept, as in a pod's spec; at most 32."
    )
    shm_size: Quantity | None = Field(
        default=None, description="Size of /dev/shm, which counts as the pod's memory; unset means half of memory."
    )


class GPUPool(Pool):
    """A pool whose pods have GPUs: how many follows from `config`."""

    gpu_resource: Annotated[str, Field(pattern=EXTENDED_RESOURCE_PATTERN, max_length=253)] = Field(
        default="nvidia.com/gpu", description="Name under which nodes offer GPUs."
    )


class Pools(SpecModel):
    """Where each role runs; the numbers of pods and GPUs follow from `config`."""

    head: Pool = Field(default_factory=Pool, description="The pod of the driver and of Ray's head; it needs no GPU.")
    trainer: GPUPool = Field(default_factory=GPUPool, description="The pods that train.")
    inference: GPUPool = Field(default_factory=GPUPool, description="The pods that generate.")
