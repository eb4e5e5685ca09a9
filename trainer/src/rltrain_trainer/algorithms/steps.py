"""Step-wise trajectories: every turn of an episode is a row of its own, and the episode is rewarded at its last one."""

from __future__ import annotations

import torch
from torch import Tensor

from rltrain_api.config import AlgorithmConfig
from rltrain_trainer.algorithms.advantages import ESTIMATORS_OVER_TIME, compute_advantages
from rltrain_trainer.algorithms.groups import group_indices


@torch.no_grad()
def step_wise_advantages(
    estimator: str,
    token_rewards: Tensor,
    response_mask: Tensor,
    group_ids: Tensor,
    *,
    trajectory_ids: Tensor,
    is_last_step: Tensor,
    config: AlgorithmConfig,
) -> tuple[Tensor, Tensor]:
    """Advantages and returns, each [batch, tokens]: those of the last steps, for every token of all their steps.

    token_rewards, response_mask: [batch, tokens]; group_ids, trajectory_ids: [batch] int64; is_last_step: [batch] bool,
    true once in each trajectory. The estimator sees the last steps alone, with every column as a token, so that columns
    mean the same for steps of any length. Rewards of earlier steps count nowhere, as in SkyRL, whose first release
    also kept the last step's mask for all of them. Raises ValueError for estimators that value tokens by what followed,
    which would have to see the steps as one sequence.
    """
    if estimator in ESTIMATORS_OVER_TIME:
        raise ValueError(
            f"trainer.algorithm.advantage_estimator: {estimator} cannot value steps apart; use grpo or rloo, or set "
            "generator.step_wise_trajectories to false"
        )
    trajectories = group_indices(trajectory_ids).to(token_rewards.device)
    last = is_last_step.nonzero().flatten()
    last = last[trajectories[last].argsort()]
    assert torch.equal(trajectories[last], torch.arange(int(trajectories.max()) + 1, device=last.device)), (
        "every trajectory has one last step"
    )
    rewards = token_rewards[last]
    advantages, returns = compute_advantages(
        estimator, rewards, torch.ones_like(rewards), group_ids[last], config=config
    )
    mask = response_mask.to(advantages.dtype)
    return advantages[trajectories] * mask, returns[trajectories] * mask
