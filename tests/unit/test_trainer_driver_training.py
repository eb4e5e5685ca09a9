"""The order of things in the synchronous loop.

Policy and generator are scripted here: what they compute is tested where they live, and the whole of it on the cluster;
this is about what is asked of them, when, and with which weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from rltrain_api.config import SamplingParams, SkyRLTrainConfig
from rltrain_api.resolve import resolve
from rltrain_api.wire import DriverPhase, JobReference, RunDocument
from rltrain_trainer.data.batch import TrainBatch
from rltrain_trainer.data.rows import PromptLoader, PromptRow
from rltrain_trainer.driver.checkpoints import RunCheckpoints
from rltrain_trainer.driver.training import TrainingLoop
from rltrain_trainer.rollout.trajectory import Trajectory, VersionSpan
from rltrain_trainer.tracking.run_state import RunState

ROWS = [PromptRow(uid=str(index), messages=(), env_class="gsm8k", extras={}) for index in range(8)]


@dataclass
class Scripted:
    """Policy, generator and publisher in one; writes down what it was asked for."""

    calls: list[str] = field(default_factory=list)
    batches: list[TrainBatch] = field(default_factory=list)
    served: int = -1
    on_update: Any = None

    async def logprobs(self, batch: TrainBatch) -> torch.Tensor:
        self.calls.append("logprobs")
        return torch.zeros_like(batch.token_rewards)

    async def update(self, batch: TrainBatch) -> dict[str, float]:
        self.calls.append("update")
        self.batches.append(batch)
        if self.on_update is not None:
            self.on_update()
        return {"policy/policy_loss": 0.0}

    async def save(self, directory: Path) -> None:
        self.calls.append("save")
        (directory / "weights").write_text("w")

    async def generate(
        self, rows: Sequence[PromptRow], *, sampling: SamplingParams, samples_per_prompt: int
    ) -> list[Trajectory]:
        self.calls.append(f"generate {len(rows)}x{samples_per_prompt} at v{self.served}")
        return [trajectory(row, sample) for row in rows for sample in range(samples_per_prompt)]

    async def publish(self, version: int) -> None:
        self.calls.append(f"publish v{version}")
        self.served = version


def trajectory(row: PromptRow, sample: int) -> Trajectory:
    """Two tokens; every other sample of a prompt is right."""
    return Trajectory(
        group_id=row.uid,
        prompt_ids=(1, 2),
        response_ids=(3, 4),
        rollout_logprobs=(-0.1, -0.2),
        loss_mask=(1, 1),
        token_rewards=(0.0, float(sample % 2)),
        stop_reason="stop",
        version_spans=(VersionSpan(0, 0, 2),),
    )


def loop_of(parts: Scripted, root: Path, **trainer: object) -> TrainingLoop:
    settings: dict[str, object] = {
        "ckpt_path": str(root),
        "train_batch_size": 2,
        "policy_mini_batch_size": 2,
        "eval_batch_size": 3,
        "eval_interval": 2,
        "ckpt_interval": 3,
        **trainer,
    }
    config = resolve(SkyRLTrainConfig.model_validate({"trainer": settings, "generator": {"n_samples_per_prompt": 2}}))
    document = RunDocument(
        job=JobReference(namespace="default", name="job", uid="u"), attempt=1, config=config.model_dump(mode="json")
    )
    state = RunState(attempt=1)
    state.total_steps = 4
    return TrainingLoop(
        config=config,
        state=state,
        policy=parts,
        generator=parts,
        publish_weights=parts.publish,
        loader=PromptLoader(ROWS, 2, seed=1),
        evaluation_rows=ROWS[:5],
        checkpoints=RunCheckpoints(config, document),
        pad_token_id=0,
    )


async def test_the_order_of_a_whole_run(tmp_path: Path) -> None:
    parts = Scripted()
    loop = loop_of(parts, tmp_path)
    await loop.run()
    evaluation = [["generate 3x1 at v{0}", "generate 2x1 at v{0}"]]
    step = ["generate 2x2 at v{0}", "update", "publish v{1}"]

    def at(lines: list[str], before: int) -> list[str]:
        return [line.format(before, before + 1) for line in lines]

    assert parts.calls == [
        "publish v0",
        *at(evaluation[0], 0),
        *at(step, 0),
        *at(step, 1),
        *at(evaluation[0], 2),
        *at(step, 2),
        "save",
        *at(step, 3),
        *at(evaluation[0], 4),
        "save",
    ]
    assert loop.state.status().checkpoint is not None
    assert (loop.state.step, loop.state.weight_version) == (4, 4)
    assert [point.step for point in loop.state.history().points if point.eval_score is not None] == [0, 2, 4]


async def test_advantages_are_of_the_group(tmp_path: Path) -> None:
    parts = Scripted()
    await loop_of(parts, tmp_path, eval_before_train=False, eval_interval=-1).run()
    advantages = parts.batches[0].advantages
    assert advantages is not None
    wrong, right = advantages[0, 0].item(), advantages[1, 0].item()
    assert wrong < 0 < right
    assert abs(wrong + right) < 1e-6


async def test_old_log_probabilities_only_where_a_batch_takes_several_steps(tmp_path: Path) -> None:
    one, several = Scripted(), Scripted()
    await loop_of(one, tmp_path / "one").run()
    await loop_of(several, tmp_path / "several", policy_mini_batch_size=1).run()
    assert "logprobs" not in one.calls
    assert several.calls.count("logprobs") == 4
    assert all(batch.old_logprobs is not None for batch in several.batches)


async def test_groups_that_teach_nothing_are_left_out_when_asked(tmp_path: Path) -> None:
    parts = Scripted()
    loop = loop_of(parts, tmp_path, algorithm={"zero_variance_filter": True})
    parts.generate = same_rewards  # type: ignore[method-assign]
    await loop.run()
    assert not parts.batches[0].loss_mask.any()


async def same_rewards(
    rows: Sequence[PromptRow], *, sampling: SamplingParams, samples_per_prompt: int
) -> list[Trajectory]:
    return [trajectory(row, 0) for row in rows for _ in range(samples_per_prompt)]


async def test_a_stop_ends_at_the_step_boundary_with_a_checkpoint(tmp_path: Path) -> None:
    parts = Scripted()
    loop = loop_of(parts, tmp_path)
    parts.on_update = lambda: loop.state.request_stop(checkpoint=True, deadline_seconds=30)
    await loop.run()
    assert loop.state.step == 1
    assert parts.calls[-2:] == ["publish v1", "save"]
    assert loop.state.checkpoint is not None
    assert loop.state.checkpoint.step == 1


async def test_a_stop_without_a_checkpoint_saves_nothing(tmp_path: Path) -> None:
    parts = Scripted()
    loop = loop_of(parts, tmp_path)
    parts.on_update = lambda: loop.state.request_stop(checkpoint=False, deadline_seconds=30)
    await loop.run()
    assert "save" not in parts.calls


async def test_a_checkpoint_asked_for_is_written_at_the_next_boundary_once(tmp_path: Path) -> None:
    parts = Scripted()
    loop = loop_of(parts, tmp_path, ckpt_interval=-1)
    loop.state.checkpoint_requested.set()
    await loop.run()
    saves = [index for index, call in enumerate(parts.calls) if call == "save"]
    assert len(saves) == 2  # as asked, after step 1; and after the last step
    assert parts.calls[saves[0] - 1] == "publish v1"


async def test_a_resumed_run_does_not_evaluate_the_start_again(tmp_path: Path) -> None:
    parts = Scripted()
    loop = loop_of(parts, tmp_path)
    loop.state.step = 3
    await loop.run()
    assert parts.calls[:2] == ["publish v3", "generate 2x2 at v3"]
    assert loop.state.phase is DriverPhase.CHECKPOINTING
