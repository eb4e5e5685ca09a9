"""What is left out of the loss: groups that teach nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from rltrain_trainer.algorithms.groups import GroupIds, group_indices

SAME_REWARD = 1e-6  # SkyRL's zero_variance_filter_tol


def zero_variance_filter(
    token_rewards: Tensor, loss_mask: Tensor, group_ids: GroupIds, *, ends: Tensor | None = None
) -> Tensor:
    """The loss mask [batch, tokens] without the groups whose responses all had the same summed reward.

    token_rewards, loss_mask: [batch, tokens]; group_ids: [batch]; ends: [batch] bool, the rows that have their
    trajectory's reward where a trajectory is several rows. Responses without a trained token do not vote, and a group
    with fewer than two that do is left alone. Upstream applies this to response-level rewards only and silently to
    nothing otherwise; here rewards of tokens are summed first.
    """
    scores = token_rewards.sum(dim=-1)
    votes = loss_mask.bool().any(dim=-1)
    if ends is not None:
        votes = votes & ends
    groups = group_indices(group_ids).to(loss_mask.device)
    result = loss_mask.clone()
    for group in range(int(groups.max()) + 1):
        members = groups == group
        voting = scores[members & votes]
        if len(voting) > 1 and voting.max() - voting.min() <= SAME_REWARD:
            result[members] = torch.zeros_like(result[members])
    return result
