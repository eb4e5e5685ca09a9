"""Where a run resumes: by resume_mode at first, at its own job's newest step after a restart; and saves that go on
beside training.
"""

import asyncio
import errno
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from rltrain_api.config import SkyRLTrainConfig
from rltrain_api.resolve import resolve
from rltrain_api.wire import BestSteps, JobReference, Retention, RunDocument
from rltrain_trainer.checkpoint.manifest import FileRecord, recorded
from rltrain_trainer.data.loader import PromptLoader
from rltrain_trainer.data.rows import PromptRow
from rltrain_trainer.driver.checkpoints import RunCheckpoints, Save, SaveFailedError
from rltrain_trainer.driver.failures import describe

ROWS = [PromptRow(uid=str(index), messages=(), env_class="gsm8k", extras={}) for index in range(8)]


@dataclass
class Ranks:
    """The ranks' part of a checkpoint, as small as it gets: what is there at `save` is written when `go` is set."""

    state: str = "w"
    go: asyncio.Event = field(default_factory=asyncio.Event)
    fails: Exception | None = None
    _copied: tuple[str, str] = ("", "")

    async def save(self, directory: str) -> None:
        self._copied = (directory, self.state)

    async def written(self) -> dict[str, FileRecord]:
        await self.go.wait()
        if self.fails is not None:
            raise self.fails
        directory, state = self._copied
        files: dict[str, FileRecord] = {}
        with recorded(directory, "weights", files) as stream:
            stream.write(state.encode())
        return files


def ready(**given: Any) -> Ranks:
    ranks = Ranks(**given)
    ranks.go.set()
    return ranks


def checkpoints(
    root: Path | str, *, job: str = "job-1", attempt: int = 1, retention: Retention | None = None, **trainer: object
) -> RunCheckpoints:
    config = resolve(SkyRLTrainConfig.model_validate({"trainer": {"ckpt_path": str(root), **trainer}}))
    reference = JobReference(namespace="default", name="job", uid=job)
    document = RunDocument(job=reference, attempt=attempt, config=config.model_dump(mode="json"), retention=retention)
    return RunCheckpoints(config, document)


async def save(kept: RunCheckpoints, step: int, **metrics: float) -> None:
    loader = PromptLoader(ROWS, 2, seed=1)
    for _ in range(step):
        loader.next_batch()
    state = {"loader": loader.state_dict(), "history": [step]}
    await kept.save(step, ready(), state, metrics={f"eval/{name}": value for name, value in metrics.items()})
    await kept.finished()


def weights_of(root: Path, step: int) -> str:
    (weights,) = root.glob(f"global_step_{step}/*/weights")
    return weights.read_text()


def empty(root: Path, step: int) -> None:
    (weights,) = root.glob(f"global_step_{step}/*/weights")
    weights.write_text("")


async def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    await save(checkpoints(tmp_path), 3)
    resume = checkpoints(tmp_path, attempt=2).find_resume()
    assert resume is not None
    assert (resume.checkpoint.step, resume.checkpoint.path) == (3, str(tmp_path / "global_step_3"))
    assert resume.loop_state["history"] == [3]
    again, straight = PromptLoader(ROWS, 2, seed=1), PromptLoader(ROWS, 2, seed=1)
    again.load_state_dict(resume.loop_state["loader"])
    for _ in range(3):
        straight.next_batch()
    assert again.next_batch() == straight.next_batch()


# What lies in the directory (by job and step), the resume mode, the attempt, and the step it must resume at.
CASES: dict[str, tuple[tuple[tuple[str, int], ...], str | None, int, int | None]] = {
    "latest, nothing there": ((), "latest", 1, None),
    "latest, another job's step": ((("job-0", 5),), "latest", 1, 5),
    "none, another job's step": ((("job-0", 5),), "none", 1, None),
    "null is none": ((("job-0", 5),), None, 1, None),
    "none, restarted before its first step": ((("job-0", 5),), "none", 2, None),
    "none, restarted after its first step": ((("job-0", 5), ("job-1", 2)), "none", 2, 2),
    "latest, restarted": ((("job-1", 2), ("job-1", 4)), "latest", 2, 4),
    "latest, restarted before its own first step": ((("job-0", 5),), "latest", 2, 5),
}


@pytest.mark.proves("trainer.resume_mode", "trainer.ckpt_path")
@pytest.mark.parametrize("case", CASES)
async def test_resume(case: str, tmp_path: Path) -> None:
    written, mode, attempt, expected = CASES[case]
    for job, step in written:
        await save(checkpoints(tmp_path, job=job), step)
    resume = checkpoints(tmp_path, attempt=attempt, resume_mode=mode).find_resume()
    assert (None if resume is None else resume.checkpoint.step) == expected


@pytest.mark.proves("trainer.resume_mode", "trainer.resume_path")
@pytest.mark.parametrize(("attempt", "own_step", "expected"), [(1, None, 7), (2, None, 7), (2, 9, 9)])
async def test_from_path_begins_there_and_goes_on_from_its_own(
    attempt: int, own_step: int | None, expected: int, tmp_path: Path
) -> None:
    await save(checkpoints(tmp_path / "elsewhere", job="job-0"), 7)
    own = tmp_path / "own"
    if own_step is not None:
        await save(checkpoints(own), own_step)
    path = str(tmp_path / "elsewhere" / "global_step_7")
    resume = checkpoints(own, attempt=attempt, resume_mode="from_path", resume_path=path).find_resume()
    assert resume is not None
    assert resume.checkpoint.step == expected


async def test_a_torn_step_is_passed_over_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for step in (2, 4):
        await save(checkpoints(tmp_path), step)
    assert await asyncio.to_thread(weights_of, tmp_path, 4) == "w"
    await asyncio.to_thread(empty, tmp_path, 4)
    with caplog.at_level(logging.WARNING):
        resume = checkpoints(tmp_path, attempt=2).find_resume()
    assert resume is not None
    assert resume.checkpoint.step == 2
    assert "step 4 skipped" in caplog.text


def steps_in(root: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("global_step_")) for path in root.glob("global_step_*"))


@pytest.mark.proves("trainer.max_ckpts_to_keep")
async def test_retention_removes_old_steps_but_never_the_one_resumed_from(tmp_path: Path) -> None:
    await save(checkpoints(tmp_path), 1)
    resumed = checkpoints(tmp_path, attempt=2, max_ckpts_to_keep=1)
    assert resumed.find_resume() is not None
    for step in (2, 3):
        await save(resumed, step)
    assert await asyncio.to_thread(steps_in, tmp_path) == [1, 3]


async def test_the_best_step_is_kept_over_restarts(tmp_path: Path) -> None:
    retention = Retention(last=1, best=BestSteps(metric="eval/score", keep=1))
    for attempt, step, score in ((1, 1, 0.2), (1, 2, 0.9), (2, 3, 0.5), (2, 4, 0.4)):
        await save(checkpoints(tmp_path, attempt=attempt, retention=retention), step, score=score, other=9.0)
    assert await asyncio.to_thread(steps_in, tmp_path) == [2, 4]


async def test_a_save_returns_before_the_bytes_are_written(tmp_path: Path) -> None:
    kept, ranks, told = checkpoints(tmp_path), Ranks(), list[Save]()
    await kept.save(1, ranks, {"carried": []}, committed=told.append)
    kept.check()
    assert told == []
    ranks.state = "changed by training"
    ranks.go.set()
    await kept.finished()
    assert [save.checkpoint.step for save in told] == [1]
    assert 0 <= told[0].stall_seconds <= told[0].seconds
    assert await asyncio.to_thread(weights_of, tmp_path, 1) == "w"


async def test_the_state_of_the_loop_is_that_of_the_moment(tmp_path: Path) -> None:
    kept, ranks, state = checkpoints(tmp_path), Ranks(), {"carried": [1]}
    await kept.save(1, ranks, state)
    state["carried"].append(2)
    ranks.go.set()
    await kept.finished()
    resume = checkpoints(tmp_path, attempt=2).find_resume()
    assert resume is not None
    assert resume.loop_state == {"carried": [1]}


async def test_one_save_is_in_flight_at_a_time(tmp_path: Path) -> None:
    kept, first = checkpoints(tmp_path), Ranks()
    await kept.save(1, first, {})
    second = asyncio.create_task(kept.save(2, ready(), {}))
    await asyncio.sleep(0)
    assert not second.done()
    first.go.set()
    await second
    await kept.finished()
    assert await asyncio.to_thread(steps_in, tmp_path) == [1, 2]


# What the ranks meet, what the loop gets, and what the operator reads.
FAILURES: dict[str, tuple[Exception, type[Exception], str]] = {
    "no room": (OSError(errno.ENOSPC, "No space left on device"), OSError, "VolumeFull"),
    "another error": (OSError(errno.EIO, "Input/output error"), SaveFailedError, "CheckpointFailed"),
    "a rank that died": (RuntimeError("connection closed by peer"), SaveFailedError, "CheckpointFailed"),
}


@pytest.mark.parametrize("case", FAILURES)
async def test_what_goes_wrong_behind_the_loop_is_said_at_the_next_step(case: str, tmp_path: Path) -> None:
    met, raised, reason = FAILURES[case]
    kept, ranks = checkpoints(tmp_path), Ranks(fails=met)
    await save(kept, 1)
    await kept.save(2, ranks, {})
    kept.check()
    ranks.go.set()
    with pytest.raises(raised) as caught:
        await kept.finished()
    assert describe(caught.value).reason == reason
    kept.check()  # said once
    resume = checkpoints(tmp_path, attempt=2).find_resume()
    assert resume is not None
    assert resume.checkpoint.step == 1


async def test_a_run_that_failed_gives_a_save_a_while(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept, ranks = checkpoints(tmp_path), Ranks()
    await kept.save(1, ranks, {})
    await kept.settle(0.0)
    assert "not committed" in caplog.text
    kept = checkpoints(tmp_path)
    await kept.save(2, ready(), {})
    await kept.settle(30.0)
    assert await asyncio.to_thread(steps_in, tmp_path) == [2]
