"""Fixtures that several rooms' tests share. Imports stay inside the fixtures: most tests need no torch."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def python_environment() -> dict[str, str]:
    """Environment of a child Python that is to import what this one can."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a Qwen2 model (two layers, 128 tokens, 512 positions) and its character tokenizer."""
    import string

    import torch
    from tokenizers import pre_tokenizers
    from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

    directory = tmp_path_factory.mktemp("tiny-model")
    # Qwen2's own class: transformers loads whatever lies beside a Qwen2 model as one, with Qwen2's way of splitting.
    as_byte = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    characters = [as_byte.pre_tokenize_str(character)[0][0] for character in string.printable]
    pieces = [*special, *characters, *(f"<|reserved{index}|>" for index in range(128))][:128]
    Qwen2Tokenizer(
        vocab={piece: index for index, piece in enumerate(pieces)},
        merges=[],
        unk_token=special[0],
        eos_token=special[2],
        pad_token=special[0],
        additional_special_tokens=[special[1]],
        chat_template=(
            "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
            "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
        ),
    ).save_pretrained(directory)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=0.1,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
    )
    Qwen2ForCausalLM(config).save_pretrained(directory)
    return directory
