"""Where a run resumes: by resume_mode at first, at its own job's newest step after a restart."""

import asyncio
import logging
from pathlib import Path

import pytest

from rltrain_api.config import SkyRLTrainConfig
from rltrain_api.resolve import resolve
from rltrain_api.wire import History, HistoryPoint, JobReference, RunDocument
from rltrain_trainer.data.rows import PromptLoader, PromptRow
from rltrain_trainer.driver.checkpoints import RunCheckpoints

ROWS = [PromptRow(uid=str(index), messages=(), env_class="gsm8k", extras={}) for index in range(8)]


class WritesOneFile:
    """The policy's part of a checkpoint, as small as it gets."""

    async def save(self, directory: Path) -> None:
        (directory / "weights").write_text("w")


def checkpoints(root: Path, *, job: str = "job-1", attempt: int = 1, **trainer: object) -> RunCheckpoints:
    config = resolve(SkyRLTrainConfig.model_validate({"trainer": {"ckpt_path": str(root), **trainer}}))
    reference = JobReference(namespace="default", name="job", uid=job)
    document = RunDocument(job=reference, attempt=attempt, config=config.model_dump(mode="json"))
    return RunCheckpoints(config, document)


async def save(kept: RunCheckpoints, step: int) -> None:
    loader = PromptLoader(ROWS, 2, seed=1)
    for _ in range(step):
        loader.next_batch()
    await kept.save(step, WritesOneFile(), loader, History(points=[HistoryPoint(step=step, reward=0.5)]))


async def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    await save(checkpoints(tmp_path), 3)
    resume = checkpoints(tmp_path, attempt=2).find_resume()
    assert resume is not None
    assert (resume.checkpoint.step, resume.checkpoint.path) == (3, str(tmp_path / "global_step_3"))
    assert [point.step for point in resume.history.points] == [3]
    again, straight = PromptLoader(ROWS, 2, seed=1), PromptLoader(ROWS, 2, seed=1)
    again.load_state_dict(resume.loader)
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


@pytest.mark.parametrize("case", CASES)
async def test_resume(case: str, tmp_path: Path) -> None:
    written, mode, attempt, expected = CASES[case]
    for job, step in written:
        await save(checkpoints(tmp_path, job=job), step)
    resume = checkpoints(tmp_path, attempt=attempt, resume_mode=mode).find_resume()
    assert (None if resume is None else resume.checkpoint.step) == expected


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
    (tmp_path / "global_step_4" / "weights").write_text("")
    with caplog.at_level(logging.WARNING):
        resume = checkpoints(tmp_path, attempt=2).find_resume()
    assert resume is not None
    assert resume.checkpoint.step == 2
    assert "step 4 skipped" in caplog.text


async def test_retention_removes_old_steps_but_never_the_one_resumed_from(tmp_path: Path) -> None:
    await save(checkpoints(tmp_path), 1)
    resumed = checkpoints(tmp_path, attempt=2, max_ckpts_to_keep=1)
    assert resumed.find_resume() is not None
    for step in (2, 3):
        await save(resumed, step)
    kept = await asyncio.to_thread(lambda: sorted(path.name for path in tmp_path.glob("global_step_*")))
    assert kept == ["global_step_1", "global_step_3"]
