"""What goes into a decision and what comes out: plain frozen data, no behaviour worth the name."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from rltrain_api.errors import FieldError
from rltrain_api.fetching import FetchProgress
from rltrain_api.job import ObjectMeta, RLTrainingJob
from rltrain_api.status import Status
from rltrain_api.wire import DriverStatus, History
from rltrain_operator.rayjobs import RayJob


@dataclass(frozen=True)
class Subject:
    """The job a decision is about. `job` is None when its spec cannot even be read; `errors` then says why.

    `managed_elsewhere`: spec.managedBy names somebody else, readable spec or not.
    """

    metadata: ObjectMeta
    status: Status
    job: RLTrainingJob | None
    errors: tuple[FieldError, ...] = ()
    managed_elsewhere: bool = False


class InitializerState(StrEnum):
    """How far one initializer's batch Job is."""

    RUNNING = "Running"
    COMPLETE = "Complete"
    FAILED = "Failed"


@dataclass(frozen=True)
class InitializerView:
    """One initializer's batch Job; `message` is why its pod waits or how it ended.

    `progress` is how far a fetch that runs is, where that is known.
    """

    state: InitializerState
    message: str = ""
    pod: str | None = None
    exit_code: int | None = None
    attempts: int = 0
    progress: FetchProgress | None = None


@dataclass(frozen=True)
class PodEnd:
    """How a container of a pod last ended, if badly."""

    pod: str
    role: str
    reason: str
    exit_code: int
    time: datetime


@dataclass(frozen=True)
class EnginePod:
    """A pod of the inference group that is not being deleted; pods of one `replica` are one engine's."""

    name: str
    replica: str
    ready: bool


@dataclass(frozen=True)
class EngineGroup:
    """The inference group of the RayCluster: its place in the list, its replicas, pods of each, and the pods there."""

    number: int
    replicas: int
    hosts: int = 1
    pods: tuple[EnginePod, ...] = ()


@dataclass(frozen=True)
class QueueView:
    """What Kueue says of the RayCluster: where it is queued, and whether and why it is held back.

    `message` is empty before Kueue has said anything; `lasting`: only a person can end the wait.
    """

    queue: str
    suspended: bool
    reason: str
    message: str = ""
    lasting: bool = False


@dataclass(frozen=True)
class ClusterView:
    """The RayCluster and its pods.

    `head_host` is the address of the running head pod, `head_pod` its name; `head_leaving`: it is being deleted, and
    its driver is about to save. `troubles` says, pod by pod, what keeps pods from being ready; `ends` are the newest
    bad ends of containers.
    """

    uid: str
    created: datetime
    trainer: str = "builtin"
    spec_hash: str = ""
    deleting: bool = False
    head_ready: bool = False
    head_message: str = ""
    ready_workers: int = 0
    wanted_workers: int = 0
    engine_group: EngineGroup | None = None
    ready_gpus: int = 0
    head_host: str | None = None
    head_pod: str | None = None
    head_leaving: bool = False
    troubles: tuple[str, ...] = ()
    ends: tuple[PodEnd, ...] = ()
    queue: QueueView | None = None

    @property
    def wanted_engines(self) -> int:
        """Engines that the cluster has been asked to have pods for."""
        return self.engine_group.replicas if self.engine_group is not None else 0

    @property
    def ready(self) -> bool:
        """A ready head and as many ready workers as wanted. KubeRay's own `state` is sticky and not used."""
        there = self.head_ready and not self.head_leaving
        return there and self.ready_workers >= self.wanted_workers and not self.deleting


@dataclass(frozen=True)
class Unreachable:
    """Ray's Jobs API did not answer; `message` says how."""

    message: str


@dataclass(frozen=True)
class Blocked:
    """The last apply could not create something, and trying again at once will not help."""

    reason: str
    message: str
    passing: bool = False


@dataclass(frozen=True)
class Observed:
    """Everything a decision may look at besides the job itself.

    `shortfalls` say, pool by pool, what of the wanted pods the nodes can never hold.
    `leftovers` are pods of an earlier RayCluster of the job that are still there while there is no cluster.
    `ray` is the submission named in the status: a RayJob, None when Ray does not know it, Unreachable, or "unasked"
    (as Unreachable) when there is nobody to ask. `driver_silent_since` is when the driver's last answer was, while it
    does not answer.
    """

    initializers: dict[str, InitializerView] = field(default_factory=dict)
    cluster: ClusterView | None = None
    leftovers: tuple[str, ...] = ()
    shortfalls: tuple[str, ...] = ()
    ray: RayJob | Unreachable | None = Unreachable("no submission to ask for")
    driver: DriverStatus | None = None
    driver_silent_since: datetime | None = None
    history: History | None = None
    blocked: Blocked | None = None


@dataclass(frozen=True)
class CreateRecords:
    """The Secret, the claims and the ConfigMap of this generation, each only where it is missing."""


@dataclass(frozen=True)
class CreateInitializer:
    """The batch Job of the initializer of that name."""

    name: str


@dataclass(frozen=True)
class CreateRayCluster:
    """The one RayCluster."""


@dataclass(frozen=True)
class Submit:
    """Start the driver under the id that the status already holds."""

    attempt: int
    submission_id: str
    config_map: str


@dataclass(frozen=True)
class StopRayJob:
    """End a driver that failed or fell silent, so that two never train at once."""

    submission_id: str


@dataclass(frozen=True)
class WriteHistory:
    """Keep the run's curve."""

    history: History


@dataclass(frozen=True)
class StopDriver:
    """Let a driver end its process: at once where there is nothing to save, else by the deadline with a checkpoint."""

    checkpoint: bool = False
    deadline_seconds: float = 30.0


@dataclass(frozen=True)
class RequestCheckpoint:
    """Ask the driver for a checkpoint at its next step boundary; the same request again asks for nothing new."""

    request: str


@dataclass(frozen=True)
class WantEngines:
    """Tell the driver how many engines it shall keep running."""

    count: int


@dataclass(frozen=True)
class ResizeEngines:
    """Give the inference group another number of replicas, if it still is the one that was seen; `leaving` pods go."""

    cluster_uid: str
    group: EngineGroup
    replicas: int
    leaving: tuple[str, ...] = ()


@dataclass(frozen=True)
class DeleteRayCluster:
    """Give the nodes back; `uid` makes sure that it is the cluster that was decided about."""

    uid: str


Action = (
    CreateRecords
    | CreateInitializer
    | CreateRayCluster
    | Submit
    | StopRayJob
    | WriteHistory
    | StopDriver
    | RequestCheckpoint
    | WantEngines
    | ResizeEngines
    | DeleteRayCluster
)


@dataclass(frozen=True)
class Decision:
    """Actions in order, then the status to write, then when to look again in seconds (None: when something changes)."""

    actions: tuple[Action, ...]
    status: Status
    requeue_after: float | None = None
