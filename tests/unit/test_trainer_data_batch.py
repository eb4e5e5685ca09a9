from __future__ import annotations

import pytest
import torch

from rltrain_trainer.data.batch import build_batch, shard_slice
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
    return [trajectory("a", 3, 2), trajectory("a", 1, 4, environment_tokens=1), trajectory("b", 2, 0)]


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


def test_trimmed_drops_the_columns_that_are_padding_everywhere() -> None:
    batch = build_batch(example(), PAD)
    last = batch.rows(slice(2, 3)).trimmed()
    assert last.sequences.tolist() == [[10, 11]]
    assert last.response_mask.long().tolist() == [[0]]
    first = batch.rows(slice(0, 1)).trimmed()
    assert first.sequences.tolist() == [[10, 11, 12, 20, 21]]
    assert first.token_rewards.tolist() == [[0, 1]]
    assert first.group_ids.tolist() == [0]


def test_shards_concatenate_to_the_batch() -> None:
    batch = build_batch([trajectory(str(n), 1 + n, 2) for n in range(6)], PAD)
    batch = batch.with_advantages(torch.rand(6, 2), torch.rand(6, 2)).with_old_logprobs(torch.rand(6, 2))
    shards = [batch.shard(rank, 3) for rank in range(3)]
    for name in ("sequences", "group_ids", "advantages", "old_logprobs"):
        assert torch.equal(torch.cat([getattr(shard, name) for shard in shards]), getattr(batch, name)), name


def test_rows_that_cannot_be_dealt_out_evenly_are_refused() -> None:
    with pytest.raises(ValueError, match=r"7 sequences cannot be dealt out evenly to 2 ranks.*policy_mini_batch_size"):
        shard_slice(7, 0, 2)
