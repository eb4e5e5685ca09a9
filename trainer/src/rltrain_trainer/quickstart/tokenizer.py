"""The tokenizer of the quickstart: Qwen2's byte-level BPE, with merges learned from the quickstart's own words.

It has the very structure of Qwen2's tokenizer, because loaders choose the class by the model's type: transformers 5
loads whatever lies next to a Qwen2 model as `Qwen2Tokenizer`, with Qwen2's way of splitting, so a tokenizer of another
structure would come back as another one, silently. Digits are single tokens (the model calculates digit by digit),
every word of the problems is one token, and any text comes back exactly. It must not know how the model or the problems
are used.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from tokenizers import pre_tokenizers, trainers
from transformers import Qwen2Tokenizer

MESSAGE_START = "<|im_start|>"
MESSAGE_END = "<|im_end|>"
PADDING = "<|endoftext|>"

# Far above what the quickstart's words need: training ends when every word is one token, not at this bound.
MAX_VOCABULARY = 4096

# ChatML as Qwen2 has it, without the system message that Qwen2 adds by itself.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
ROLES = "system\nuser\nassistant\n"


def build_tokenizer(texts: Iterable[str], max_length: int) -> Qwen2Tokenizer:
    """A tokenizer for which each word of `texts` is one token; `max_length` is the model's number of positions.

    Equal texts give equal tokenizers. The end of a message is the end of a response.
    """
    blank = Qwen2Tokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=MAX_VOCABULARY,
        min_frequency=1,
        show_progress=False,
        special_tokens=[PADDING, MESSAGE_START, MESSAGE_END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    blank.backend_tokenizer.train_from_iterator([*texts, ROLES], trainer=trainer)
    learned = json.loads(blank.backend_tokenizer.to_str())["model"]
    return Qwen2Tokenizer(
        vocab=learned["vocab"],
        merges=[tuple(merge) for merge in learned["merges"]],  # type: ignore[misc]  # declared as text, used as pairs
        eos_token=MESSAGE_END,
        pad_token=PADDING,
        additional_special_tokens=[MESSAGE_START],
        chat_template=CHAT_TEMPLATE,
        model_max_length=max_length,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def render_prompt(tokenizer: Qwen2Tokenizer, question: str) -> str:
    """The text that the model continues: the question as the user's message, then the start of the answer."""
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False
    )
    assert isinstance(rendered, str)
    return rendered
