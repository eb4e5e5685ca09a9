"""The real API server behind calls that go wrong on command, and Ray with a driver that trains by being looked at.

A call may be refused, may be carried out without an answer, or may be the last thing the operator's process does. What
is called is real where it is the API server, and a stand-in where pods would have to run.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from rltrain_api.wire import (
    CheckpointRequest,
    DriverPhase,
    DriverStatus,
    History,
    HistoryPoint,
    StopRequest,
    WireModel,
)
from rltrain_operator.driver_client import DriverUnavailableError
from rltrain_operator.kube import (
    ApiError,
    Body,
    ConflictError,
    KubeClient,
    Resource,
    TooManyRequestsError,
    UnavailableError,
)
from rltrain_operator.kube.resources import EVENTS
from rltrain_operator.rayjobs import RayJob, RayJobState, RayUnavailableError

REFUSALS: dict[str, ApiError] = {
    "conflict": ConflictError(409, "changed since"),
    "too many": TooManyRequestsError(429, "busy", retry_after=1),
    "broken": UnavailableError(500, "etcd"),
    "away": UnavailableError(503, "no backend"),
    "timeout": UnavailableError(0, "timeout"),
}
NO_ANSWER = "no answer"
FINE = "fine"


class ProcessDied(BaseException):
    """The operator's process ends at this very point."""


@dataclass
class Faults:
    """What goes wrong with the calls of one life.

    `share` of the calls fail, each in a way drawn by `draw`, up to `most` of them; after the write of number
    `fatal_write` the process dies. Events are no writes here: nothing rests on them.
    """

    draw: random.Random = field(default_factory=lambda: random.Random(0))
    share: float = 0.0
    most: int = 40
    fatal_write: int | None = None
    writes: int = 0
    deaths: int = 0

    def next(self) -> str:
        """How the next call goes."""
        if self.most <= 0 or self.draw.random() >= self.share:
            return FINE
        self.most -= 1
        return self.draw.choice([*REFUSALS, NO_ANSWER])

    def written(self) -> None:
        """A write has been carried out."""
        self.writes += 1
        if self.writes - 1 == self.fatal_write:
            self.deaths += 1
            raise ProcessDied


@dataclass
class FaultyKube:
    """The operator's own client, with faults in front of it and behind it."""

    kube: KubeClient
    faults: Faults

    async def get(self, resource: Resource, namespace: str | None, name: str) -> Body:
        self._before(self.faults.next())
        return await self.kube.get(resource, namespace, name)

    async def create(self, manifest: Body) -> Body:
        if manifest["kind"] == EVENTS.kind:
            return await self.kube.create(manifest)
        fault = self.faults.next()
        self._before(fault)
        return self._after(fault, await self.kube.create(manifest))

    async def apply(self, manifest: Body, *, field_manager: str, subresource: str | None = None) -> Body:
        fault = self.faults.next()
        self._before(fault)
        live = await self.kube.apply(manifest, field_manager=field_manager, subresource=subresource)
        return self._after(fault, live)

    async def patch(self, resource: Resource, namespace: str, name: str, operations: list[dict[str, Any]]) -> Body:
        fault = self.faults.next()
        self._before(fault)
        return self._after(fault, await self.kube.patch(resource, namespace, name, operations))

    async def delete(self, resource: Resource, namespace: str, name: str, *, uid: str) -> None:
        fault = self.faults.next()
        self._before(fault)
        await self.kube.delete(resource, namespace, name, uid=uid)
        self._after(fault, {})

    def _before(self, fault: str) -> None:
        if fault in REFUSALS:
            raise REFUSALS[fault]

    def _after(self, fault: str, live: Body) -> Body:
        self.faults.written()
        if fault == NO_ANSWER:
            raise UnavailableError(0, "connection reset")
        return live


@dataclass
class Run:
    """One submission. Its driver does a step whenever somebody asks how it is."""

    attempt: int
    state: RayJobState = RayJobState.RUNNING
    phase: DriverPhase = DriverPhase.STARTING
    step: int = 0


@dataclass
class StandInRay:
    """Ray's Jobs API of one job's cluster, and its drivers: the first `failing` attempts exit at half the steps."""

    faults: Faults
    steps: int = 4
    failing: int = 1
    runs: dict[str, Run] = field(default_factory=dict)
    submissions: int = 0

    async def submit(
        self, host: str, token: str, submission_id: str, entrypoint: str, env_vars: dict[str, str]
    ) -> None:
        fault = self.faults.next()
        if fault in REFUSALS:
            raise RayUnavailableError("timeout")
        if submission_id not in self.runs:
            assert all(run.state.ended for run in self.runs.values()), "two drivers never run at once"
            self.runs[submission_id] = Run(attempt=int(submission_id.rsplit("-", 1)[1]))
            self.submissions += 1
        self.faults.written()
        if fault == NO_ANSWER:
            raise RayUnavailableError("no answer")

    async def status(self, host: str, token: str, submission_id: str) -> RayJob | None:
        run = self.runs.get(submission_id)
        return RayJob(run.state) if run is not None else None

    async def stop(self, host: str, token: str, submission_id: str) -> None:
        run = self.runs.get(submission_id)
        if run is not None and not run.state.ended:
            run.state = RayJobState.STOPPED

    async def log(self, host: str, token: str, submission_id: str, node: str, lines: int) -> str:
        return "the end of the log"

    def running(self) -> Run:
        """The run whose driver answers now."""
        for run in self.runs.values():
            if not run.state.ended:
                return run
        raise DriverUnavailableError("connection refused")


@dataclass
class StandInDriver:
    """The routes of the driver that runs on that Ray."""

    ray: StandInRay

    async def status(self, host: str, token: str) -> DriverStatus:
        run = self.ray.running()
        if run.phase is DriverPhase.STARTING:
            run.phase = DriverPhase.TRAINING
        elif run.attempt <= self.ray.failing and run.step >= self.ray.steps // 2:
            run.state = RayJobState.FAILED
        elif run.step < self.ray.steps:
            run.step += 1
        else:
            run.phase = DriverPhase.FINISHED
        return DriverStatus(
            phase=run.phase,
            attempt=run.attempt,
            step=run.step,
            total_steps=self.ray.steps,
            updated=datetime.now(UTC),
        )

    async def history(self, host: str, token: str) -> History:
        return History(points=[HistoryPoint(step=step) for step in range(self.ray.running().step + 1)])

    async def checkpoint(self, host: str, token: str, request: CheckpointRequest) -> None:
        raise AssertionError("nobody asks for a checkpoint in these lives")

    async def engines(self, host: str, token: str, request: WireModel) -> None:
        raise AssertionError("nobody scales engines in these lives")

    async def stop(self, host: str, token: str, request: StopRequest) -> None:
        run = self.ray.running()
        if run.phase is DriverPhase.FINISHED:
            run.state = RayJobState.SUCCEEDED
