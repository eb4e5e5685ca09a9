"""One decoding step of the Llama family, with as few operations as it takes.

A step of a small model is all overhead: dozens of modules, each a handful of operations on one token per sequence. This
is the same arithmetic as transformers' modules, on the model's own parameters, with projections that share an input
computed as one. It must not know sequences nor sampling; what it does not fit is left to transformers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, linear, rms_norm, scaled_dot_product_attention
from transformers import PreTrainedModel

from rltrain_trainer.engines.builtin.cache import SlotCache, head_size, key_value_heads

FAMILIES = frozenset({"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"})
FIXED_ROTATIONS = frozenset({"default", "linear", "llama3", "yarn"})
"""Kinds of rotary embedding whose angles depend on the position alone, not on how long the sequence has become."""


class DecodingStep:
    """The blocks of one model over one cache, for one new token per sequence.

    The parameters of fused projections become views of one tensor, in place: whoever updates the model's parameters in
    place updates what is computed here.
    """

    def __init__(self, model: PreTrainedModel, cache: SlotCache, max_length: int) -> None:
        assert self.fits(model), "ask fits() first"
        decoder: Any = model.get_decoder()  # type: ignore[no-untyped-call]  # transformers ships no type for it
        self._embedding = decoder.embed_tokens
        self._blocks = [_Block(layer, cache, index) for index, layer in enumerate(decoder.layers)]
        self._norm = decoder.norm
        positions = torch.arange(max_length, device=model.device)[None]
        cosines, sines = decoder.rotary_emb(self._embedding.weight[:0], positions)
        # rotate_half's sign goes into the sines, so that a rotation is two products and a roll.
        half = sines.shape[-1] // 2
        self._cosines = cosines[0, :, None]  # [position, 1, head size]
        self._sines = torch.cat((-sines[..., :half], sines[..., half:]), dim=-1)[0, :, None]

    @staticmethod
    def fits(model: PreTrainedModel) -> bool:
        """Whether the model's blocks are computed as they are here."""
        rotary = getattr(model.get_decoder(), "rotary_emb", None)  # type: ignore[no-untyped-call]  # as above
        return type(model).__name__ in FAMILIES and getattr(rotary, "rope_type", None) in FIXED_ROTATIONS

    def __call__(self, tokens: Tensor, positions: Tensor, mask: Tensor | None) -> Tensor:
        """The last hidden states [n, width] of `tokens` [n] at `positions` [n], which the cache expects.

        mask: [n, 1, 1, attended], False where a sequence has no token; None when all have the same number.
        """
        rotation = self._cosines[positions], self._sines[positions]
        hidden = embedding(tokens, self._embedding.weight)
        for block in self._blocks:
            hidden = block(hidden, rotation, mask)
        return _normalised(hidden, self._norm)


class _Block:
    """One transformer block: attention and gated feed-forward, each on normalised input and added to it."""

    def __init__(self, layer: Any, cache: SlotCache, index: int) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self._before_attention, self._before_mlp = layer.input_layernorm, layer.post_attention_layernorm
        self._attention, self._mlp = attention, mlp
        self._qkv = _fuse(attention.q_proj, attention.k_proj, attention.v_proj)
        self._gate_up = _fuse(mlp.gate_proj, mlp.up_proj)
        config = attention.config
        self._heads, self._kv_heads, self._size = config.num_attention_heads, key_value_heads(config), head_size(config)
        self._query_norm, self._key_norm = getattr(attention, "q_norm", None), getattr(attention, "k_norm", None)
        self._cache, self._index = cache, index

    def __call__(self, hidden: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        hidden = hidden + self._attend(_normalised(hidden, self._before_attention), rotation, mask)
        gate, up = linear(_normalised(hidden, self._before_mlp), *self._gate_up).chunk(2, dim=-1)
        result: Tensor = hidden + self._mlp.down_proj(self._mlp.act_fn(gate) * up)
        return result

    def _attend(self, hidden: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        count, rotated = hidden.shape[0], self._heads + self._kv_heads
        qkv = linear(hidden, *self._qkv).view(count, rotated + self._kv_heads, self._size)
        qk, values = qkv[:, :rotated], qkv[:, rotated:]
        if self._query_norm is not None:
            queries, keys = qk[:, : self._heads], qk[:, self._heads :]
            qk = torch.cat((_normalised(queries, self._query_norm), _normalised(keys, self._key_norm)), dim=1)
        cosines, sines = rotation
        qk = torch.addcmul(qk * cosines, qk.roll(self._size // 2, dims=-1), sines)
        keys, values = self._cache.update(qk[:, self._heads :, None], values[:, :, None], self._index)
        # Query heads that share keys stand where positions of the query would: nothing is repeated.
        queries = qk[:, : self._heads].reshape(count, self._kv_heads, -1, self._size)
        attended = scaled_dot_product_attention(queries, keys, values, attn_mask=mask, scale=self._attention.scaling)
        return self._attention.o_proj(attended.reshape(count, -1))  # type: ignore[no-any-return]  # transformers' module


def _fuse(*projections: nn.Linear) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of all projections, one below the other; their own parameters become views of these."""
    weight = torch.cat([projection.weight.detach() for projection in projections])
    bias = None if projections[0].bias is None else torch.cat([each.bias.detach() for each in projections])
    start = 0
    for projection in projections:
        rows = slice(start, start + projection.out_features)
        projection.weight.data = weight[rows]
        if bias is not None:
            projection.bias.data = bias[rows]
        start = rows.stop
    return weight, bias


def _normalised(hidden: Tensor, norm: Any) -> Tensor:
    """Root-mean-square normalisation over the last dimension."""
    return rms_norm(hidden, hidden.shape[-1:], norm.weight, norm.variance_epsilon)
