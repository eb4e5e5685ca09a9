"""Continuous batching: which sequences run in which slots, step by step.

Running sequences fill the slots from 0 without holes; a finished one's slot is taken by the last. New sequences join
between two decoding steps. One thread calls this; it must not know HTTP nor how weights arrive.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as Rows

import numpy as np
import torch

from rltrain_trainer.engines.builtin.runner import ModelRunner
from rltrain_trainer.engines.builtin.sampler import SamplingTable, penalise_repetition, sample, uniforms
from rltrain_trainer.engines.builtin.sequences import Sequence
from rltrain_trainer.engines.contract import FinishReason

PREFILL_TOKENS = 8192
"""Padded tokens that one step prefills at most, so that running sequences wait a bounded time for newcomers."""


class Scheduler:
    """Waiting and running sequences of one runner. `step` and everything else run on the same thread."""

    def __init__(self, runner: ModelRunner, weight_version: str) -> None:
        self._runner = runner
        self.weight_version = weight_version
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []
        self._table: SamplingTable | None = None  # of the running sequences; None when they have changed
        self._seeds = np.empty(0, dtype=np.uint64)

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self._running and not self._waiting

    @property
    def counts(self) -> tuple[int, int]:
        """(running, waiting) sequences."""
        return len(self._running), len(self._waiting)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence."""
        self._waiting.append(sequence)

    def abort(self, chosen: Callable[[Sequence], bool] = lambda _: True) -> list[Sequence]:
        """End the chosen sequences (all, if nothing is said) with what they have; returns them."""
        ended = [sequence for sequence in (*self._running, *self._waiting) if chosen(sequence)]
        for sequence in ended:
            sequence.finish_reason = FinishReason.ABORT
        self._waiting = deque(s for s in self._waiting if s.finish_reason is None)
        self._release_finished()
        return ended

    def forget_cache(self) -> None:
        """Send running sequences back to the queue: they are computed anew, under the weights of that time."""
        self._waiting.extendleft(reversed(self._running))
        self._running.clear()
        self._table = None

    @torch.inference_mode()
    def step(self) -> list[Sequence]:
        """Prefill what fits, then decode one token for all that run; returns the sequences that finished."""
        finished = self._prefill()
        if self._running:
            logits = self._runner.decode(
                [sequence.response[-1] for sequence in self._running],
                [sequence.length - 1 for sequence in self._running],
            )
            if self._table is None:
                self._table, self._seeds = self._columns(self._running)
            self._extend(self._running, logits, self._table, self._seeds)
            finished += self._release_finished()
        return finished

    def _prefill(self) -> list[Sequence]:
        admitted = self._admit()
        if not admitted:
            return []
        logits = self._runner.prefill(len(self._running), [sequence.tokens for sequence in admitted])
        self._extend(admitted, logits, *self._columns(admitted))
        self._running += admitted
        self._table = None
        return self._release_finished()

    def _admit(self) -> list[Sequence]:
        """Take sequences from the queue, in order, while slots and the padded size of the batch allow."""
        admitted: list[Sequence] = []
        longest = 0
        while self._waiting and len(self._running) + len(admitted) < self._runner.slots:
            longest = max(longest, self._waiting[0].length)
            if admitted and longest * (len(admitted) + 1) > PREFILL_TOKENS:
                break
            admitted.append(self._waiting.popleft())
        return admitted

    def _columns(self, sequences: Rows[Sequence]) -> tuple[SamplingTable, np.ndarray]:
        table = SamplingTable.of([sequence.sampling for sequence in sequences], self._runner.device)
        return table, np.array([sequence.seed for sequence in sequences], dtype=np.uint64)

    def _extend(self, sequences: Rows[Sequence], logits: torch.Tensor, table: SamplingTable, seeds: np.ndarray) -> None:
        """Sample one token for each sequence from its row of the logits."""
        if table.repetition_penalty is not None:
            logits = penalise_repetition(logits, table.repetition_penalty, [s.tokens for s in sequences])
        indices = np.array([len(sequence.response) for sequence in sequences], dtype=np.uint64)
        tokens, logprobs = sample(logits, table, uniforms(seeds, indices))
        for sequence, token, logprob in zip(sequences, tokens.tolist(), logprobs.tolist(), strict=True):
            sequence.append(token, logprob, self.weight_version)

    def _release_finished(self) -> list[Sequence]:
        """Take finished sequences out of their slots, closing each hole with the last running sequence."""
        released = []
        for slot in reversed(range(len(self._running))):
            sequence = self._running[slot]
            if sequence.finish_reason is None:
                continue
            released.append(sequence)
            last = self._running.pop()
            if last is not sequence:
                # Its newest token has no keys yet: the next decoding step writes them.
                self._runner.move(len(self._running), slot, last.length - 1)
                self._running[slot] = last
        if released:
            self._table = None
        return released
