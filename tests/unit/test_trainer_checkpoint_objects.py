"""Checkpoints in an object store, by pyarrow's real client, over HTTP, from a server that speaks S3."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import torch
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from object_server import Objects, credentials, object_server
from rltrain_api.config import SkyRLTrainConfig
from rltrain_api.resolve import resolve
from rltrain_api.wire import JobReference, RunDocument
from rltrain_trainer.checkpoint.manifest import FileRecord, recorded
from rltrain_trainer.checkpoint.objects import StoreError
from rltrain_trainer.checkpoint.places import place_of
from rltrain_trainer.checkpoint.tensors import TensorReader, TensorWriter
from rltrain_trainer.driver.checkpoints import RunCheckpoints, SaveFailedError
from rltrain_trainer.driver.failures import describe

ROOT = "s3://bucket/runs/job"
HIDDEN = "a-word-that-nobody-may-see"


@pytest.fixture
def objects(monkeypatch: pytest.MonkeyPatch) -> Iterator[Objects]:
    with object_server() as objects:
        for name, value in credentials(objects).items():
            monkeypatch.setenv(name, value)
        yield objects


def test_tensors_of_several_parts_come_back_bit_for_bit(objects: Objects) -> None:
    state = {"large": torch.rand(6_000_000), "small": torch.rand(3, 5).bfloat16()}
    writer = TensorWriter(f"{ROOT}/x", 0)
    save(dict(state), storage_writer=writer, planner=DefaultSavePlanner(flatten_state_dict=False), no_dist=True)
    assert sum("partNumber=2" in request for request in objects.requests) == 1
    assert place_of(ROOT).sizes(f"{ROOT}/x") == {name: record.bytes for name, record in writer.files.items()}
    found = {"large": torch.empty(6_000_000), "small": torch.empty(3, 5, dtype=torch.bfloat16)}
    planner = DefaultLoadPlanner(flatten_state_dict=False)
    load(found, storage_reader=TensorReader(f"{ROOT}/x"), planner=planner, no_dist=True)
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())


class Ranks:
    async def save(self, directory: str) -> None:
        self._directory = directory

    async def written(self) -> dict[str, FileRecord]:
        files: dict[str, FileRecord] = {}
        with recorded(self._directory, "policy/weights", files) as stream:
            stream.write(b"w" * 100)
        return files


def checkpoints(attempt: int = 1) -> RunCheckpoints:
    config = resolve(SkyRLTrainConfig.model_validate({"trainer": {"ckpt_path": f"{ROOT}/", "max_ckpts_to_keep": 2}}))
    job = JobReference(namespace="default", name="job", uid="job-1")
    return RunCheckpoints(config, RunDocument(job=job, attempt=attempt, config={}))


@pytest.mark.proves("trainer.ckpt_path", "trainer.max_ckpts_to_keep")
async def test_a_run_keeps_its_newest_steps_there_and_resumes(objects: Objects) -> None:
    kept = checkpoints()
    for step in (1, 2, 3):
        await kept.save(step, Ranks(), {"rows": step})
    await kept.finished()
    assert sorted(place_of(ROOT).directories(ROOT)) == ["global_step_2", "global_step_3"]
    resume = checkpoints(attempt=2).find_resume()
    assert resume is not None
    assert (resume.checkpoint.path, resume.loop_state) == (f"{ROOT}/global_step_3", {"rows": 3})
    assert not any(HIDDEN in request for request in objects.requests)


# What the store refuses, by a part of the request's path.
REFUSED = {"the ranks' files": "policy/weights", "the manifest": "manifest.json", "the loop's state": "trainer_state"}


@pytest.mark.parametrize("case", REFUSED)
async def test_what_the_store_refuses_is_said_and_costs_no_committed_step(
    case: str, objects: Objects, caplog: pytest.LogCaptureFixture
) -> None:
    kept = checkpoints()
    await kept.save(1, Ranks(), {})
    await kept.finished()
    objects.refuse = REFUSED[case]
    await kept.save(2, Ranks(), {})
    with pytest.raises(SaveFailedError, match="ACCESS_DENIED") as caught:
        await kept.finished()
    objects.refuse = None
    described = describe(caught.value)
    assert described.reason == "CheckpointFailed"
    assert f"{ROOT}/global_step_2" in described.message
    with caplog.at_level(logging.WARNING):
        resume = checkpoints(attempt=2).find_resume()
    assert resume is not None
    assert resume.checkpoint.step == 1
    assert place_of(ROOT).directories(ROOT) == ["global_step_1"]  # what was left of the second is gone
    assert HIDDEN not in str(described) + caplog.text


def test_a_store_that_cannot_be_read_is_said(objects: Objects) -> None:
    objects.refuse = "list-type"
    with pytest.raises(StoreError, match=r"s3://bucket/runs/job: .*ACCESS_DENIED"):
        checkpoints().find_resume()
