"""Memory formulas of training, against what torch keeps for small models and against the papers' own numbers."""

from __future__ import annotations

from typing import Any

import pytest

from rltrain_api.sizing import engines, training
from rltrain_api.sizing.shapes import ModelShape, read_shape

SMALL: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {"head_dim": 32},
    "mistral": {},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": {"head_dim": 32, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 128},
}
BATCH, LENGTH = 2, 64
TOKENS = BATCH * LENGTH
HEAD_INPUT = TOKENS * SMALL["hidden_size"] * 2  # kept by the output embedding, which is not part of the body


def shape_of(family: str, **changes: Any) -> ModelShape:
    return read_shape({"model_type": family, **SMALL, **FAMILIES[family], **changes})


def kept_bytes(family: str, *, padded: bool, checkpointing: bool) -> int:
    """Bytes that torch keeps between forward and backward pass of the model's body, in bfloat16."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(family, **SMALL, **FAMILIES[family])
    model = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]  # untyped
        config, dtype=torch.bfloat16, attn_implementation="sdpa"
    )
    model.train()
    if checkpointing:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.Tensor] = {}  # by storage; holding the tensor keeps its address from being used again

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in parameters:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    mask = torch.ones((BATCH, LENGTH), dtype=torch.long)
    if padded:
        mask[0, : LENGTH // 4] = 0
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.base_model(input_ids=torch.zeros_like(mask), attention_mask=mask, use_cache=False)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("padded", [False, True], ids=["packed", "padded"])
@pytest.mark.parametrize("family", FAMILIES)
def test_activations_are_what_torch_keeps(family: str, padded: bool) -> None:
    estimate = training.activation_bytes(
        shape_of(family), TOKENS, 2, checkpointing=False, masked_length=LENGTH if padded else 0
    )
    measured = kept_bytes(family, padded=padded, checkpointing=False)
    assert estimate - HEAD_INPUT == pytest.approx(measured, rel=0.02)


def test_with_checkpointing_torch_keeps_the_inputs_of_blocks() -> None:
    """The estimate adds one block, which the backward pass computes again."""
    estimate = training.activation_bytes(shape_of("qwen2"), TOKENS, 2, checkpointing=True)
    three, four = (
        training.activation_bytes(shape_of("qwen2", num_hidden_layers=layers), TOKENS, 2, checkpointing=False)
        for layers in (3, 4)
    )
    one_block = four - three
    measured = kept_bytes("qwen2", padded=False, checkpointing=True)
    assert estimate - one_block - HEAD_INPUT == pytest.approx(measured, rel=0.02)


def test_a_block_is_what_korthikanti_et_al_count() -> None:
    """Their 34·s·b·h (without scores) less 2 of dropout masks; the gate adds two tensors of 4h, float32 norms 8h.

    The last norm and the output embedding's input, which they leave out, are 6h and 2h.
    """
    hidden = 1024
    config = {"model_type": "llama", "vocab_size": 512, "hidden_size": hidden, "intermediate_size": 4 * hidden}
    shape = read_shape({**config, "num_hidden_layers": 1, "num_attention_heads": 8})
    ours = training.activation_bytes(shape, 1, 2, checkpointing=False) / hidden
    assert ours == pytest.approx((34 - 2) + 2 * 4 * 2 + 8 + (6 + 2), rel=0.01)


def test_states_are_those_of_zero_stage_3() -> None:
    """Rajbhandari et al.: 16 bytes per parameter with Adam, divided by the GPUs; a 7.5B model on 64 GPUs: 1.9 GB."""
    weights_and_gradients = 2 * training.per_gpu(7_500_000_000, training.FLOAT32, 64)
    moments = training.per_gpu(7_500_000_000, training.MOMENTS, 64)
    assert weights_and_gradients + moments == pytest.approx(1.9e9, rel=0.02)


def test_gathered_layers() -> None:
    shape = shape_of("llama")
    block, root = shape.largest_block, shape.root_parameters
    assert training.gathered_bytes(shape, 2, keeps_all=False) == 2 * (root + 2 * block)
    assert training.gathered_bytes(shape, 2, keeps_all=True) == 2 * shape.parameters
    one_layer = shape_of("llama", num_hidden_layers=1)
    assert training.gathered_bytes(one_layer, 2, keeps_all=False) == 2 * one_layer.parameters
    assert training.whole_gradient_bytes(shape, 2) == 6 * max(root, block)


def test_the_trainers_and_engines_own_numbers() -> None:
    """rltrain_api cannot import the trainer, so it repeats a few of its numbers; here they are compared."""
    from rltrain_trainer.engines.builtin.__main__ import parse_arguments
    from rltrain_trainer.engines.builtin.service import DEFAULT_CACHE_BYTES
    from rltrain_trainer.models.logprobs import CHUNK_ELEMENTS

    assert training.LOGITS_AT_ONCE == CHUNK_ELEMENTS
    assert engines.BUILTIN_CACHE_BYTES == DEFAULT_CACHE_BYTES
    assert parse_arguments(["--model", "x"]).max_num_seqs == engines.BUILTIN_SEQUENCES


def test_logits() -> None:
    shape = shape_of("qwen2", vocab_size=151_936)
    chunk = training.LOGITS_AT_ONCE // 151_936
    few, many = training.chunked_logits_bytes(shape, 10), training.chunked_logits_bytes(shape, 10**9)
    assert few == 4 * 151_936 * (3 * 10 + 128)
    assert many == 4 * 151_936 * (3 * chunk + 128)
    assert training.whole_logits_bytes(shape, 1000, 2, in_place=True) == 1000 * 151_936 * 2
    assert training.whole_logits_bytes(shape, 1000, 2, in_place=False) == 3 * 1000 * 151_936 * 2


ADAPTERS: dict[str, tuple[str, str | None, int]] = {
    # q and o: 128 -> 128; k and v: 128 -> 32; gate and up: 128 -> 512; down: 512 -> 128; three blocks, rank 4
    "all": ("all-linear", None, 3 * 4 * (2 * 256 + 2 * 160 + 3 * 640)),
    "one name": ("q_proj", None, 3 * 4 * 256),
    "a regular expression": (r".*\.(q_proj|v_proj)", None, 3 * 4 * (256 + 160)),
    "one layer": (r"model\.layers\.1\.self_attn\.q_proj", None, 4 * 256),
    "all but some": ("all-linear", r".*\.mlp\..*", 3 * 4 * (2 * 256 + 2 * 160)),
    "nothing": ("lm_head_of_another", None, 0),
    "no regular expression": ("(", None, 0),
}


@pytest.mark.parametrize("case", ADAPTERS)
def test_adapters(case: str) -> None:
    target, exclude, expected = ADAPTERS[case]
    assert training.adapter_parameters(shape_of("llama"), 4, target, exclude) == expected


def test_engine_weights_are_dealt_out() -> None:
    shape = shape_of("llama")
    whole = engines.weight_bytes(shape, 2, tensor_parallel=1, pipeline_parallel=1, expert_parallel=1)
    assert whole == 2 * shape.parameters
    quarter = engines.weight_bytes(shape, 2, tensor_parallel=2, pipeline_parallel=2, expert_parallel=1)
    assert quarter == pytest.approx(whole / 4, abs=4)
    mixture = shape_of("mixtral")
    assert engines.weight_bytes(mixture, 2, tensor_parallel=1, pipeline_parallel=1, expert_parallel=4) == (
        2 * (mixture.parameters - mixture.expert_parameters + mixture.expert_parameters // 4)
    )


# A known figure: a token of Llama 3 8B (32 layers, 8 key-value heads of 128) takes 128 KiB in bfloat16.
def test_cache_of_a_token() -> None:
    shape = shape_of("llama", num_hidden_layers=32, num_key_value_heads=8, head_dim=128)
    sizes = {
        parallel: engines.cache_bytes_per_token(shape, 2, tensor_parallel=parallel[0], pipeline_parallel=parallel[1])
        for parallel in [(1, 1), (2, 1), (8, 1), (16, 1), (1, 2)]
    }
    kib = 1024
    assert sizes == {
        (1, 1): 128 * kib,
        (2, 1): 64 * kib,
        (8, 1): 16 * kib,
        (16, 1): 16 * kib,  # one head at least
        (1, 2): 64 * kib,
    }


def test_cache_capacity() -> None:
    gib = 2**30
    assert engines.cache_capacity_bytes(80 * gib, 0.5, weights=10 * gib, working=5 * gib) == 25 * gib
    assert engines.cache_capacity_bytes(8 * gib, 0.5, weights=10 * gib, working=5 * gib) == 0
    assert engines.builtin_cache_bytes(1024, 1024) == engines.BUILTIN_SEQUENCES * 2**20
    assert engines.builtin_cache_bytes(2**20, 1024) == engines.BUILTIN_CACHE_BYTES
