"""One episode's record while it is being played: the tokens, and which of them were sampled, rewarded, under what.

Pure bookkeeping that ends in a Trajectory. It must not know engines, environments nor tokenizers.
"""

from __future__ import annotations

from collections.abc import Sequence

from rltrain_trainer.engines.contract import FinishReason, GenerateResult
from rltrain_trainer.rollout.trajectory import Trajectory, VersionSpan


class EpisodeRecord:
    """Response tokens so far, all turns of them."""

    def __init__(self, group_id: str, prompt_ids: Sequence[int]) -> None:
        self._group_id = group_id
        self._prompt_ids = tuple(prompt_ids)
        self._response_ids: list[int] = []
        self._logprobs: list[float] = []
        self._loss_mask: list[int] = []
        self._rewards: list[float] = []
        self._spans: list[VersionSpan] = []
        self._stop_reason = "stop"

    @property
    def tokens(self) -> tuple[int, ...]:
        """Prompt and response so far: what the model continues."""
        return (*self._prompt_ids, *self._response_ids)

    def sampled(self, result: GenerateResult) -> None:
        """Add what the model sampled in one turn."""
        offset = len(self._response_ids)
        self._spans += [VersionSpan(s.version, s.start + offset, s.end + offset) for s in result.spans]
        self._extend(result.token_ids, result.logprobs, mask=1)
        self._stop_reason = "length" if result.finish_reason == FinishReason.LENGTH else "stop"

    def rewarded(self, reward: float) -> None:
        """Put a turn's reward on its last sampled token. To be called before `observed`."""
        self._rewards[-1] += reward

    def observed(self, token_ids: Sequence[int]) -> None:
        """Add tokens that the policy did not sample: what the environment said, and the template around it."""
        self._extend(token_ids, [0.0] * len(token_ids), mask=0)

    def cut_off(self) -> None:
        """Note that there was no room for another turn."""
        self._stop_reason = "length"

    def trajectory(
        self, metrics: dict[str, float], *, zero_reward_on_non_stop: bool, apply_overlong_filtering: bool
    ) -> Trajectory:
        """The finished episode. Overlong filtering takes a cut-off response out of the loss, and keeps its reward."""
        stopped = self._stop_reason == "stop"
        count = len(self._response_ids)
        masked = apply_overlong_filtering and not stopped
        unrewarded = zero_reward_on_non_stop and not stopped
        return Trajectory(
            group_id=self._group_id,
            prompt_ids=self._prompt_ids,
            response_ids=tuple(self._response_ids),
            rollout_logprobs=tuple(self._logprobs),
            loss_mask=(0,) * count if masked else tuple(self._loss_mask),
            token_rewards=(0.0,) * count if unrewarded else tuple(self._rewards),
            stop_reason=self._stop_reason,
            version_spans=tuple(self._spans),
            environment_metrics=metrics,
        )

    def _extend(self, token_ids: Sequence[int], logprobs: Sequence[float], *, mask: int) -> None:
        self._response_ids += token_ids
        self._logprobs += logprobs
        self._loss_mask += [mask] * len(token_ids)
        self._rewards += [0.0] * len(token_ids)
