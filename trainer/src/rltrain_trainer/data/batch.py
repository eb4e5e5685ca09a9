"""The batch: what rollouts become on their way through log-probabilities, advantages and the update.

The layout is SkyRL's. A sequence is prompt and response side by side, padded on the left to the longest of the batch;
tensors about responses have the columns of the longest response and are aligned on the right, so that the last columns
of both describe the same tokens. It must not know of models or losses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from rltrain_trainer.rollout.trajectory import Trajectory


@dataclass(frozen=True)
class TrainBatch:
    """Tensors of one training batch; rows are sequences, those of one prompt side by side."""

    sequences: Tensor  # [batch, total] int64
    attention_mask: Tensor  # [batch, total] bool, 0 on padding
    response_mask: Tensor  # [batch, response] bool, 1 on all tokens after the prompt
    loss_mask: Tensor  # [batch, response] bool, 1 on the tokens that the policy sampled and that are trained on
    token_rewards: Tensor  # [batch, response] float32
    rollout_logprobs: Tensor  # [batch, response] float32, by the engine that sampled
    group_ids: Tensor  # [batch] int64, equal for samples of one prompt
    old_logprobs: Tensor | None = None  # [batch, response] float32, by the policy before the update
    reference_logprobs: Tensor | None = None  # [batch, response] float32, by the frozen reference
    values: Tensor | None = None  # [batch, response] float32, by the critic before the update
    advantages: Tensor | None = None  # [batch, response] float32
    returns: Tensor | None = None  # [batch, response] float32
    chosen: Tensor | None = None  # [batch, response] bool, what a loss picked out of the whole mini-batch
    trajectory_ids: Tensor | None = None  # [batch] int64, equal for the steps of one trajectory, in their order
    is_last_step: Tensor | None = None  # [batch] bool, the step of its trajectory that ends it

    def __len__(self) -> int:
        return self.sequences.shape[0]

    @property
    def response_length(self) -> int:
        """Columns of the tensors about responses."""
        return self.response_mask.shape[1]

    def rows(self, index: slice | Tensor) -> TrainBatch:
        """The batch of some of the rows, with all columns; index: a slice, or row numbers [rows] int64, repeats too."""
        return self._map(lambda _, tensor: tensor[index])

    def trimmed(self) -> TrainBatch:
        """Without the columns on the left that are padding in every row."""
        total = _used_columns(self.attention_mask)
        response = max(_used_columns(self.response_mask), 1)  # a batch without any response keeps one blank column
        last_columns = {"sequences": total, "attention_mask": total}
        return self._map(
            lambda name, tensor: tensor if tensor.dim() == 1 else tensor[:, -last_columns.get(name, response) :]
        )

    def to(self, device: torch.device) -> TrainBatch:
        """The batch with its tensors on `device`."""
        return self._map(lambda _, tensor: tensor.to(device))

    def with_advantages(self, advantages: Tensor, returns: Tensor) -> TrainBatch:
        """The batch with advantages and returns, each [batch, response]."""
        return replace(self, advantages=advantages, returns=returns)

    def with_old_logprobs(self, old_logprobs: Tensor) -> TrainBatch:
        """The batch with the policy's log-probabilities from before the update, [batch, response]."""
        return replace(self, old_logprobs=old_logprobs)

    def _map(self, change: Callable[[str, Tensor], Tensor]) -> TrainBatch:
        """The batch with `change(name, tensor)` in place of every tensor that is there."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: change(name, value) for name, value in values.items() if value is not None})


def build_batch(trajectories: Sequence[Trajectory], pad_token_id: int) -> TrainBatch:
    """The batch of these trajectories, in their order, on the CPU. Nothing is truncated.

    A trajectory must have a prompt of at least one token, and at least one trajectory a response.
    """
    assert all(trajectory.prompt_ids for trajectory in trajectories), "the first response token needs one before it"
    response = max((len(trajectory.response_ids) for trajectory in trajectories), default=0)
    assert response > 0, "no trajectory has a response token"
    sequences = [[*trajectory.prompt_ids, *trajectory.response_ids] for trajectory in trajectories]
    total = max(map(len, sequences))
    groups: dict[str, int] = {}
    episodes: dict[tuple[str, int], int] = {}
    return TrainBatch(
        sequences=_right_aligned(sequences, total, torch.int64, fill=pad_token_id),
        attention_mask=_filled([len(sequence) for sequence in sequences], total),
        response_mask=_filled([len(trajectory.response_ids) for trajectory in trajectories], response),
        loss_mask=_right_aligned((trajectory.loss_mask for trajectory in trajectories), response, torch.bool),
        token_rewards=_right_aligned(
            (trajectory.token_rewards for trajectory in trajectories), response, torch.float32
        ),
        rollout_logprobs=_right_aligned(
            (trajectory.rollout_logprobs for trajectory in trajectories), response, torch.float32
        ),
        group_ids=torch.tensor([groups.setdefault(trajectory.group_id, len(groups)) for trajectory in trajectories]),
        trajectory_ids=torch.tensor(
            [
                episodes.setdefault((trajectory.group_id, trajectory.sample), len(episodes))
                for trajectory in trajectories
            ]
        ),
        is_last_step=torch.tensor([trajectory.is_last_step for trajectory in trajectories]),
    )


def _right_aligned(rows: Iterable[Sequence[float]], columns: int, dtype: torch.dtype, *, fill: float = 0) -> Tensor:
    values = list(rows)
    result = torch.full((len(values), columns), fill, dtype=dtype)
    for row, content in zip(result, values, strict=True):
        if content:
            row[-len(content) :] = torch.tensor(content, dtype=dtype)
    return result


def _filled(lengths: Sequence[int], columns: int) -> Tensor:
    """[len(lengths), columns] bool: the last `length` columns of each row are 1."""
    return torch.arange(columns, 0, -1) <= torch.tensor(lengths)[:, None]


def _used_columns(mask: Tensor) -> int:
    """How many columns from the right end hold everything that is 1."""
    used = mask.any(dim=0).nonzero()
    return 0 if len(used) == 0 else mask.shape[1] - int(used[0])
