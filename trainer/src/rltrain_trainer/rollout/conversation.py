"""Conversations as tokens: the first prompt, and what stands between one sampled response and the next.

Sampled tokens are never turned into text and back: a longer conversation is the tokens so far plus those that the chat
template puts around the new messages. It must not know environments nor engines.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from transformers import PreTrainedTokenizerBase

Message = dict[str, str]

# Any short conversation that ends with the assistant will do: only what the template writes after it is used.
BASE: tuple[Message, ...] = ({"role": "user", "content": "A"}, {"role": "assistant", "content": "B"})


class ConversationTemplate:
    """A tokenizer's chat template."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """ValueError when the tokenizer cannot hold a conversation."""
        if not tokenizer.chat_template:
            raise ValueError("the tokenizer has no chat template; add chat_template to its tokenizer_config.json")
        if tokenizer.eos_token_id is None:
            raise ValueError("the tokenizer has no end-of-sequence token; add eos_token to its tokenizer_config.json")
        self._tokenizer = tokenizer
        self.eos_token_id: int = int(tokenizer.eos_token_id)

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Tokens of a conversation that the model continues as the assistant."""
        return self._render(messages, continue_as_assistant=True)

    def text(self, token_ids: Sequence[int]) -> str:
        """Text of a response, special tokens left out."""
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=True))

    def continuation(self, observations: Sequence[Message]) -> list[int]:
        """Tokens from behind the response's end-of-sequence token to the start of the next response.

        Some templates write more after that token (ChatML a line break); the model does not sample it, so it belongs
        here. ValueError for templates that render the same beginning otherwise when more follows.
        """
        base = self._render(BASE, continue_as_assistant=False)
        ends = [index for index, token in enumerate(base) if token == self.eos_token_id]
        kept = ends[-1] + 1 if ends else len(base)
        whole = self._render([*BASE, *observations], continue_as_assistant=True)
        if whole[:kept] != base[:kept]:
            raise ValueError(
                "the chat template renders earlier messages differently when others follow, so a conversation of "
                "several turns cannot be continued token by token; use another template or max_turns 1"
            )
        return whole[kept:]

    def _render(self, messages: Sequence[Message], *, continue_as_assistant: bool) -> list[int]:
        tokens = self._tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            add_generation_prompt=continue_as_assistant,
            tokenize=True,
            return_dict=False,
        )
        return cast(list[int], tokens)  # transformers types the result of all its modes at once
