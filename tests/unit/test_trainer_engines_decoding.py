"""The step of the Llama family gives what transformers' modules give, and goes on doing so when parameters change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from rltrain_trainer.engines.builtin.decoding import DecodingStep
from rltrain_trainer.engines.builtin.runner import ModelRunner

torch.set_num_threads(1)

CPU = torch.device("cpu")
SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}

YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}

FAMILIES: dict[str, Callable[[], PreTrainedModel]] = {
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES)),
    "qwen3, heads of another size": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=16)),
    "llama, tied and with biases": lambda: LlamaForCausalLM(
        LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True, tie_word_embeddings=True)
    ),
    "llama, stretched positions": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, rope_parameters=YARN)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=None)),
}


def decoded(model: PreTrainedModel, lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits after one more token on sequences of these lengths: by the runner, and by plain forward passes."""
    generator = torch.Generator().manual_seed(5)
    sequences = [torch.randint(0, 97, (length + 1,), generator=generator) for length in lengths]
    runner = ModelRunner(model, max_sequences=8, max_length=32, cache_bytes=2**24, device=CPU)
    with torch.inference_mode():
        runner.prefill(0, [sequence[:-1].tolist() for sequence in sequences])
        found = runner.decode(
            torch.stack([sequence[-1] for sequence in sequences]),
            torch.tensor(lengths),
            max(lengths) + 1,
            even=len(set(lengths)) == 1,
        )
        expected = torch.cat([model(input_ids=sequence[None], use_cache=False).logits[:, -1] for sequence in sequences])
    return found, expected


@pytest.mark.parametrize("lengths", [[5, 5, 5], [3, 9, 1, 20]], ids=["even", "uneven"])
@pytest.mark.parametrize("make", FAMILIES.values(), ids=FAMILIES.keys())
def test_a_step_equals_transformers(make: Callable[[], PreTrainedModel], lengths: list[int]) -> None:
    torch.manual_seed(0)
    model = make().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)  # norms and biases begin at ones and zeros
    assert DecodingStep.fits(model)
    torch.testing.assert_close(*decoded(model, lengths), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "make",
    [
        lambda: OPTForCausalLM(
            OPTConfig(vocab_size=97, hidden_size=48, ffn_dim=80, num_hidden_layers=2, num_attention_heads=6)
        ),
        lambda: LlamaForCausalLM(LlamaConfig(**SIZES, rope_parameters=DYNAMIC)),
    ],
    ids=["another family", "angles that depend on the length"],
)
@pytest.mark.parametrize("lengths", [[5, 5], [3, 9]], ids=["even", "uneven"])
def test_what_does_not_fit_is_left_to_transformers(make: Callable[[], PreTrainedModel], lengths: list[int]) -> None:
    torch.manual_seed(0)
    model = make().eval()
    assert not DecodingStep.fits(model)
    torch.testing.assert_close(*decoded(model, lengths), atol=1e-4, rtol=1e-4)


def test_parameters_that_are_updated_in_place_are_the_ones_computed_with() -> None:
    torch.manual_seed(0)
    model = FAMILIES["qwen2"]().eval()
    names = [name for name, _ in model.named_parameters()]
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    runner = ModelRunner(model, max_sequences=2, max_length=32, cache_bytes=2**24, device=CPU)
    assert [name for name, _ in model.named_parameters()] == names
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, before[name], rtol=0, atol=0)

    def logits() -> torch.Tensor:
        with torch.inference_mode():
            runner.prefill(0, [[1, 2, 3]])
            return runner.decode(torch.tensor([4]), torch.tensor([3]), 4, even=True)

    old = logits()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter + torch.randn_like(parameter) * 0.2)
    assert (logits() - old).abs().max() > 0.1
    with torch.inference_mode():
        expected = model(input_ids=torch.tensor([[1, 2, 3, 4]]), use_cache=False).logits[:, -1]
    torch.testing.assert_close(logits(), expected, atol=1e-4, rtol=1e-4)
