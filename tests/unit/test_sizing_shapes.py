"""Parameters counted from config.json equal those of transformers' own models, for every family that is claimed."""

from __future__ import annotations

from typing import Any

import pytest

from rltrain_api.sizing.shapes import MAX_LAYERS, ModelShape, read_shape

SMALL: dict[str, Any] = {
    "vocab_size": 1003,
    "hidden_size": 96,
    "intermediate_size": 200,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
}
EXPERTS: dict[str, Any] = {"moe_intermediate_size": 40, "num_experts_per_tok": 2, "num_experts": 5}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama with everything": (
        "llama",
        {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True, "head_dim": 32},
    ),
    "mistral": ("mistral", {}),
    "mistral with its own head size": ("mistral", {"head_dim": 20}),
    "qwen2": ("qwen2", {}),
    "qwen2, tied": ("qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("qwen3", {}),
    "qwen3 with biases": ("qwen3", {"attention_bias": True, "head_dim": 24}),
    "gemma": ("gemma", {}),
    "gemma, not tied": ("gemma", {"tie_word_embeddings": False}),
    "gemma2": ("gemma2", {}),
    "gemma3_text": ("gemma3_text", {}),
    "mixtral": ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen2_moe, every other layer": (
        "qwen2_moe",
        {**EXPERTS, "shared_expert_intermediate_size": 64, "decoder_sparse_step": 2},
    ),
    "qwen2_moe, one dense layer": (
        "qwen2_moe",
        {**EXPERTS, "shared_expert_intermediate_size": 64, "mlp_only_layers": [1], "qkv_bias": False},
    ),
    "qwen3_moe": ("qwen3_moe", {**EXPERTS, "head_dim": 24}),
    "qwen3_moe, one dense layer": ("qwen3_moe", {**EXPERTS, "mlp_only_layers": [0], "attention_bias": True}),
}


@pytest.mark.parametrize("case", FAMILIES)
def test_parameters_are_those_of_transformers(case: str) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    model_type, settings = FAMILIES[case]
    written = {"model_type": model_type, **SMALL, **settings}
    config = AutoConfig.for_model(**written)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]  # untyped
            config, attn_implementation="eager"
        )
    count = sum(parameter.numel() for parameter in model.parameters())
    for document in (written, config.to_dict()):  # as a person writes it, and as transformers saves it
        shape = read_shape(document)
        assert shape.parameters == count
        assert shape.layers == SMALL["num_hidden_layers"]
        blocks = [sum(p.numel() for p in layer.parameters()) for layer in model.model.layers]
        assert [block.parameters for block in shape.blocks] == blocks


# Published sizes: 494,032,768 and 1,543,714,304 are what the model cards' weights add up to; 30.5 and 3.3 billion and
# 46.7 billion are the cards' own rounding.
PUBLISHED: dict[str, tuple[dict[str, Any], int, int]] = {
    "Qwen2.5-0.5B": (
        {
            "model_type": "qwen2",
            "vocab_size": 151936,
            "hidden_size": 896,
            "intermediate_size": 4864,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "tie_word_embeddings": True,
        },
        494_032_768,
        1,
    ),
    "Qwen2.5-1.5B": (
        {
            "model_type": "qwen2",
            "vocab_size": 151936,
            "hidden_size": 1536,
            "intermediate_size": 8960,
            "num_hidden_layers": 28,
            "num_attention_heads": 12,
            "num_key_value_heads": 2,
            "tie_word_embeddings": True,
        },
        1_543_714_304,
        1,
    ),
    "Mixtral-8x7B": (
        {
            "model_type": "mixtral",
            "vocab_size": 32000,
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
        },
        46_700_000_000,
        100_000_000,
    ),
    "Qwen3-30B-A3B": (
        {
            "model_type": "qwen3_moe",
            "vocab_size": 151936,
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "num_hidden_layers": 48,
            "num_attention_heads": 32,
            "num_key_value_heads": 4,
            "head_dim": 128,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "moe_intermediate_size": 768,
        },
        30_500_000_000,
        100_000_000,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_of_published_models(name: str) -> None:
    config, count, tolerance = PUBLISHED[name]
    assert abs(read_shape(config).parameters - count) < tolerance


def test_where_the_parameters_are() -> None:
    shape = read_shape({"model_type": "qwen3_moe", **SMALL, **EXPERTS, "mlp_only_layers": [0], "head_dim": 16})
    dense, mixture, _ = shape.blocks
    assert (dense.experts, mixture.experts) == (0, 5 * 3 * 96 * 40)
    assert (dense.widths, mixture.widths) == ((200,), (40, 40))
    assert shape.expert_parameters == 2 * mixture.experts
    assert shape.largest_block == max(dense.parameters, mixture.parameters)
    assert shape.root_parameters == 2 * 1003 * 96 + 96


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in {"model_type": "llama", **SMALL}.items() if name != key}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another family": ({"model_type": "gpt2", **SMALL}, "model_type 'gpt2' is none of gemma, .*number of parameters"),
    "no family": (SMALL, "model_type None"),
    "a tokenizer's file": ({"tokenizer_class": "X"}, "model_type None"),
    "no width": (without("hidden_size"), "hidden_size is missing"),
    "no layers": (without("num_hidden_layers"), "num_hidden_layers is missing"),
    "a text": ({"model_type": "llama", **SMALL, "vocab_size": "1003"}, "vocab_size is '1003'"),
    "zero": ({"model_type": "llama", **SMALL, "num_attention_heads": 0}, "num_attention_heads is 0"),
    "a truth": ({"model_type": "llama", **SMALL, "intermediate_size": True}, "intermediate_size is True"),
    "too many layers": ({"model_type": "llama", **SMALL, "num_hidden_layers": MAX_LAYERS + 1}, "no model has so many"),
    "odd heads": ({"model_type": "llama", **SMALL, "num_key_value_heads": 4}, "does not divide num_attention_heads 6"),
    "no experts": ({"model_type": "mixtral", **SMALL}, "num_local_experts is missing"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_known_model_is_refused(case: str) -> None:
    config, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        read_shape(config)


def test_defaults_where_an_old_config_is_silent() -> None:
    """Llama's first configs had neither key-value heads nor a head size."""
    shape: ModelShape = read_shape(without("num_key_value_heads"))
    assert (shape.key_value_heads, shape.head_size, shape.tied) == (6, 16, False)
