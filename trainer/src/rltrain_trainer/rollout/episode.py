"""One episode's record while it is being played: the tokens, and which of them were sampled, rewarded, under what.

Bookkeeping that ends in trajectories. It must not know engines nor environments.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rltrain_api.config import GeneratorConfig
from rltrain_trainer.data.rows import Message, PromptRow
from rltrain_trainer.engines.contract import FinishReason, GenerateResult
from rltrain_trainer.rollout.conversation import ConversationTemplate
from rltrain_trainer.rollout.trajectory import EpisodeSeconds, Trajectory, VersionSpan

STOP, LENGTH, TIMEOUT = "stop", "length", "timeout"


class TokenRecord:
    """A prompt and the response tokens so far, all turns of them."""

    def __init__(self, prompt_ids: Sequence[int]) -> None:
        self.prompt_ids = tuple(prompt_ids)
        self.response_ids: list[int] = []
        self.logprobs: list[float] = []
        self.loss_mask: list[int] = []
        self.rewards: list[float] = []
        self.spans: list[VersionSpan] = []
        self.turn_lengths: list[int] = []
        self.stop_reason = STOP

    @property
    def tokens(self) -> tuple[int, ...]:
        """Prompt and response so far: what the model continues."""
        return (*self.prompt_ids, *self.response_ids)

    def sampled(self, result: GenerateResult) -> None:
        """Add what the model sampled in one turn."""
        offset = len(self.response_ids)
        self.spans += [VersionSpan(s.version, s.start + offset, s.end + offset) for s in result.spans]
        self._extend(result.token_ids, result.logprobs, mask=1)
        self.turn_lengths.append(len(result.token_ids))
        self.stop_reason = LENGTH if result.finish_reason == FinishReason.LENGTH else STOP

    def rewarded(self, reward: float) -> None:
        """Put a turn's reward on its last sampled token. To be called before `observed`."""
        self.rewards[-1] += reward

    def observed(self, token_ids: Sequence[int]) -> None:
        """Add tokens that the policy did not sample: what the environment said, and the template around it."""
        self._extend(token_ids, [0.0] * len(token_ids), mask=0)

    def without_last(self) -> None:
        """Take back the last sampled token, whose reward goes to the one before it."""
        reward = self.rewards.pop()
        for values in (self.response_ids, self.logprobs, self.loss_mask):
            values.pop()
        self.rewards[-1] += reward
        self.turn_lengths[-1] -= 1
        last = self.spans.pop()
        if last.end - last.start > 1:
            self.spans.append(VersionSpan(last.version, last.start, last.end - 1))

    def _extend(self, token_ids: Sequence[int], logprobs: Sequence[float], *, mask: int) -> None:
        self.response_ids += token_ids
        self.logprobs += logprobs
        self.loss_mask += [mask] * len(token_ids)
        self.rewards += [0.0] * len(token_ids)


class Episode:
    """Turns of one episode, as training will see them.

    One trajectory holds all turns. Between two of them stand the tokens that the chat template writes around what the
    environment said, or, without `use_conversation_multi_turn`, only its words, as if the assistant had said them. With
    `step_wise_trajectories` every turn is a trajectory whose prompt is the conversation so far, rendered anew.
    """

    def __init__(
        self,
        row: PromptRow,
        sample: int,
        conversation: Sequence[Message],
        template: ConversationTemplate,
        generator: GeneratorConfig,
    ) -> None:
        """conversation: what the environment begins with."""
        self._row = row
        self.sample = sample
        self._history = [dict(message) for message in conversation]
        self._template = template
        self._generator = generator
        self._records = [TokenRecord(template.prompt(conversation))]

    @property
    def tokens(self) -> tuple[int, ...]:
        """What the model continues."""
        return self._records[-1].tokens

    @property
    def turns(self) -> int:
        """Turns of the model so far."""
        return sum(len(record.turn_lengths) for record in self._records)

    def sampled(self, result: GenerateResult) -> str:
        """Add a turn of the model; its text."""
        self._records[-1].sampled(result)
        return self._template.text(result.token_ids)

    def rewarded(self, reward: float) -> None:
        """Add the turn's reward."""
        self._records[-1].rewarded(reward)

    def observed(self, action: str, observations: Sequence[Message]) -> bool:
        """Add what the environment said to `action`; whether the model has room, and something, to go on from."""
        if self._generator.step_wise_trajectories:
            self._history += [{"role": "assistant", "content": action}, *map(dict, observations)]
            following = TokenRecord(self._template.prompt(self._history))
            if self._fits(following):
                self._records.append(following)
                return True
        elif self._generator.use_conversation_multi_turn:
            self._observed_in_a_message(observations)
        elif not self._observed_in_place(observations):
            return False
        if not self._generator.step_wise_trajectories and self._fits(self._records[-1]):
            return True
        self._records[-1].stop_reason = LENGTH
        return False

    def timed_out(self) -> None:
        """The environment does not answer."""
        self._records[-1].stop_reason = TIMEOUT

    def trajectories(self, metrics: dict[str, Any], seconds: EpisodeSeconds) -> list[Trajectory]:
        """The finished episode. Overlong filtering takes a cut-off response out of the loss, and keeps its reward."""
        last = len(self._records) - 1
        return [
            self._trajectory(record, metrics if index == last else {}, seconds, is_last=index == last)
            for index, record in enumerate(self._records)
        ]

    def _observed_in_a_message(self, observations: Sequence[Message]) -> None:
        record, end = self._records[-1], self._template.eos_token_id
        if record.response_ids[-1] != end and self._generator.append_eos_token_after_stop_str_in_multi_turn:
            record.observed([end])  # a stop string ended the turn: close the message
        record.observed(self._template.continuation(observations))

    def _observed_in_place(self, observations: Sequence[Message]) -> bool:
        """False when the model has said nothing but that it is done."""
        record = self._records[-1]
        if record.response_ids[-1] == self._template.eos_token_id:
            if record.turn_lengths[-1] == 1:
                return False
            record.without_last()  # the same message goes on
        record.observed(self._template.plain(observations))
        return True

    def _fits(self, record: TokenRecord) -> bool:
        assert self._generator.max_input_length is not None, "resolve() sets max_input_length"
        return len(record.tokens) <= self._generator.max_input_length

    def _trajectory(
        self, record: TokenRecord, metrics: dict[str, Any], seconds: EpisodeSeconds, *, is_last: bool
    ) -> Trajectory:
        count, stopped = len(record.response_ids), record.stop_reason == STOP
        masked = self._generator.apply_overlong_filtering and not stopped
        unrewarded = self._generator.zero_reward_on_non_stop and not stopped
        return Trajectory(
            group_id=self._row.uid,
            prompt_ids=record.prompt_ids,
            response_ids=tuple(record.response_ids),
            rollout_logprobs=tuple(record.logprobs),
            loss_mask=(0,) * count if masked else tuple(record.loss_mask),
            token_rewards=(0.0,) * count if unrewarded else tuple(record.rewards),
            stop_reason=record.stop_reason,
            version_spans=tuple(record.spans),
            environment_metrics=metrics,
            env_class=self._row.env_class,
            turn_lengths=tuple(record.turn_lengths),
            sample=self.sample,
            is_last_step=is_last,
            seconds=seconds,
        )
