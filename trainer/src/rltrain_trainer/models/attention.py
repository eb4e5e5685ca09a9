"""Causal attention over a `TokenLayout`, as transformers' models call it: padded or packed, on one rank or on several.

transformers lets a model compute attention by any registered function, and hands through to it what the forward pass
was called with. Kernels are PyTorch's own: FlashAttention for variable lengths on GPUs in 16 bits, which is what
`trainer.flash_attn` asks for and needs no further package, and scaled dot product attention elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

from rltrain_trainer.models.layout import TokenLayout
from rltrain_trainer.models.sequence_parallel import SequenceGroup

NAME = "rltrain"

# Packed sequences are computed side by side where padding them costs at most this many times their own tokens.
_MOST_PADDING = 2.0


@dataclass(frozen=True)
class AttentionSettings:
    """How a model computes attention; the same for all of its forward passes.

    Args:
        packed: Lay sequences end to end instead of padding them.
        flash: Use FlashAttention's kernel for variable lengths where device and types allow it.
        group: The ranks that share sequences; None where each has its own.
    """

    packed: bool = False
    flash: bool = False
    group: SequenceGroup | None = None


@dataclass(frozen=True)
class AttentionCall:
    """One forward pass: the layout of all tokens, of which a rank of a sequence group has some columns."""

    settings: AttentionSettings
    lengths: tuple[int, ...]  # as in `TokenLayout`
    offsets: Tensor | None  # [sequences + 1] int32, for packed sequences

    @classmethod
    def of(cls, layout: TokenLayout, settings: AttentionSettings) -> AttentionCall:
        """The call for a layout."""
        return cls(settings, layout.lengths, layout.offsets() if layout.lengths else None)


def use_for(model: PreTrainedModel, settings: AttentionSettings) -> None:
    """Make the model compute attention with this module; its forward pass then needs `attention_call`.

    Raises ValueError for a model that cannot: one without exchangeable attention, or whose heads do not divide among
    the ranks of a sequence.
    """
    if not model._supports_attention_backend:
        raise ValueError(
            f"model {model.name_or_path} ({type(model).__name__}): its attention cannot be exchanged; use a model "
            "family such as Qwen2, Qwen3 or Llama"
        )
    heads = model.config.num_attention_heads
    if settings.group is not None and heads % settings.group.size:
        raise ValueError(
            f"sequence_parallel_size: {settings.group.size} GPUs cannot share the {heads} attention heads of model "
            f"{model.name_or_path}; use a divisor of {heads}"
        )
    model.set_attn_implementation(NAME)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    attention_call: AttentionCall,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """What transformers calls in every layer.

    query, key, value: [rows, heads, tokens, width], keys and values with as many heads or a divisor of them, tokens
    those of this rank. Returns [rows, tokens, heads, width]. Raises ValueError for forms of attention that it does not
    compute.
    """
    for name in ("softcap", "s_aux", "position_bias"):
        if others.get(name) is not None:
            raise ValueError(f"{type(module).__name__}: its attention uses {name}, which this trainer does not compute")
    assert attention_mask is None, "what a token sees follows from the layout"
    group = attention_call.settings.group
    if group is not None:
        query, key, value = (group.whole_sequences(states) for states in (query, key, value))
    seen = _Form(scaling, dropout, sliding_window)
    if not attention_call.lengths:
        result = seen.side_by_side(query, key, value)
    elif attention_call.settings.flash and query.is_cuda and query.dtype in (torch.bfloat16, torch.float16):
        assert attention_call.offsets is not None, "packed sequences have offsets"
        result = seen.flash(query, key, value, attention_call.offsets, max(attention_call.lengths))
    else:
        result = seen.end_to_end(query, key, value, attention_call.lengths)
    if group is not None:
        result = group.whole_heads(result)
    return result.transpose(1, 2).contiguous(), None


@dataclass(frozen=True)
class _Form:
    """Causal attention with these parameters; all tensors [rows, heads, tokens, width]."""

    scaling: float | None
    dropout: float
    window: int | None

    def side_by_side(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Every row a sequence that begins in the first column."""
        tokens = query.shape[2]
        mask = None
        if self.window is not None and self.window < tokens:
            distance = torch.arange(tokens, device=query.device)
            distance = distance[:, None] - distance
            mask = (distance >= 0) & (distance < self.window)
        # Grouped heads without a copy: only the kernels of GPUs, and only without a mask.
        grouped = query.is_cuda and mask is None
        if not grouped:
            key, value = (states.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for states in (key, value))
        return scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            dropout_p=self.dropout,
            is_causal=mask is None,
            scale=self.scaling,
            enable_gqa=grouped,
        )

    def end_to_end(self, query: Tensor, key: Tensor, value: Tensor, lengths: tuple[int, ...]) -> Tensor:
        """One row of sequences; computed in one call where they are of similar length, else one after the other."""
        longest = max(lengths)
        if len(lengths) * longest == sum(lengths):  # all of the same length: another shape of the same tensors
            shape = (-1, len(lengths), longest, query.shape[-1])
            rows = (states[0].reshape(shape).transpose(0, 1) for states in (query, key, value))
            return self.side_by_side(*rows).transpose(0, 1).flatten(1, 2)[None]
        if len(lengths) * longest > _MOST_PADDING * sum(lengths):
            parts = (torch.split(states, list(lengths), dim=2) for states in (query, key, value))
            return torch.cat([self.side_by_side(*part) for part in zip(*parts, strict=True)], dim=2)
        place = torch.cat(
            [torch.arange(length, device=query.device) + row * longest for row, length in enumerate(lengths)]
        )
        padded = (_spread(states[0], place, len(lengths), longest) for states in (query, key, value))
        result = self.side_by_side(*padded)
        return result.transpose(0, 1).flatten(1, 2).index_select(1, place)[None]

    def flash(self, query: Tensor, key: Tensor, value: Tensor, offsets: Tensor, longest: int) -> Tensor:
        """One row of sequences, by the kernel that takes where they begin."""
        if self.dropout:
            raise ValueError("attention_dropout is not 0, which FlashAttention's kernel does not do; set it to 0")
        window = (-1, 0) if self.window is None else (self.window - 1, 0)
        queries, keys, values = (part[0].transpose(0, 1).contiguous() for part in (query, key, value))
        result = varlen_attn(
            queries,
            keys,
            values,
            offsets,
            offsets,
            longest,
            longest,
            scale=self.scaling,
            window_size=window,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        assert isinstance(result, Tensor), "no further results were asked for"
        return result.transpose(0, 1)[None]


def _spread(states: Tensor, place: Tensor, rows: int, columns: int) -> Tensor:
    """From [heads, tokens, width] to [rows, heads, columns, width], with zeros on the right of each sequence."""
    heads, _, width = states.shape
    padded = states.new_zeros(heads, rows * columns, width).index_copy(1, place, states)
    return padded.view(heads, rows, columns, width).transpose(0, 1)


AttentionInterface.register(NAME, attend)
