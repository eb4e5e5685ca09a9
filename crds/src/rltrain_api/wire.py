"""The driver contract: what the operator and the driver say to each other over HTTP.

    GET  /status      -> DriverStatus     GET /metrics -> Prometheus text
    GET  /history     -> History          POST /checkpoint <- CheckpointRequest -> 202, saves at the next step boundary
    POST /stop        <- StopRequest      -> 202, the driver ends its process
    PUT  /engines     <- EnginesRequest   -> 202, engines join or are drained while training goes on
    every route needs `Authorization: Bearer <token>`; without it 401 and nothing else

The driver is started with a RunDocument (JSON, in the environment variable `names.RUN_ENV` of the submission). When
training has ended the driver stays in phase Finished until the operator has read the last status and history and says
/stop without a checkpoint, at most `FINISHED_LINGER_SECONDS`; then its process exits 0. A driver that was asked to stop
with a checkpoint stays in phase Stopped, to be read, until a signal or the same /stop ends it, at most
`STOPPED_LINGER_SECONDS`, and exits 3.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

FINISHED_LINGER_SECONDS = 60
STOPPED_LINGER_SECONDS = 10
HISTORY_MAX_POINTS = 512


class WireModel(BaseModel):
    """camelCase on the wire, snake_case in Python; unknown keys are ignored so that either side may be newer."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True)


class JobReference(WireModel):
    """Which RLTrainingJob this run belongs to."""

    namespace: str
    name: str
    uid: str


class BestSteps(WireModel):
    """Checkpoints that are kept for how well they did."""

    metric: str
    keep: int = Field(ge=1)


class Retention(WireModel):
    """Which checkpoints are kept: those that any of the three asks for."""

    last: int = Field(default=1, ge=1, description="The newest so many.")
    every: int | None = Field(default=None, ge=1, description="Those whose step it divides.")
    best: BestSteps | None = Field(default=None, description="Those with the highest value of a metric.")


class RunDocument(WireModel):
    """Everything the driver needs to start one attempt."""

    job: JobReference
    attempt: int = Field(ge=1, description="Counts from 1; each restart of the driver is one more.")
    config: dict[str, Any] = Field(description="The resolved SkyRLTrainConfig, snake_case keys as in SkyRL.")
    modules: list[str] = Field(default=[], description="Modules that every process imports first, in this order.")
    retention: Retention | None = Field(
        default=None, description="Which checkpoints are kept; None leaves it to trainer.max_ckpts_to_keep."
    )


class DriverPhase(StrEnum):
    """What the driver is doing now."""

    STARTING = "Starting"  # ranks, engines, first weights
    EVALUATING = "Evaluating"
    TRAINING = "Training"
    CHECKPOINTING = "Checkpointing"
    FINISHED = "Finished"  # all steps done, last checkpoint committed, waiting for /stop
    STOPPED = "Stopped"  # stopped as asked, before the last step, its checkpoint committed
    FAILED = "Failed"  # `error` says why; the process exits non-zero


class EngineState(StrEnum):
    """Health of one inference engine as the trainer's fleet sees it."""

    JOINING = "Joining"
    SERVING = "Serving"
    PAUSED = "Paused"
    UPDATING = "Updating"
    DEAD = "Dead"
    DRAINING = "Draining"  # gets no new requests; ends when those in flight have


class EngineStatus(WireModel):
    """One inference engine."""

    name: str
    state: EngineState
    weight_version: int | None = None
    pod: str | None = Field(default=None, description="Name of the pod that it runs in, or ran in.")


class CheckpointStatus(WireModel):
    """The newest committed checkpoint."""

    step: int
    path: str
    time: datetime
    bytes: int | None = None


class DriverError(WireModel):
    """Why the driver failed, in words a person on call can act on."""

    reason: str = Field(description="CamelCase, one of the failure table's reasons.")
    message: str
    remedy: str = ""
    role: str = ""


class DriverStatus(WireModel):
    """The driver's answer to GET /status."""

    phase: DriverPhase
    attempt: int
    step: int = Field(0, description="Training steps done, resumed ones included.")
    total_steps: int | None = None
    epoch: int = 0
    reward: float | None = Field(None, description="Mean raw reward of the newest step.")
    eval_score: float | None = Field(None, description="Mean score of the newest evaluation (eval/all/avg_score).")
    tokens_per_second: float | None = Field(None, description="Trained tokens of the newest step over its whole time.")
    weight_version: int = 0
    eta_seconds: float | None = None
    engines: list[EngineStatus] = []
    engines_wanted: int | None = Field(
        default=None, description="How many it keeps running; None for a driver that cannot change it."
    )
    checkpoint: CheckpointStatus | None = None
    durations: dict[str, float] = Field({}, description="Seconds spent so far by phase of the loop, e.g. generate.")
    error: DriverError | None = None
    message: str = Field("", description="What the driver is waiting for or doing, in a few words.")
    step_seconds: float | None = Field(
        default=None, description="Median time of the attempt's newest steps; None before three."
    )
    step_age_seconds: float | None = Field(
        default=None, description="For how long the present step runs; None between steps."
    )
    saved_request: str | None = Field(
        default=None, description="The newest CheckpointRequest whose checkpoint is committed."
    )
    stopping: bool = Field(default=False, description="Asked to stop; engines that are to go wait for its end.")
    updated: datetime


class HistoryPoint(WireModel):
    """One training step (or evaluation, when only `eval_score` is set) of the run's curve."""

    step: int
    reward: float | None = None
    eval_score: float | None = None
    tokens_per_second: float | None = None


class History(WireModel):
    """The run's curve, at most HISTORY_MAX_POINTS points: older steps are thinned out, evaluations never."""

    points: list[HistoryPoint] = []
    durations: dict[str, float] = {}


class CheckpointRequest(WireModel):
    """Ask the driver for a checkpoint at the next step boundary; saying one `request` again asks for nothing new."""

    request: str | None = None


class StopRequest(WireModel):
    """Ask the driver to end its process."""

    checkpoint: bool = Field(True, description="Save first what was done since the newest checkpoint.")
    deadline_seconds: float = Field(60, ge=0)


class EnginesRequest(WireModel):
    """How many engines the driver shall keep running from now on; it starts or drains what is too few or too many."""

    desired: int = Field(ge=1)
