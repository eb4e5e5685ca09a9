"""spec.pools: where the pods of each role run and what they get; how many there are follows from `config`.

Small things that people get wrong are typed and judged by rules; whole objects of Kubernetes (affinity, volumes, a
patch) are passed on as they are, and the API server judges them when the pods are made.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from rltrain_api.schema_marks import RawObject
from rltrain_api.spec.base import EXTENDED_RESOURCE_PATTERN, ObjectName, Quantity, SpecModel, Toleration

# Kubernetes gives a pod GPUs of one node only, and placement.*_num_gpus_per_node knows no greater node.
MOST_GPUS_PER_POD = 64

ExtendedResource = Annotated[str, Field(pattern=EXTENDED_RESOURCE_PATTERN, max_length=253)]
LabelKey = Annotated[str, Field(min_length=1, max_length=317)]
LabelValue = Annotated[str, Field(max_length=63)]
AnnotationValue = Annotated[str, Field(max_length=4096)]


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


class Network(SpecModel):
    """How the pods of one role reach each other."""

    rdma_resource: ExtendedResource | None = Field(
        default=None,
        description="Name under which nodes offer RDMA devices, such as rdma/ib; the pods get them and the capability "
        "IPC_LOCK, which the restricted Pod Security Standard forbids.",
    )
    rdma_count: Annotated[int, Field(ge=1, le=MOST_GPUS_PER_POD)] = Field(
        default=1, description="RDMA devices of each pod, from 1 to 64; without rdmaResource it does nothing."
    )
    host_network: bool = Field(
        default=False,
        description="Use the node's own network, with dnsPolicy ClusterFirstWithHostNet; the baseline Pod Security "
        "Standard forbids it.",
    )


class Pool(SpecModel):
    """Where the pods of one role run and what each gets."""

    resources: Resources = Field(default_factory=Resources, description="CPU and memory of each pod.")
    node_selector: Annotated[
        dict[LabelKey, LabelValue],
        Field(max_length=32),
    ] = Field(default={}, description="Labels that a node must have, at most 32.")
    tolerations: Annotated[list[Toleration], Field(max_length=32)] = Field(
        default=[], description="Taints of nodes that the pods accept, as in a pod's spec; at most 32."
    )
    shm_size: Quantity | None = Field(
        default=None, description="Size of /dev/shm, which counts as the pod's memory; unset means half of memory."
    )
    labels: Annotated[dict[LabelKey, LabelValue], Field(max_length=32)] = Field(
        default={}, description="Further labels of the pods, at most 32."
    )
    annotations: Annotated[dict[LabelKey, AnnotationValue], Field(max_length=32)] = Field(
        default={}, description="Further annotations of the pods, at most 32."
    )
    affinity: RawObject | None = Field(default=None, description="Affinity of the pods, as in a pod's spec.")
    topology_spread_constraints: Annotated[list[RawObject], Field(max_length=8)] = Field(
        default=[], description="How the pods spread over zones or nodes, as in a pod's spec; at most 8."
    )
    runtime_class_name: ObjectName | None = Field(
        default=None, description="RuntimeClass of the pods, such as nvidia; unset means the nodes' own."
    )
    network: Network = Field(default_factory=Network, description="RDMA devices, and the node's own network.")
    security_context: RawObject | None = Field(
        default=None, description="Fields of the pods' securityContext, on top of the operator's."
    )
    container_security_context: RawObject | None = Field(
        default=None, description="Fields of the container's securityContext, on top of the operator's."
    )
    volumes: Annotated[list[RawObject], Field(max_length=32)] = Field(
        default=[], description="Further volumes of the pods, as in a pod's spec; at most 32."
    )
    volume_mounts: Annotated[list[RawObject], Field(max_length=64)] = Field(
        default=[], description="Where those volumes appear, as in a container; at most 64."
    )
    pod_patch: RawObject | None = Field(
        default=None,
        description="A strategic merge patch of the pods' template (metadata, spec), the last thing that is done to "
        "it. For what no other field can say; the container is named ray.",
    )


class GPUPool(Pool):
    """A pool whose pods have GPUs: how many follows from `config`."""

    gpu_resource: ExtendedResource = Field(
        default="nvidia.com/gpu",
        description="Name under which nodes offer GPUs, or parts of GPUs such as nvidia.com/mig-1g.10gb.",
    )


class InferencePool(GPUPool):
    """The pods that generate."""

    gpus_per_node: Annotated[int, Field(ge=1, le=MOST_GPUS_PER_POD)] | None = Field(
        default=None,
        description="GPUs of each pod, from 1 to 64: several engines share a pod, or one spans several. Unset means "
        "those of one engine, 8 at most; with runtime.trainer skyrl as many as the pods that train, at least.",
    )


class EnvironmentPool(Pool):
    """Pods without GPUs for what environments compute as Ray tasks."""

    replicas: Annotated[int, Field(ge=1, le=1000)] = Field(default=1, description="Number of pods, from 1 to 1000.")


class Pools(SpecModel):
    """Where each role runs; the numbers of pods and GPUs follow from `config`."""

    head: Pool = Field(default_factory=Pool, description="The pod of the driver and of Ray's head; it needs no GPU.")
    trainer: GPUPool = Field(
        default_factory=GPUPool, description="The pods that train, the reference model's and the critic's included."
    )
    inference: InferencePool = Field(default_factory=InferencePool, description="The pods that generate.")
    environment: EnvironmentPool | None = Field(
        default=None,
        description="Pods without GPUs for Ray tasks of environments, with runtime.trainer skyrl; unset means none.",
    )
