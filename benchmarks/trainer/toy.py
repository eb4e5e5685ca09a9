"""The toy that every side of the benchmarks trains: a Qwen2 over single bytes, random prompts, a reward of one line.

The end-of-sequence token lies outside of the model's vocabulary, so that no response ends early and every side
generates the same number of tokens.
"""

from __future__ import annotations

import random
import string
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import skyrl_gym  # type: ignore[import-untyped]  # ships no types
import torch
from skyrl_gym.envs.base_text_env import BaseTextEnv, BaseTextEnvStepOutput  # type: ignore[import-untyped]  # as above
from tokenizers import pre_tokenizers
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

ENVIRONMENT = "vowels"
END = "<|end|>"
CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


@dataclass(frozen=True)
class Shape:
    """One step's sizes."""

    hidden: int = 64
    layers: int = 2
    heads: int = 2
    prompts: int = 16
    samples: int = 8
    prompt_tokens: int = 16
    response_tokens: int = 48

    @property
    def sequences(self) -> int:
        """Responses of one step."""
        return self.prompts * self.samples

    @property
    def length(self) -> int:
        """Tokens of one sequence."""
        return self.prompt_tokens + self.response_tokens


def share_of_vowels(response: str) -> float:
    """The reward."""
    return sum(character in "aeiou" for character in response) / max(len(response), 1)


class VowelEnvironment(BaseTextEnv):  # type: ignore[misc]  # as above
    """One turn, rewarded by `share_of_vowels`."""

    def __init__(self, env_config: Any = None, extras: Any = None) -> None:
        super().__init__()

    def step(self, action: str) -> BaseTextEnvStepOutput:
        """The end of the episode."""
        return BaseTextEnvStepOutput(observations=[], reward=share_of_vowels(action), done=True, metadata={})


def register_environment() -> None:
    """Let rollouts find the environment by its name."""
    skyrl_gym.register(id=ENVIRONMENT, entry_point=VowelEnvironment)


def make_model(directory: Path, shape: Shape) -> Qwen2Tokenizer:
    """Write model (random weights, 256 tokens) and tokenizer to `directory`."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Qwen2Tokenizer(
        vocab={piece: index for index, piece in enumerate([*alphabet, END])},
        merges=[],
        eos_token=END,
        pad_token=END,
        unk_token=None,
        chat_template=CHAT_TEMPLATE,
    )
    tokenizer.save_pretrained(directory)
    config = Qwen2Config(
        vocab_size=len(alphabet),
        hidden_size=shape.hidden,
        intermediate_size=2 * shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=2 * shape.length,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    torch.manual_seed(0)
    Qwen2ForCausalLM(config).save_pretrained(directory)
    return tokenizer


def prompts(count: int, tokens: int) -> list[str]:
    """`count` texts of `tokens` letters, each a token."""
    generator = random.Random(1)  # noqa: S311 - reproducible data, not a secret
    return ["".join(generator.choices(string.ascii_letters, k=tokens)) for _ in range(count)]
