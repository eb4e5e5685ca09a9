"""Chat templates by the names that SkyRL gives them (`generator.chat_template`). Both write ChatML.

It must not know of tokenizers.
"""

from __future__ import annotations

from rltrain_api.config import ChatTemplateConfig

_OPENING = "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
_CLOSING = (
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"  # a break is written
)
_WITHOUT_EARLIER_THOUGHTS = (
    "{% if message['role'] == 'assistant' and not loop.last %}"
    "{{ message['content'].split('</think>')[-1].lstrip('\n') }}"
    "{% else %}{{ message['content'] }}{% endif %}"
)

WITH_THINKING = "qwen3_with_thinking"
WITHOUT_THINKING = "qwen3_without_thinking"
NAMED = {
    WITH_THINKING: _OPENING + "{{ message['content'] }}" + _CLOSING,
    WITHOUT_THINKING: _OPENING + _WITHOUT_EARLIER_THOUGHTS + _CLOSING,
}


def named_template(config: ChatTemplateConfig) -> str | None:
    """The Jinja text of one of SkyRL's templates; None for anything else, which is the tokenizer's (`models.load`)."""
    return NAMED.get(config.name_or_path or "") if config.source == "name" else None
