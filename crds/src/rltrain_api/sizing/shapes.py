"""The shape of a transformer from its Hugging Face `config.json`: how many parameters it has, and where they are.

Counts are exact for the families named here (tests compare them with transformers' own models); another family is an
error that says what to pass instead, because a guess would look like a count. Must not know about memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Linear:
    """One matrix of a block, under the name that the module has in the block."""

    name: str
    inputs: int
    outputs: int
    bias: bool = False

    @property
    def parameters(self) -> int:
        """Weights and biases."""
        return self.inputs * self.outputs + (self.outputs if self.bias else 0)


@dataclass(frozen=True, slots=True)
class Block:
    """One kind of transformer block; `experts` and `others` are the parameters outside of its matrices."""

    linears: tuple[Linear, ...]
    experts: int
    others: int  # norms, the router
    widths: tuple[int, ...]  # inner width of each feed-forward that a token passes through

    @property
    def parameters(self) -> int:
        """All parameters of the block."""
        return sum(linear.parameters for linear in self.linears) + self.experts + self.others


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A causal language model; sizes in numbers, not bytes."""

    model_type: str
    hidden: int
    heads: int
    key_value_heads: int
    head_size: int
    vocabulary: int
    tied: bool  # whether input and output embedding are one matrix
    query_key_norms: bool
    norms: int  # norms of the whole width in each block
    blocks: tuple[Block, ...]  # one for each layer

    @property
    def layers(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    @property
    def root_parameters(self) -> int:
        """Parameters outside of the blocks: the embeddings and the last norm."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2) + self.hidden

    @property
    def parameters(self) -> int:
        """All parameters, tied ones once."""
        return self.root_parameters + sum(block.parameters for block in self.blocks)

    @property
    def expert_parameters(self) -> int:
        """Those of all experts of a mixture; 0 for a dense model."""
        return sum(block.experts for block in self.blocks)

    @property
    def largest_block(self) -> int:
        """Parameters of the largest block."""
        return max(block.parameters for block in self.blocks)


@dataclass(frozen=True, slots=True)
class _Family:
    """How one `model_type` differs from Llama. A text names the key of config.json that decides."""

    query_key_value_bias: bool | str = False
    output_bias: bool | str = False
    mlp_bias: bool | str = False
    query_key_norms: bool = False
    norms: int = 2
    tied: bool = False  # where config.json does not say
    head_size: int | None = None  # where config.json does not say; None divides the width by the heads
    experts: bool = False
    expert_width: str = "moe_intermediate_size"
    shared_expert: bool = False


_FAMILIES: dict[str, _Family] = {
    "llama": _Family(query_key_value_bias="attention_bias", output_bias="attention_bias", mlp_bias="mlp_bias"),
    "mistral": _Family(),
    "qwen2": _Family(query_key_value_bias=True),
    "qwen3": _Family(
        query_key_value_bias="attention_bias", output_bias="attention_bias", query_key_norms=True, head_size=128
    ),
    "gemma": _Family(query_key_value_bias="attention_bias", output_bias="attention_bias", tied=True, head_size=256),
    "gemma2": _Family(
        query_key_value_bias="attention_bias", output_bias="attention_bias", tied=True, head_size=256, norms=4
    ),
    "gemma3_text": _Family(
        query_key_value_bias="attention_bias",
        output_bias="attention_bias",
        tied=True,
        head_size=256,
        norms=4,
        query_key_norms=True,
    ),
    "mixtral": _Family(experts=True, expert_width="intermediate_size"),
    "qwen2_moe": _Family(query_key_value_bias="qkv_bias", experts=True, shared_expert=True),
    "qwen3_moe": _Family(
        query_key_value_bias="attention_bias",
        output_bias="attention_bias",
        query_key_norms=True,
        experts=True,
    ),
}
MAX_LAYERS = 10_000
# What config.json means where it does not say.
_DEFAULT_SWITCHES = {"attention_bias": False, "mlp_bias": False, "qkv_bias": True}


def read_shape(config: Mapping[str, Any]) -> ModelShape:
    """The shape that a model's config.json describes.

    Raises:
        ValueError: the family is not known, or a number is missing; the message says what to do.
    """
    model_type = config.get("model_type")
    family = _FAMILIES.get(str(model_type))
    if family is None:
        raise ValueError(
            f"model_type {model_type!r} is none of {', '.join(sorted(_FAMILIES))}; give the number of parameters "
            "instead, such as 7B"
        )
    hidden, heads = _number(config, "hidden_size"), _number(config, "num_attention_heads")
    head_size = _number(config, "head_dim", family.head_size or hidden // heads)
    key_value_heads = _number(config, "num_key_value_heads", heads)
    if heads % key_value_heads != 0:
        raise ValueError(
            f"num_key_value_heads is {key_value_heads}, which does not divide num_attention_heads {heads}; is this the "
            "model's config.json?"
        )
    attention = _attention(config, family, hidden, heads * head_size, key_value_heads * head_size)
    norms = family.norms * hidden + (2 * head_size if family.query_key_norms else 0)
    layers = _number(config, "num_hidden_layers")
    if layers > MAX_LAYERS:
        raise ValueError(f"num_hidden_layers is {layers:,}, and no model has so many; is this the model's config.json?")
    return ModelShape(
        model_type=str(model_type),
        hidden=hidden,
        heads=heads,
        key_value_heads=key_value_heads,
        head_size=head_size,
        vocabulary=_number(config, "vocab_size"),
        tied=_switch(config, "tie_word_embeddings", family.tied),
        query_key_norms=family.query_key_norms,
        norms=family.norms,
        blocks=tuple(_block(config, family, attention, norms, layer) for layer in range(layers)),
    )


def _attention(config: Mapping[str, Any], family: _Family, hidden: int, queries: int, keys: int) -> tuple[Linear, ...]:
    bias = _bias(config, family.query_key_value_bias)
    return (
        Linear("self_attn.q_proj", hidden, queries, bias),
        Linear("self_attn.k_proj", hidden, keys, bias),
        Linear("self_attn.v_proj", hidden, keys, bias),
        Linear("self_attn.o_proj", queries, hidden, _bias(config, family.output_bias)),
    )


def _block(config: Mapping[str, Any], family: _Family, attention: tuple[Linear, ...], norms: int, layer: int) -> Block:
    hidden = _number(config, "hidden_size")
    if not family.experts or not _has_experts(config, layer):
        width = _number(config, "intermediate_size")
        feed_forward = _feed_forward("mlp", hidden, width, bias=_bias(config, family.mlp_bias))
        return Block((*attention, *feed_forward), experts=0, others=norms, widths=(width,))
    experts, width = _experts(config), _number(config, family.expert_width)
    widths = (width,) * _number(config, "num_experts_per_tok")
    linears, others = attention, norms + hidden * experts
    if family.shared_expert:
        shared = _number(config, "shared_expert_intermediate_size")
        gate = Linear("mlp.shared_expert_gate", hidden, 1)
        linears = (*linears, *_feed_forward("mlp.shared_expert", hidden, shared, bias=False), gate)
        widths = (*widths, shared)
    return Block(linears, experts=experts * 3 * hidden * width, others=others, widths=widths)


def _feed_forward(name: str, hidden: int, width: int, *, bias: bool) -> tuple[Linear, ...]:
    return (
        Linear(f"{name}.gate_proj", hidden, width, bias),
        Linear(f"{name}.up_proj", hidden, width, bias),
        Linear(f"{name}.down_proj", width, hidden, bias),
    )


def _experts(config: Mapping[str, Any]) -> int:
    """Number of experts of a layer; transformers has written it under both names."""
    return _number(config, "num_experts" if config.get("num_experts") is not None else "num_local_experts")


def _has_experts(config: Mapping[str, Any], layer: int) -> bool:
    """Qwen's mixtures may keep some layers dense."""
    dense = config.get("mlp_only_layers") or []
    return layer not in dense and (layer + 1) % _number(config, "decoder_sparse_step", 1) == 0


def _number(config: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = config.get(key)
    value = default if value is None else value
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        said = "is missing" if value is None else f"is {value!r}"
        raise ValueError(f"{key} {said}, and must be a whole number above 0; is this the model's config.json?")
    return value


def _switch(config: Mapping[str, Any], key: str, default: bool) -> bool:
    value = config.get(key)
    return default if value is None else bool(value)


def _bias(config: Mapping[str, Any], said_by: bool | str) -> bool:
    return said_by if isinstance(said_by, bool) else _switch(config, said_by, _DEFAULT_SWITCHES[said_by])
