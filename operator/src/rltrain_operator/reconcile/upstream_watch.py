"""Watching runs of upstream's trainer: reads their logs now and then, and remembers what they have said.

The memory is lost with the process on purpose: a new operator reads more of the log the first time.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from rltrain_api.wire import DriverStatus
from rltrain_operator.rayjobs import RayJob, RayJobsApi, RayJobState, RayUnavailableError
from rltrain_operator.reconcile.upstream import RunLog, as_driver, joined, read_log

LOG_INTERVAL = timedelta(seconds=10)
FIRST_LINES = 10_000
LINES = 1_000


@dataclass(frozen=True)
class Run:
    """One attempt of upstream's trainer.

    Args:
        host: The head pod's address.
        token: Ray's token, which a Ray without tokens ignores.
        submission_id: Ray's id of the attempt.
        attempt: The attempt's number.
        bar_counts_steps: See `read_log`.
    """

    host: str
    token: str
    submission_id: str
    attempt: int
    bar_counts_steps: bool


@dataclass
class _Heard:
    """What is remembered of one attempt; `step_seen` is when its present step was first seen."""

    submission_id: str
    log: RunLog
    step_seen: datetime
    read: datetime | None = None


class UpstreamWatch:
    """See the module's docstring."""

    def __init__(self, ray: RayJobsApi) -> None:
        self._ray = ray
        self._heard: dict[str, _Heard] = {}

    def forget(self, job_uid: str) -> None:
        """The job is gone or over."""
        self._heard.pop(job_uid, None)

    async def ask(self, job_uid: str, run: Run, ray: RayJob, now: datetime) -> DriverStatus | None:
        """The run in the words of a driver; None while it has not started, and once it has ended badly.

        What Ray says is an answer already: a log that cannot be read only leaves the numbers as they were.
        """
        if ray.state not in (RayJobState.RUNNING, RayJobState.SUCCEEDED):
            return None
        heard = self._heard.get(job_uid)
        if heard is None or heard.submission_id != run.submission_id:
            heard = self._heard[job_uid] = _Heard(run.submission_id, RunLog(), now)
        over = ray.state is RayJobState.SUCCEEDED
        if over or heard.read is None or now - heard.read >= LOG_INTERVAL:
            await self._read(heard, run, ray, now)
        return as_driver(heard.log, run.attempt, now, heard.step_seen)

    async def _read(self, heard: _Heard, run: Run, ray: RayJob, now: datetime) -> None:
        lines = FIRST_LINES if heard.read is None else LINES
        try:
            text = await self._ray.log(run.host, run.token, run.submission_id, ray.node, lines)
        except RayUnavailableError:
            return
        before = heard.log
        heard.log = joined(before, read_log(text.splitlines(), bar_counts_steps=run.bar_counts_steps))
        heard.read = now
        if (heard.log.step, heard.log.in_step) != (before.step, before.in_step):
            heard.step_seen = now
