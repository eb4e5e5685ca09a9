"""One response in the making: its tokens, log-probabilities, weight versions, and when it ends.

Pure bookkeeping. It must not know the model nor HTTP.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from rltrain_trainer.engines.contract import FinishReason, TokenSampling

Decode = Callable[[list[int]], str]

STOP_WINDOW_MARGIN = 8  # tokens decoded beyond a stop string's length: a token may be part of a character


@dataclass(frozen=True)
class StopRule:
    """What ends a response before its `max_tokens`."""

    token_ids: frozenset[int]
    strings: tuple[str, ...]
    decode: Decode

    @classmethod
    def of(cls, sampling: TokenSampling, eos_token_ids: frozenset[int], decode: Decode) -> StopRule:
        """The rule of one request."""
        token_ids = frozenset(sampling.stop_token_ids)
        return cls(token_ids if sampling.ignore_eos else token_ids | eos_token_ids, sampling.stop, decode)

    def matches(self, response: list[int]) -> int | str | None:
        """The stop token or stop string that the newest token completes, if any."""
        if response[-1] in self.token_ids:
            return response[-1]
        if not self.strings:
            return None
        # A token nearly always adds a character, so this many tokens hold the longest string; an earlier occurrence
        # would have ended the response before.
        window = max(map(len, self.strings)) + STOP_WINDOW_MARGIN
        text = self.decode(response[-window:])
        for string in self.strings:
            if string in text:
                return string
        return None


@dataclass(eq=False)
class Sequence:
    """One response. `versions` lists (weight version, index of its first token), in order."""

    request_id: str
    prompt: list[int]
    sampling: TokenSampling
    seed: int
    stop_rule: StopRule
    max_length: int  # prompt and response together
    response: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    versions: list[tuple[str, int]] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None

    @property
    def length(self) -> int:
        """Tokens so far."""
        return len(self.prompt) + len(self.response)

    @property
    def tokens(self) -> list[int]:
        """Prompt and response so far."""
        return self.prompt + self.response

    @property
    def newest(self) -> int:
        """The last token, of the response or of the prompt."""
        return self.response[-1] if self.response else self.prompt[-1]

    @property
    def remaining(self) -> int:
        """Tokens that the response can still grow by."""
        return min(self.sampling.max_tokens - len(self.response), self.max_length - self.length)

    def extend(self, tokens: list[int], logprobs: list[float], version: str) -> None:
        """Take sampled tokens, at least one, and decide whether the response ends with the last of them.

        None before the last may end it.
        """
        if not self.versions or self.versions[-1][0] != version:
            self.versions.append((version, len(self.response)))
        self.response += tokens
        self.logprobs += logprobs
        self.stop_reason = self.stop_rule.matches(self.response)
        if self.stop_reason is not None:
            self.finish_reason = FinishReason.STOP
        elif self.remaining <= 0:
            self.finish_reason = FinishReason.LENGTH

    def spans(self) -> list[dict[str, object]]:
        """The weight versions as vLLM reports them: `[{version, start, end}]` over response tokens."""
        starts = [start for _, start in self.versions]
        ends = [*starts[1:], len(self.response)]
        return [
            {"version": version, "start": start, "end": end}
            for (version, start), end in zip(self.versions, ends, strict=True)
        ]
