"""Samples of one prompt as a group: numbering groups, and sums over them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

GroupIds = Sequence[str] | Sequence[int] | Tensor


def group_indices(group_ids: GroupIds) -> Tensor:
    """[batch] int64: the groups numbered from 0 in order of appearance."""
    ids = group_ids.tolist() if isinstance(group_ids, Tensor) else group_ids
    numbers: dict[str | int, int] = {}
    return torch.tensor([numbers.setdefault(name, len(numbers)) for name in ids], dtype=torch.int64)


def group_sums(values: Tensor, groups: Tensor) -> Tensor:
    """[groups]: the sum of `values` [batch] over each group, whose numbers [batch] are those of `group_indices`."""
    count = int(groups.max()) + 1 if len(groups) else 0
    return values.new_zeros(count).index_add_(0, groups, values)
