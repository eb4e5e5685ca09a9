"""The run's checkpoints: what of the loop goes into a step beside the ranks' part, where a run resumes, what is kept.

A save holds the loop only while the ranks copy their state to the hosts' memory; the bytes are written, and the step is
committed, while training goes on. The commit protocol itself is `rltrain_trainer.checkpoint`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from ray.exceptions import RayActorError

from rltrain_api.config import SkyRLTrainConfig
from rltrain_api.wire import CheckpointStatus, RunDocument
from rltrain_trainer.checkpoint.manifest import FileRecord
from rltrain_trainer.checkpoint.places import normal
from rltrain_trainer.checkpoint.retention import Saved, keeps_newest, superfluous
from rltrain_trainer.checkpoint.room import FULL
from rltrain_trainer.checkpoint.store import (
    Checkpoint,
    begin,
    commit,
    latest,
    open_step,
    remove,
    tidy,
    whole_steps,
)
from rltrain_trainer.checkpoint.trainer_state import read_trainer_state, write_trainer_state

log = logging.getLogger(__name__)

JOB_DETAIL = "job_uid"  # in the manifest: which RLTrainingJob wrote the step
METRICS_DETAIL = "metrics"  # in the manifest: the metric by which retention compares steps


class SavingPolicy(Protocol):
    """What a save asks of the ranks."""

    async def save(self, directory: str) -> None:
        """Copy the state of all ranks to the hosts' memory and begin to write it below `directory`."""

    async def written(self) -> dict[str, FileRecord]:
        """All files of the save, by their paths below its directory, once all ranks have written."""


class SaveFailedError(Exception):
    """A checkpoint was not written; the message says which one and what went wrong."""


@dataclass(frozen=True)
class Resume:
    """Where a run goes on. `content` is the directory of the step's files, a path or a URL."""

    checkpoint: CheckpointStatus
    content: str
    loop_state: dict[str, Any]


@dataclass(frozen=True)
class Save:
    """A checkpoint that is committed. `stall_seconds` is for how long the loop was held, of `seconds` altogether."""

    checkpoint: CheckpointStatus
    stall_seconds: float
    seconds: float

    def metrics(self) -> dict[str, float]:
        """Under the names that the trackers know."""
        return {
            "timing/save_checkpoints": self.stall_seconds,
            "timing/save_checkpoints_in_background": self.seconds - self.stall_seconds,
            "checkpoint/bytes": float(self.checkpoint.bytes or 0),
        }


class RunCheckpoints:
    """The checkpoints of one run, below trainer.ckpt_path, a path or a URL. One save is in flight at a time."""

    def __init__(self, config: SkyRLTrainConfig, document: RunDocument) -> None:
        self._trainer = config.trainer
        self._root = normal(config.trainer.ckpt_path)
        self._config_hash = hashlib.sha256(json.dumps(document.config, sort_keys=True).encode()).hexdigest()
        self._attempt = document.attempt
        self._job_uid = document.job.uid
        self._retention = document.retention or keeps_newest(config.trainer.max_ckpts_to_keep)
        self._resumed_from: Checkpoint | None = None
        self._in_flight: asyncio.Task[Save] | None = None

    def find_resume(self) -> Resume | None:
        """The step to resume from, None to start afresh. Raises ValueError when resume_path is no whole step.

        A restarted driver goes on from its own job's newest step whatever resume_mode says: the mode is about how the
        job begins, and forgetting the work of an earlier attempt is never what it means. Removes what writers have
        left below the run's directory that died.
        """
        tidy(self._root)
        found = self._own_step() if self._attempt > 1 else None
        if found is None and self._trainer.resume_mode == "latest":
            found = latest(self._root)
        if found is None and self._trainer.resume_mode == "from_path":
            assert self._trainer.resume_path is not None, "validate() demands a path"
            found = open_step(normal(self._trainer.resume_path))
        if found is None:
            return None
        self._resumed_from = found
        state = read_trainer_state(found.content)
        return Resume(
            checkpoint=CheckpointStatus(
                step=found.step,
                path=found.path,
                time=datetime.fromisoformat(state["time"]),
                bytes=found.manifest.total_bytes,
            ),
            content=found.content,
            loop_state=state["loop"],
        )

    def _own_step(self) -> Checkpoint | None:
        """The newest step, if this job wrote it: the directory may hold those of a job before it."""
        found = latest(self._root)
        return found if found is not None and found.manifest.details.get(JOB_DETAIL) == self._job_uid else None

    async def save(
        self,
        step: int,
        policy: SavingPolicy,
        loop_state: Mapping[str, Any],
        *,
        committed: Callable[[Save], None] | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Begin to save `step`; returns when the ranks' state is copied, and training may go on.

        Waits first for a save that is in flight, and raises what `finished` raises of it.

        Args:
            step: Training steps done.
            policy: The ranks.
            loop_state: JSON values that `find_resume` gives back unchanged: whatever the loop goes on from.
            committed: Called once the step is committed, on the event loop.
            metrics: The newest of the run; the one by which retention compares steps is kept with the step.
        """
        began = time.monotonic()
        await self.finished()
        content = begin(self._root, step)
        now = datetime.now(UTC)
        state = {"step": step, "attempt": self._attempt, "time": now.isoformat(), "loop": dict(loop_state)}
        # What is passed on is plain JSON from here on: the loop may change its own.
        state = json.loads(json.dumps(state, allow_nan=False))
        details = {JOB_DETAIL: self._job_uid, METRICS_DETAIL: self._compared(metrics or {})}
        with _named(step):
            await policy.save(content)
        stall = time.monotonic() - began

        async def write() -> Save:
            with _named(step):
                files = await policy.written()
                written = await asyncio.to_thread(self._commit, content, files, state, details)
            checkpoint = CheckpointStatus(step=step, path=written.path, time=now, bytes=written.manifest.total_bytes)
            save = Save(checkpoint, stall_seconds=stall, seconds=time.monotonic() - began)
            log.info("checkpoint of step %d committed at %s, %.1f s after it began", step, written.path, save.seconds)
            if committed is not None:
                committed(save)
            return save

        self._in_flight = asyncio.create_task(write())

    def check(self) -> None:
        """Raise what has gone wrong with the save in flight: SaveFailedError, or OSError where there is no room."""
        if self._in_flight is not None and self._in_flight.done():
            task, self._in_flight = self._in_flight, None
            task.result()

    async def finished(self) -> None:
        """Wait until the save in flight is committed, if there is one. Raises what `check` raises."""
        if self._in_flight is not None:
            await asyncio.wait({self._in_flight})
            self.check()

    async def settle(self, seconds: float) -> None:
        """At the end of a run that has failed: give the save in flight a while to be committed after all."""
        try:
            async with asyncio.timeout(seconds):
                await self.finished()
        except TimeoutError:
            log.warning("the checkpoint that was being written is not committed after %.0f s, and is lost", seconds)
        except (SaveFailedError, OSError) as error:
            log.warning("the checkpoint that was being written is lost: %s", error)

    def _compared(self, metrics: Mapping[str, float]) -> dict[str, float]:
        best = None if self._retention is None else self._retention.best
        return {best.metric: metrics[best.metric]} if best is not None and best.metric in metrics else {}

    def _commit(
        self, content: str, files: Mapping[str, FileRecord], state: Mapping[str, Any], details: Mapping[str, Any]
    ) -> Checkpoint:
        """Write the loop's part, commit the step, and remove the steps that retention does not keep."""
        everything = {**files, **write_trainer_state(content, state)}
        written = commit(content, config_hash=self._config_hash, files=everything, details=details)
        self._prune()
        return written

    def _prune(self) -> None:
        if self._retention is None:
            return
        here = whole_steps(self._root)
        best = self._retention.best
        saved = [
            Saved(one.step, None if best is None else one.manifest.details.get(METRICS_DETAIL, {}).get(best.metric))
            for one in here
        ]
        origin = self._resumed_from
        resumed_from = origin.step if origin is not None and origin.path in {one.path for one in here} else None
        doomed = superfluous(saved, self._retention, resumed_from=resumed_from)
        for step in doomed:
            remove(self._root, step)
        if doomed:
            log.info("removed the checkpoints of steps %s, which nothing asks to keep", doomed)


@contextmanager
def _named(step: int) -> Iterator[None]:
    """Say of what goes wrong that it was a checkpoint; a lack of room stays what it is, and has its own remedy."""
    try:
        yield
    except RayActorError:  # a rank that died is that, and not a checkpoint
        raise
    except Exception as error:  # whatever a rank met, it is a checkpoint that is missing
        cause = getattr(error, "cause", None)
        original = cause if isinstance(cause, Exception) else error  # Ray wraps what a rank met
        if isinstance(original, OSError) and original.errno in FULL:
            raise
        raise SaveFailedError(f"the checkpoint of step {step} was not written: {original}") from error
