from __future__ import annotations

from dataclasses import replace

import torch

from rltrain_trainer.data.batch import build_batch
from rltrain_trainer.rollout.trajectory import Trajectory

PAD = 99


def trajectory(group: str, prompt: int, response: int, *, environment_tokens: int = 0) -> Trajectory:
    """Prompt tokens 10, 11, …; response tokens 20, 21, …, the first ones by the environment; reward 1 at the end."""
    return Trajectory(
        group_id=group,
        prompt_ids=tuple(range(10, 10 + prompt)),
        response_ids=tuple(range(20, 20 + response)),
        rollout_logprobs=tuple(-0.5 * n for n in range(response)),
        loss_mask=tuple(int(n >= environment_tokens) for n in range(response)),
        token_rewards=tuple(float(n == response - 1) for n in range(response)),
        stop_reason="stop",
        version_spans=(),
    )


def example() -> list[Trajectory]:
    second = replace(trajectory("a", 1, 4, environment_tokens=1), sample=1)
    return [trajectory("a", 3, 2), second, trajectory("b", 2, 0)]


def test_the_layout() -> None:
    batch = build_batch(example(), PAD)
    assert batch.sequences.tolist() == [
        [10, 11, 12, 20, 21],
        [10, 20, 21, 22, 23],
        [PAD, PAD, PAD, 10, 11],
    ]
    assert batch.attention_mask.long().tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [0, 0, 0, 1, 1]]
    assert batch.response_mask.long().tolist() == [[0, 0, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0]]
    assert batch.loss_mask.long().tolist() == [[0, 0, 1, 1], [0, 1, 1, 1], [0, 0, 0, 0]]
    assert batch.token_rewards.tolist() == [[0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0]]
    assert batch.rollout_logprobs.tolist() == [[0, 0, 0, -0.5], [0, -0.5, -1, -1.5], [0, 0, 0, 0]]
    assert batch.group_ids.tolist() == [0, 0, 1]
    assert len(batch) == 3
    assert batch.trajectory_ids is not None
    assert batch.trajectory_ids.tolist() == [0, 1, 2]


def test_steps_of_one_trajectory_share_its_number() -> None:
    steps = [
        replace(trajectory("a", 2, 1), sample=0, is_last_step=False),
        replace(trajectory("a", 3, 1), sample=0),
        replace(trajectory("a", 2, 1), sample=1),
        replace(trajectory("b", 2, 1), sample=0),
    ]
    batch = build_batch(steps, PAD)
    assert batch.trajectory_ids is not None
    assert batch.is_last_step is not None
    assert batch.trajectory_ids.tolist() == [0, 0, 1, 2]
    assert batch.is_last_step.tolist() == [False, True, True, True]


def test_rows_by_number() -> None:
    batch = replace(build_batch(example(), PAD), values=torch.arange(12.0).reshape(3, 4))
    chosen = batch.rows(torch.tensor([2, 0, 0]))
    assert chosen.group_ids.tolist() == [1, 0, 0]
    assert chosen.values is not None
    assert chosen.values[:, 0].tolist() == [8.0, 0.0, 0.0]
    assert chosen.trimmed().values.shape == (3, 2)  # type: ignore[union-attr]  # it was there before


def test_trimmed_drops_the_columns_that_are_padding_everywhere() -> None:
    batch = build_batch(example(), PAD)
    last = batch.rows(slice(2, 3)).trimmed()
    assert last.sequences.tolist() == [[10, 11]]
    assert last.response_mask.long().tolist() == [[0]]
    first = batch.rows(slice(0, 1)).trimmed()
    assert first.sequences.tolist() == [[10, 11, 12, 20, 21]]
    assert first.token_rewards.tolist() == [[0, 1]]
    assert first.group_ids.tolist() == [0]
