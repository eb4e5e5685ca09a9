"""The running sequences as columns, from one change in who runs to the next: what every decoding step needs of them.

Between two such changes a step only moves the columns on. Sampled tokens stay in tensors until a sequence may have
ended; `flush` then hands them to the sequences. It must not know the model, slots or who waits.
"""

from __future__ import annotations

from collections.abc import Sequence as Rows

import numpy as np
import torch
from torch import Tensor

from rltrain_trainer.engines.builtin.sampler import SamplingTable, penalise_repetition, sample, uniforms
from rltrain_trainer.engines.builtin.sequences import Sequence

DRAWN_AHEAD = 32  # tokens whose random numbers are made at once


class RunningBatch:
    """Sequences in the order of their slots; `tokens` and `positions` [n] are their newest tokens and where these go.

    Members must not change while the batch is in use: flush it, then make another.
    """

    def __init__(self, members: Rows[Sequence], vocabulary_size: int, device: torch.device) -> None:
        self._members = list(members)
        self._device = device
        self._table = SamplingTable.of([member.sampling for member in members], device)
        self._seeds = np.array([member.seed for member in members], dtype=np.uint64)[:, None]
        self._counts = np.array([len(member.response) for member in members], dtype=np.uint64)[:, None]
        self._draws = np.empty((len(members), 0))
        self._done = 0  # steps since the batch was made
        self._pending: list[tuple[Tensor, Tensor]] = []
        self._steps_to_limit = min(member.remaining for member in members)
        self._stops = _lookup([member.stop_rule.token_ids for member in members], vocabulary_size, device)
        # Text is looked at token by token, and penalties ask for all tokens so far.
        self._one_by_one = self._table.repetition_penalty is not None or any(
            member.stop_rule.strings for member in members
        )
        lengths = [member.length for member in members]
        self._longest, self.even = max(lengths), min(lengths) == max(lengths)
        self.tokens = torch.tensor([member.newest for member in members], device=device)
        self.positions = torch.tensor(lengths, device=device) - 1

    @property
    def attended(self) -> int:
        """Tokens of the longest sequence, the newest one included."""
        return self._longest + self._done

    def extend(self, logits: Tensor) -> bool:
        """Sample each sequence's next token from its row of the logits [n, vocabulary].

        Returns whether a sequence may have ended, so that it is time to flush.
        """
        if self._table.repetition_penalty is not None:
            logits = penalise_repetition(logits, self._table.repetition_penalty, [m.tokens for m in self._members])
        self.tokens, logprobs = sample(logits, self._table, self._next_draws())
        self._pending.append((self.tokens, logprobs))
        self._done += 1
        self.positions += 1
        at_limit = self._done == self._steps_to_limit
        return at_limit or self._one_by_one or bool(self._stops is not None and self._stops[self.tokens].any())

    def flush(self, weight_version: str) -> None:
        """Hand what was sampled since the last flush to the sequences: all of it was under `weight_version`."""
        if not self._pending:
            return
        tokens, logprobs = (torch.stack(column, dim=1).tolist() for column in zip(*self._pending, strict=True))
        self._pending.clear()
        for member, new, scores in zip(self._members, tokens, logprobs, strict=True):
            member.extend(new, scores, weight_version)

    def _next_draws(self) -> np.ndarray:
        """[n]: the random number of each sequence's next token."""
        column = self._done % DRAWN_AHEAD
        if column == 0:
            ahead = np.arange(self._done, self._done + DRAWN_AHEAD, dtype=np.uint64)
            self._draws = uniforms(self._seeds, self._counts + ahead)
        return np.ascontiguousarray(self._draws[:, column])


def _lookup(stop_tokens: Rows[frozenset[int]], vocabulary_size: int, device: torch.device) -> Tensor | None:
    """[vocabulary] bool: the tokens that end some sequence; None when no token does."""
    known = sorted(token for token in frozenset().union(*stop_tokens) if 0 <= token < vocabulary_size)
    if not known:
        return None
    stops = torch.zeros(vocabulary_size, dtype=torch.bool, device=device)
    stops[torch.tensor(known, device=device)] = True
    return stops
