"""Numbers about a batch of trajectories, under SkyRL's metric names. Pure functions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from rltrain_trainer.rollout.trajectory import Trajectory


def rollout_metrics(trajectories: Sequence[Trajectory], *, samples_per_prompt: int) -> dict[str, float]:
    """`reward/*`, `generate/*` and `environment/*` of one training step's rollouts."""
    lengths = np.array([len(trajectory.response_ids) for trajectory in trajectories], dtype=np.float64)
    sampled = np.array([sum(trajectory.loss_mask) for trajectory in trajectories], dtype=np.float64)
    rewarded = np.array([trajectory.reward > 0 for trajectory in trajectories])
    cut_off = np.array([trajectory.stop_reason == "length" for trajectory in trajectories])
    return {
        "reward/avg_raw_reward": _mean([trajectory.reward for trajectory in trajectories]),
        f"reward/avg_pass_at_{samples_per_prompt}": pass_at_n(trajectories),
        "reward/mean_positive_reward": mean_positive_reward(trajectories),
        "generate/min_num_tokens": float(lengths.min()),
        "generate/max_num_tokens": float(lengths.max()),
        "generate/avg_num_tokens": float(lengths.mean()),
        "generate/std_num_tokens": float(lengths.std()),
        "generate/avg_assistant_tokens": float(sampled.mean()),
        "generate/avg_tokens_non_zero_rewards": _mean(lengths[rewarded]),
        "generate/avg_tokens_zero_rewards": _mean(lengths[~rewarded]),
        "generate/cut_off_ratio": float(cut_off.mean()),
        "generate/batch_num_seq": float(len(trajectories)),
        **environment_metrics(trajectories),
    }


def evaluation_metrics(
    trajectories: Sequence[Trajectory], *, samples_per_prompt: int, data_sources: Mapping[str, str] | None = None
) -> dict[str, float]:
    """`eval/all/*`, and `eval/{data source}/*` for the sources of prompts (by uid) that are given."""
    by_source: dict[str, list[Trajectory]] = {"all": list(trajectories)}
    for trajectory in trajectories if data_sources else ():
        source = (data_sources or {}).get(trajectory.group_id, "unknown")
        by_source.setdefault(source, []).append(trajectory)
    metrics: dict[str, float] = {}
    for source, members in by_source.items():
        metrics[f"eval/{source}/avg_score"] = _mean([trajectory.reward for trajectory in members])
        metrics[f"eval/{source}/pass_at_{samples_per_prompt}"] = pass_at_n(members)
        metrics[f"eval/{source}/mean_positive_reward"] = mean_positive_reward(members)
    return metrics


def pass_at_n(trajectories: Sequence[Trajectory]) -> float:
    """Share of prompts with at least one sample whose last turn was rewarded above 0 (SkyRL's definition)."""
    passed: dict[str, bool] = defaultdict(bool)
    for trajectory in trajectories:
        passed[trajectory.group_id] |= last_turn_reward(trajectory) > 0
    return _mean(list(passed.values()))


def last_turn_reward(trajectory: Trajectory) -> float:
    """The reward of the last turn, on the last sampled token; those of earlier turns may be partial credit."""
    sampled_last = [reward for reward, mask in zip(trajectory.token_rewards, trajectory.loss_mask, strict=True) if mask]
    rewards = sampled_last or trajectory.token_rewards  # overlong filtering masks everything
    return rewards[-1] if rewards else 0.0


def mean_positive_reward(trajectories: Sequence[Trajectory]) -> float:
    """Mean over trajectories of the sum of their positive token rewards."""
    return _mean([sum(max(reward, 0.0) for reward in trajectory.token_rewards) for trajectory in trajectories])


def environment_metrics(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """Mean of each environment metric over the trajectories that have it."""
    values: dict[str, list[float]] = defaultdict(list)
    for trajectory in trajectories:
        for name, value in trajectory.environment_metrics.items():
            values[name].append(value)
    return {f"environment/{name}": _mean(numbers) for name, numbers in values.items()}


def _mean(values: Sequence[float] | Sequence[bool] | np.ndarray) -> float:
    """The mean; 0 for none, as SkyRL logs it."""
    return float(np.mean(values)) if len(values) else 0.0
