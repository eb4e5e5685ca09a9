"""The tiny Qwen2 of the quickstart: its shape, and sampling answers from it.

Real in every part that a trainer or an engine touches (the architecture, tied embeddings, the generation defaults),
small enough to train and to serve on one CPU core. It must not know what the answers mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from rltrain_trainer.quickstart.tokenizer import render_prompt

MAX_POSITIONS = 128
# vLLM's attention on CPU accepts heads of 32 and 64, not of 16.
HEAD_SIZE = 32


def build_model(tokenizer: Qwen2Tokenizer, seed: int, hidden_size: int, layers: int) -> Qwen2ForCausalLM:
    """A float32 Qwen2 with random weights drawn from `seed`; `hidden_size` is a multiple of `HEAD_SIZE`."""
    heads = hidden_size // HEAD_SIZE
    assert heads * HEAD_SIZE == hidden_size
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=MAX_POSITIONS,
        max_window_layers=layers,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen2ForCausalLM(config)


def sample_answers(
    model: Qwen2ForCausalLM,
    tokenizer: Qwen2Tokenizer,
    questions: Sequence[str],
    *,
    seed: int,
    samples: int,
    max_new_tokens: int,
) -> list[str]:
    """`samples` answers for each question at temperature 1 over the whole vocabulary, those of one question together.

    The caller's random state stays as it was.
    """
    prompts = [render_prompt(tokenizer, question) for question in questions for _ in range(samples)]
    inputs = tokenizer(prompts, padding=True, padding_side="left", return_tensors="pt")
    was_training = model.training
    model.train(False)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        output = model.generate(  # type: ignore[misc]  # the mixin's protocol for `self` leaves its own models out
            **inputs, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=max_new_tokens
        )
    model.train(was_training)
    return tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
