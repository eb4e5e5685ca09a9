"""Handing prompts out in batches, in an order that survives a restart. It must not know what a prompt is."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rltrain_trainer.data.rows import PromptRow


class PromptLoader:
    """Shuffled batches of rows, epoch after epoch; the order is a function of (seed, epoch, number of rows) alone.

    A tail that does not fill a batch is dropped, another one in each epoch. Its state is the epoch and the number of
    rows handed out in it, so a resumed run goes on with exactly the rows not yet seen, in the same order, however many
    batches a training step took.
    """

    def __init__(self, rows: Sequence[PromptRow], batch_size: int, seed: int) -> None:
        if len(rows) < batch_size:
            raise ValueError(
                f"{len(rows)} prompts cannot fill one batch of {batch_size}; add rows or lower the batch size"
            )
        self._rows = list(rows)
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = 0
        self._position = 0
        self._order = self._shuffled(0)

    @property
    def epoch(self) -> int:
        """The epoch, from 0, that the newest batch belongs to."""
        return self._epoch

    @property
    def at_epoch_end(self) -> bool:
        """Whether the next batch begins a new epoch."""
        return self._position + self._batch_size > len(self._rows)

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in one epoch."""
        return len(self._rows) // self._batch_size

    def next_batch(self) -> list[PromptRow]:
        """The next batch_size rows; begins a new epoch when the current one cannot fill a batch any more."""
        if self.at_epoch_end:
            self._epoch += 1
            self._position = 0
            self._order = self._shuffled(self._epoch)
        chosen = self._order[self._position : self._position + self._batch_size]
        self._position += self._batch_size
        return [self._rows[index] for index in chosen]

    def state_dict(self) -> dict[str, int]:
        """What a resume needs, as JSON numbers."""
        return {"epoch": self._epoch, "position": self._position, "seed": self._seed, "rows": len(self._rows)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where `state` was taken. Raises ValueError when it was taken over other rows or with another seed."""
        for name, mine in (("seed", self._seed), ("rows", len(self._rows))):
            if state[name] != mine:
                raise ValueError(
                    f"the checkpoint's data order was made with {name} = {state[name]}, this run has {mine}; use the "
                    "same data and seed, or start afresh with trainer.resume_mode none"
                )
        self._epoch, self._position = state["epoch"], state["position"]
        self._order = self._shuffled(self._epoch)

    def _shuffled(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(self._seed + epoch)
        order: list[int] = torch.randperm(len(self._rows), generator=generator).tolist()
        return order
