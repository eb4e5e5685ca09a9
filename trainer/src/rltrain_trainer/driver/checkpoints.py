"""The run's checkpoints: what of the loop goes into a step beside the ranks' shards, and where a run resumes.

The commit protocol itself is `rltrain_trainer.checkpoint`; this module decides what is saved and which step is taken.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rltrain_api.config import SkyRLTrainConfig
from rltrain_api.wire import CheckpointStatus, History, RunDocument
from rltrain_trainer.checkpoint.store import Checkpoint, begin, commit, latest, open_step, prune
from rltrain_trainer.checkpoint.trainer_state import read_trainer_state, write_trainer_state
from rltrain_trainer.data.rows import PromptLoader

if TYPE_CHECKING:
    from rltrain_trainer.driver.training import Policy

log = logging.getLogger(__name__)

JOB_DETAIL = "job_uid"  # in the manifest: which RLTrainingJob wrote the step


@dataclass(frozen=True)
class Resume:
    """Where a run goes on."""

    checkpoint: CheckpointStatus
    loader: dict[str, int]
    history: History


class RunCheckpoints:
    """The checkpoints of one run, below trainer.ckpt_path."""

    def __init__(self, config: SkyRLTrainConfig, document: RunDocument) -> None:
        self._trainer = config.trainer
        self._root = Path(config.trainer.ckpt_path).expanduser()
        self._config_hash = hashlib.sha256(json.dumps(document.config, sort_keys=True).encode()).hexdigest()
        self._attempt = document.attempt
        self._job_uid = document.job.uid
        self._resumed_from: Path | None = None

    def find_resume(self) -> Resume | None:
        """The step to resume from, None to start afresh. Raises ValueError when resume_path is no whole step.

        A restarted driver goes on from its own job's newest step whatever resume_mode says: the mode is about how the
        job begins, and forgetting the work of an earlier attempt is never what it means.
        """
        found = self._own_step() if self._attempt > 1 else None
        if found is None and self._trainer.resume_mode == "latest":
            found = latest(self._root)
        if found is None and self._trainer.resume_mode == "from_path":
            assert self._trainer.resume_path is not None, "validate() demands a path"
            found = open_step(Path(self._trainer.resume_path).expanduser())
        if found is None:
            return None
        self._resumed_from = found.path
        state = read_trainer_state(found.path)
        return Resume(
            checkpoint=CheckpointStatus(
                step=found.step,
                path=str(found.path),
                time=datetime.fromisoformat(state["time"]),
                bytes=found.manifest.total_bytes,
            ),
            loader=state["loader"],
            history=History.model_validate(state["history"]),
        )

    def _own_step(self) -> Checkpoint | None:
        """The newest step, if this job wrote it: the directory may hold those of a job before it."""
        found = latest(self._root)
        return found if found is not None and found.manifest.details.get(JOB_DETAIL) == self._job_uid else None

    async def save(self, step: int, policy: Policy, loader: PromptLoader, history: History) -> CheckpointStatus:
        """Write and commit `step`, then remove the steps that retention does not keep."""
        directory = await asyncio.to_thread(begin, self._root, step)
        await policy.save(directory)
        return await asyncio.to_thread(self._commit, directory, step, loader.state_dict(), history)

    def _commit(self, directory: Path, step: int, loader: dict[str, int], history: History) -> CheckpointStatus:
        now = datetime.now(UTC)
        state = {
            "step": step,
            "attempt": self._attempt,
            "time": now.isoformat(),
            "loader": loader,
            "history": history.model_dump(mode="json", by_alias=True),
        }
        write_trainer_state(directory, state)
        written = commit(self._root, step, config_hash=self._config_hash, details={JOB_DETAIL: self._job_uid})
        removed = prune(self._root, self._trainer.max_ckpts_to_keep, resumed_from=self._resumed_from)
        if removed:
            log.info("removed checkpoints of steps %s (max_ckpts_to_keep)", removed)
        return CheckpointStatus(step=step, path=str(written.path), time=now, bytes=written.manifest.total_bytes)
