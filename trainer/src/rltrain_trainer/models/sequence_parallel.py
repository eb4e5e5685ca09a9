"""Ulysses sequence parallelism: ranks that share sequences (arXiv 2309.14509).

Each rank of a sequence group holds a run of consecutive tokens. Attention alone looks beyond one token: before it, an
all-to-all turns "some tokens, all heads" into "all tokens, some heads", and back after it. This module must not know of
models, losses or sharding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

_TOKENS = -2  # of [rows, heads, tokens, width]
_HEADS = -3


@dataclass(frozen=True)
class SequenceGroup:
    """The ranks that share sequences, seen from one of them; every method but `columns` is a collective."""

    group: dist.ProcessGroup
    rank: int
    size: int

    def columns(self, tensor: Tensor) -> Tensor:
        """This rank's run of the columns of [rows, tokens]; tokens is a multiple of the group's size."""
        width = tensor.shape[1] // self.size
        return tensor[:, self.rank * width : (self.rank + 1) * width]

    def whole_sequences(self, states: Tensor) -> Tensor:
        """From [rows, heads, tokens of this rank, width] to [rows, heads of this rank, all tokens, width].

        Heads that are fewer than ranks, or do not divide among them, are repeated first, as keys and values may be.
        """
        repeats = self.size // math.gcd(states.shape[_HEADS], self.size)
        if repeats > 1:
            states = states.repeat_interleave(repeats, dim=_HEADS)
        return _exchange(states, self, _HEADS, _TOKENS)

    def whole_heads(self, states: Tensor) -> Tensor:
        """From [rows, heads of this rank, all tokens, width] to [rows, heads, tokens of this rank, width]."""
        return _exchange(states, self, _TOKENS, _HEADS)

    def all_columns(self, tensor: Tensor) -> Tensor:
        """The columns of all ranks, [rows, tokens], from each one's own.

        What follows must be the same computation on every rank: the gradient of a rank's columns is then what this
        rank itself computes, without asking the others.
        """
        gathered: Tensor = _Gather.apply(tensor, self)  # type: ignore[no-untyped-call]  # torch's apply is untyped
        return gathered


def _exchange(states: Tensor, group: SequenceGroup, divided: int, joined: int) -> Tensor:
    exchanged: Tensor = _Exchange.apply(states, group, divided, joined)  # type: ignore[no-untyped-call]  # as above
    return exchanged


class _Exchange(torch.autograd.Function):
    """All-to-all: divide one dimension among the ranks, join another. Its gradient is the way back."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, group: SequenceGroup, divided: int, joined: int) -> Tensor:
        ctx.group, ctx.divided, ctx.joined = group, divided, joined
        sent = torch.stack(states.chunk(group.size, dim=divided))
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent, group=group.group)
        return torch.cat(received.unbind(), dim=joined)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        return _exchange(gradients[0], ctx.group, ctx.joined, ctx.divided), None, None, None


class _Gather(torch.autograd.Function):
    """All-gather of columns whose gradient is the own slice, without communication."""

    @staticmethod
    def forward(ctx: Any, columns: Tensor, group: SequenceGroup) -> Tensor:
        ctx.group = group
        parts = [torch.empty_like(columns) for _ in range(group.size)]
        dist.all_gather(parts, columns.contiguous(), group=group.group)
        return torch.cat(parts, dim=1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.group.columns(gradients[0]).contiguous(), None
