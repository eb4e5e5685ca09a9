"""Conversations as tokens: the first prompt, and what stands between one sampled response and the next.

Sampled tokens are never turned into text and back: a longer conversation is the tokens so far plus those that the chat
template puts around the new messages. It must not know environments nor engines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

from rltrain_api.config import GeneratorConfig
from rltrain_trainer.data.rows import Message
from rltrain_trainer.rollout.templates import named_template

# Any short conversation that ends with the assistant will do: only what the template writes after it is used.
BASE: tuple[Message, ...] = ({"role": "user", "content": "A"}, {"role": "assistant", "content": "B"})


class ConversationTemplate:
    """A tokenizer with a chat template: its own, or `text`; `arguments` are the template's own further ones."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, *, text: str | None = None, arguments: Mapping[str, Any] | None = None
    ) -> None:
        """ValueError when the tokenizer cannot hold a conversation."""
        if not (text or tokenizer.chat_template):
            raise ValueError("the tokenizer has no chat template; add chat_template to its tokenizer_config.json")
        if tokenizer.eos_token_id is None:
            raise ValueError("the tokenizer has no end-of-sequence token; add eos_token to its tokenizer_config.json")
        self._tokenizer = tokenizer
        self._options: dict[str, Any] = {**(arguments or {}), **({} if text is None else {"chat_template": text})}
        self._newest: tuple[list[Message], list[int]] | None = None
        self.eos_token_id: int = int(tokenizer.eos_token_id)

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, config: GeneratorConfig) -> ConversationTemplate:
        """The one that `generator.chat_template` and `generator.chat_template_kwargs` ask for.

        The tokenizer is one that `models.load.load_tokenizer` has given the run's template, where that is a file or one
        of its own.
        """
        return cls(tokenizer, text=named_template(config.chat_template), arguments=config.chat_template_kwargs)

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Tokens of a conversation that the model continues as the assistant."""
        # Samples of one prompt come one after the other, and a template takes longer than all else about them.
        conversation = [dict(message) for message in messages]
        if self._newest is None or self._newest[0] != conversation:
            self._newest = conversation, self._render(messages, continue_as_assistant=True)
        return list(self._newest[1])

    def text(self, token_ids: Sequence[int]) -> str:
        """Text of a response, special tokens left out."""
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=True))

    def plain(self, observations: Sequence[Message]) -> list[int]:
        """Tokens of what the environment said, one after the other, with nothing of a template around it."""
        encode = self._tokenizer.encode
        return [token for message in observations for token in encode(message["content"], add_special_tokens=False)]

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
            **self._options,
        )
        return cast(list[int], tokens)  # transformers types the result of all its modes at once
