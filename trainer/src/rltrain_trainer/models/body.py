"""The transformer's body in a forward pass: from tokens to hidden states, on one rank or on those of a sequence group.

What scores responses and what values them share this. It must not know of heads, losses or sharding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn
from transformers import PreTrainedModel

from rltrain_trainer.models.attention import AttentionCall, AttentionSettings
from rltrain_trainer.models.layout import TokenLayout, lay_out


def laid_out(
    sequences: Tensor, attention_mask: Tensor, response_mask: Tensor, attention: AttentionSettings
) -> TokenLayout:
    """The layout of a micro-batch; see `lay_out`."""
    multiple = 1 if attention.group is None else attention.group.size
    return lay_out(sequences, attention_mask, response_mask, packed=attention.packed, multiple=multiple)


def hidden_states(
    body: PreTrainedModel, layout: TokenLayout, attention: AttentionSettings
) -> tuple[Tensor, TokenLayout]:
    """The last hidden states of this rank's tokens, [rows, columns of this rank, width], and the layout of these."""
    group = attention.group
    mine = layout
    if group is not None:
        mine = replace(
            layout,
            tokens=group.columns(layout.tokens),
            position_ids=group.columns(layout.position_ids),
            targets=group.columns(layout.targets),
            scored=group.columns(layout.scored),
        )
    result = body(
        input_ids=mine.tokens,
        position_ids=mine.position_ids,
        use_cache=False,
        attention_call=AttentionCall.of(layout, attention),
    )
    return result.last_hidden_state, mine


def all_scores(scores: Tensor, layout: TokenLayout, mine: TokenLayout, attention: AttentionSettings) -> Tensor:
    """The scores of all scored tokens in order, from those of this rank's."""
    if attention.group is None:
        return scores
    placed = scores.new_zeros(mine.scored.shape).masked_scatter(mine.scored, scores)
    return attention.group.all_columns(placed)[layout.scored]


def blocks_of(body: PreTrainedModel, classes: Sequence[str] = ()) -> list[nn.Module]:
    """The transformer's blocks in order: what is sharded, gathered and recomputed one at a time.

    classes: names of the blocks' classes; none: what transformers names. Raises ValueError where there are none.
    """
    names = set(classes) or set(body._no_split_modules or ())
    blocks = [module for module in body.modules() if type(module).__name__ in names]
    if not blocks and classes:
        there = sorted({type(module).__name__ for module in body.modules()})
        raise ValueError(
            f"wrap_policy.transformer_layer_cls_to_wrap: model {body.name_or_path} has no module of class "
            f"{', '.join(classes)}; it has {', '.join(there)}"
        )
    if not blocks:
        raise ValueError(f"model {body.name_or_path}: transformers names no block class for its kind")
    return blocks
