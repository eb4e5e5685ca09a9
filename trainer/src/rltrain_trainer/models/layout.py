"""How the sequences of a micro-batch lie in a model's input: padded side by side, or packed end to end.

Rows arrive padded on the left. A causal model does not see what comes after a token, so padding on the right needs no
mask at all, and attention keeps its fastest kernels; packing leaves out padding altogether. Pure functions of tensors:
this module must not know of models or ranks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenLayout:
    """Tokens as the model reads them, [rows, columns], and which of their successors are scored."""

    tokens: Tensor  # int64
    position_ids: Tensor  # int64, from 0 in every sequence
    targets: Tensor  # int64, the token that follows
    scored: Tensor  # bool, whether the token that follows is one of a response
    # Of sequences that lie end to end in a single row; empty where each has a row of its own.
    lengths: tuple[int, ...] = ()

    def offsets(self) -> Tensor:
        """[sequences + 1] int32: where each packed sequence begins, and where the last one ends."""
        return torch.tensor([0, *accumulate(self.lengths)], dtype=torch.int32, device=self.tokens.device)

    def placed(self, scores: Tensor, response_mask: Tensor) -> Tensor:
        """[batch, response]: scores, one for each scored token in order, where response_mask is 1, else 0."""
        return scores.new_zeros(response_mask.shape).masked_scatter(response_mask.bool(), scores)


def lay_out(
    sequences: Tensor, attention_mask: Tensor, response_mask: Tensor, *, packed: bool, multiple: int = 1
) -> TokenLayout:
    """The layout of a micro-batch whose columns are a multiple of `multiple`.

    sequences, attention_mask: [batch, total], padded on the left; response_mask: [batch, response], whose columns are
    the last ones of `sequences`, 1 from the first token after the prompt on. Every sequence has a prompt.
    """
    total = sequences.shape[1]
    lengths = attention_mask.long().sum(dim=-1)
    columns = torch.arange(total, device=sequences.device).expand_as(sequences)
    tokens = sequences.gather(1, (columns + total - lengths[:, None]).clamp(max=total - 1))
    first = lengths - response_mask.long().sum(dim=-1) - 1  # the last token of the prompt predicts the first one
    layout = TokenLayout(
        tokens=tokens,
        position_ids=columns,
        targets=tokens.roll(-1, dims=1),
        scored=(columns >= first[:, None]) & (columns < lengths[:, None] - 1),
    )
    if packed:
        return _packed(layout, columns < lengths[:, None], lengths.tolist(), multiple)
    width = -(-int(lengths.max()) // multiple) * multiple
    return _changed(layout, lambda tensor: _filled(tensor[:, :width], width))


def _packed(layout: TokenLayout, used: Tensor, lengths: list[int], multiple: int) -> TokenLayout:
    """All used tokens in one row; what fills it up is a sequence of its own, which nobody scores or sees."""
    filler = -sum(lengths) % multiple
    width = sum(lengths) + filler
    return _changed(
        layout, lambda tensor: _filled(tensor[used][None], width), (*lengths, filler) if filler else tuple(lengths)
    )


def _changed(layout: TokenLayout, change: Callable[[Tensor], Tensor], lengths: tuple[int, ...] = ()) -> TokenLayout:
    return TokenLayout(
        tokens=change(layout.tokens),
        position_ids=change(layout.position_ids),
        targets=change(layout.targets),
        scored=change(layout.scored),
        lengths=lengths,
    )


def _filled(tensor: Tensor, width: int) -> Tensor:
    """[rows, width]: zeros on the right."""
    return torch.nn.functional.pad(tensor, (0, width - tensor.shape[1]))
