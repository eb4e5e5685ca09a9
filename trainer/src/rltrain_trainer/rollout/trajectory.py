"""What one rollout yields: the tokens that were sampled, with what the engine and the environment said of them.

A trajectory is the only thing that passes from rollout to training. It must know neither engines nor torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class VersionSpan:
    """Response tokens [start, end) were sampled under weights `version`."""

    version: int
    start: int
    end: int


@dataclass(frozen=True)
class Trajectory:
    """One sampled response (all turns of it) to one prompt.

    `response_ids`, `rollout_logprobs`, `loss_mask` and `token_rewards` have equal length. The ids are those that were
    sampled, never a re-tokenisation of text. Tokens that the environment wrote have loss_mask 0 and log-probability 0.
    """

    group_id: str  # the prompt's uid: all samples of one prompt share it
    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    rollout_logprobs: tuple[float, ...]  # natural log, at the sampling temperature
    loss_mask: tuple[int, ...]  # 1: sampled by the policy; 0: written by the environment
    token_rewards: tuple[float, ...]
    stop_reason: str  # "stop" | "length"
    version_spans: tuple[VersionSpan, ...]
    environment_metrics: dict[str, float] = field(default_factory=dict)

    @property
    def reward(self) -> float:
        """The undiscounted sum of the rewards of all tokens."""
        return sum(self.token_rewards)
