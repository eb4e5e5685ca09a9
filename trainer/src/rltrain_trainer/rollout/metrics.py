"""Numbers about a batch of trajectories, under SkyRL's metric names. Pure functions.

A step-wise trajectory counts as one episode: its tokens are those of all its steps, its reward is that of the last.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from skyrl_gym.metrics import (  # type: ignore[import-untyped]  # ships no types
    aggregate_for_environment,
    default_aggregate_metrics,
)

from rltrain_trainer.data.rows import PromptRow
from rltrain_trainer.rollout.trajectory import Trajectory

Numbers = Sequence[float] | Sequence[bool] | np.ndarray

SOURCE_KEY = "data_source"  # the column of a row that says which dataset it is from
UNKNOWN_SOURCE = "unknown"


def rollout_metrics(trajectories: Sequence[Trajectory], *, samples_per_prompt: int) -> dict[str, float]:
    """`reward/*`, `generate/*` and `environment/*` of one training step's rollouts."""
    episodes = _episodes(trajectories)
    ends = [episode[-1] for episode in episodes]
    lengths = np.array([sum(len(step.response_ids) for step in episode) for episode in episodes], dtype=np.float64)
    sampled = np.array([sum(sum(step.turn_lengths) for step in episode) for episode in episodes], dtype=np.float64)
    rewarded = np.array([end.reward > 0 for end in ends])
    turns = [length for trajectory in trajectories for length in trajectory.turn_lengths]
    reasons = [end.stop_reason for end in ends]
    return {
        "reward/avg_raw_reward": _mean([end.reward for end in ends]),
        f"reward/avg_pass_at_{samples_per_prompt}": pass_at_n(ends),
        "reward/mean_positive_reward": mean_positive_reward(ends),
        **_spread("generate/{}_num_tokens", lengths),
        **_spread("generate/{}_assistant_tokens", sampled),
        "generate/avg_tokens_non_zero_rewards": _mean(lengths[rewarded]),
        "generate/avg_tokens_zero_rewards": _mean(lengths[~rewarded]),
        **_tail("generate/tokens_per_turn_{}", turns),
        "generate/cut_off_ratio": _mean([reason == "length" for reason in reasons]),
        "generate/environment_timeouts": float(reasons.count("timeout")),
        "generate/batch_num_seq": float(len(trajectories)),
        **_times(ends),
        **environment_metrics(ends),
    }


def evaluation_metrics(
    trajectories: Sequence[Trajectory], *, samples_per_prompt: int, data_sources: Mapping[str, str] | None = None
) -> dict[str, float]:
    """`eval/all/*`, and `eval/{data source}/*` for the sources of prompts (by uid) that are given."""
    ends = [episode[-1] for episode in _episodes(trajectories)]
    by_source: dict[str, list[Trajectory]] = {"all": ends}
    for end in ends if data_sources else ():
        source = (data_sources or {}).get(end.group_id, UNKNOWN_SOURCE)
        by_source.setdefault(source, []).append(end)
    metrics: dict[str, float] = {}
    for source, members in by_source.items():
        metrics[f"eval/{source}/avg_score"] = _mean([end.reward for end in members])
        metrics[f"eval/{source}/pass_at_{samples_per_prompt}"] = pass_at_n(members)
        metrics[f"eval/{source}/mean_positive_reward"] = mean_positive_reward(members)
    return metrics


def source_of(row: PromptRow) -> str:
    """The dataset that a row says it is from, as a part of a metric's name or a file's; SkyRL writes it likewise."""
    return str(row.extras.get(SOURCE_KEY) or UNKNOWN_SOURCE).replace("/", "_")


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
    """What each environment class makes of its episodes' metrics (`aggregate_metrics`; the mean unless it says else).

    `environment/{name}`; with several classes in one batch `environment/{class}/{name}`.
    """
    given: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for trajectory in trajectories:
        if trajectory.environment_metrics:
            given[trajectory.env_class].append(trajectory.environment_metrics)
    several = len({trajectory.env_class for trajectory in trajectories}) > 1
    return {
        f"environment/{f'{env_class}/' if several else ''}{name}": float(value)
        for env_class, metrics in given.items()
        for name, value in _aggregated(env_class, metrics).items()
        if isinstance(value, (bool, int, float))
    }


def _aggregated(env_class: str, metrics: list[dict[str, Any]]) -> dict[str, Any]:
    try:
        found: dict[str, Any] = aggregate_for_environment(env_class, metrics)
    except (AttributeError, ValueError):  # registered by a function, which has no class to ask, or not any more
        found = default_aggregate_metrics(metrics)
    return found


def _episodes(trajectories: Iterable[Trajectory]) -> list[list[Trajectory]]:
    """The steps of each episode, in order; the steps of one lie side by side."""
    episodes: list[list[Trajectory]] = [[]]
    for trajectory in trajectories:
        episodes[-1].append(trajectory)
        if trajectory.is_last_step:
            episodes.append([])
    return [episode for episode in episodes if episode]


def _times(ends: Sequence[Trajectory]) -> dict[str, float]:
    """Seconds of episodes and of groups of them."""
    total = [end.seconds.total for end in ends]
    engine = [end.seconds.engine for end in ends]
    environment = [end.seconds.environment for end in ends]
    other = [max(t - e - v, 0.0) for t, e, v in zip(total, engine, environment, strict=True)]
    groups: dict[str, list[float]] = defaultdict(list)
    for end in ends:
        groups[end.group_id].append(end.seconds.total)
    spreads = [float(np.std(times)) for times in groups.values()]
    relative = [float(np.std(times) / np.mean(times)) for times in groups.values() if np.mean(times) > 0]
    return {
        **_tail("generate/trajectory_time_completion_{}", total),
        **_tail("generate/trajectory_time_llm_{}", engine),
        **_tail("generate/trajectory_time_env_{}", environment),
        **_tail("generate/trajectory_time_other_{}", other),
        **_tail("generate/group_completion_time_{}", [max(times) for times in groups.values()]),
        "generate/intra_group_completion_time_std_mean": _mean(spreads),
        "generate/intra_group_completion_time_cv_mean": _mean(relative),
    }


def _spread(name: str, values: Numbers) -> dict[str, float]:
    found = np.asarray(values, dtype=np.float64) if len(values) else np.zeros(1)
    spread = {"min": found.min(), "max": found.max(), "avg": found.mean(), "std": found.std()}
    return {name.format(kind): float(value) for kind, value in spread.items()}


def _tail(name: str, values: Numbers) -> dict[str, float]:
    if not len(values):
        return {name.format(kind): 0.0 for kind in ("mean", "p90", "max")}
    tail = {"mean": np.mean(values), "p90": np.percentile(values, 90), "max": np.max(values)}
    return {name.format(kind): float(value) for kind, value in tail.items()}


def _mean(values: Numbers) -> float:
    """The mean; 0 for none, as SkyRL logs it."""
    return float(np.mean(values)) if len(values) else 0.0
