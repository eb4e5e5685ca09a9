"""What one rollout yields: the tokens that were sampled, with what the engine and the environment said of them.

A trajectory is the only thing that passes from rollout to training. It must know neither engines nor torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class VersionSpan:
    """Response tokens [start, end) were sampled under weights `version`."""

    version: int
    start: int
    end: int


@dataclass(frozen=True)
class EpisodeSeconds:
    """Where the time of one episode went, in seconds."""

    total: float = 0.0
    engine: float = 0.0  # waiting for responses
    environment: float = 0.0  # waiting for the environment


@dataclass(frozen=True)
class Trajectory:
    """One sampled response (all turns of it) to one prompt; with step-wise trajectories, one turn of it.

    `response_ids`, `rollout_logprobs`, `loss_mask` and `token_rewards` have equal length. The ids are those that were
    sampled, never a re-tokenisation of text. Tokens that the environment wrote have loss_mask 0 and log-probability 0.
    """

    group_id: str  # the prompt's uid: all samples of one prompt share it
    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    rollout_logprobs: tuple[float, ...]  # natural log, at the sampling temperature
    loss_mask: tuple[int, ...]  # 1: sampled by the policy; 0: written by the environment
    token_rewards: tuple[float, ...]
    stop_reason: str  # "stop" | "length" | "timeout": the environment did not answer, and nothing of it is trained on
    version_spans: tuple[VersionSpan, ...]
    environment_metrics: dict[str, Any] = field(default_factory=dict)  # as the environment gave them
    env_class: str = ""
    turn_lengths: tuple[int, ...] = ()  # sampled tokens of each turn
    sample: int = 0  # which of the samples of its prompt; all steps of one episode share it
    is_last_step: bool = True  # False for all steps but the last of a step-wise trajectory
    seconds: EpisodeSeconds = field(default=EpisodeSeconds(), compare=False)

    @property
    def reward(self) -> float:
        """The undiscounted sum of the rewards of all tokens."""
        return sum(self.token_rewards)
