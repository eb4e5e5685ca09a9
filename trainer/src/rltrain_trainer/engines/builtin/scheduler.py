"""Continuous batching: which sequences run in which slots, step by step.

Running sequences fill the slots from 0 without holes; a finished one's slot is taken by the last. New sequences join
between two decoding steps. One thread calls this; it must not know HTTP nor how weights arrive.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import torch

from rltrain_trainer.engines.builtin.batch import RunningBatch
from rltrain_trainer.engines.builtin.runner import ModelRunner
from rltrain_trainer.engines.builtin.sequences import Sequence
from rltrain_trainer.engines.contract import FinishReason

PREFILL_TOKENS = 8192
"""Padded tokens that one step prefills at most, so that running sequences wait a bounded time for newcomers."""


class Scheduler:
    """Waiting and running sequences of one runner. `step` and everything else run on the same thread."""

    def __init__(self, runner: ModelRunner, weight_version: str) -> None:
        self._runner = runner
        self._weight_version = weight_version
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []
        self._batch: RunningBatch | None = None  # of the running sequences; None when they have changed

    @property
    def weight_version(self) -> str:
        """What tokens are sampled under from now on."""
        return self._weight_version

    @weight_version.setter
    def weight_version(self, version: str) -> None:
        self._flush()
        self._weight_version = version

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
        self._flush()
        ended = [sequence for sequence in (*self._running, *self._waiting) if chosen(sequence)]
        for sequence in ended:
            sequence.finish_reason = FinishReason.ABORT
        self._waiting = deque(s for s in self._waiting if s.finish_reason is None)
        self._release_finished()
        return ended

    def forget_cache(self) -> None:
        """Send running sequences back to the queue: they are computed anew, under the weights of that time."""
        self._flush()
        self._waiting.extendleft(reversed(self._running))
        self._running.clear()
        self._batch = None

    @torch.inference_mode()
    def step(self) -> list[Sequence]:
        """Prefill what fits, then decode one token for all that run; returns the sequences that finished."""
        finished = self._prefill()
        if self._running:
            if self._batch is None:
                self._batch = self._columns(self._running)
            logits = self._runner.decode(
                self._batch.tokens, self._batch.positions, self._batch.attended, even=self._batch.even
            )
            if self._batch.extend(logits):
                self._flush()
                finished += self._release_finished()
        return finished

    def _prefill(self) -> list[Sequence]:
        admitted = self._admit()
        if not admitted:
            return []
        self._flush()
        logits = self._runner.prefill(len(self._running), [sequence.tokens for sequence in admitted])
        first = self._columns(admitted)
        first.extend(logits)
        first.flush(self._weight_version)
        self._running += admitted
        self._batch = None
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

    def _columns(self, sequences: list[Sequence]) -> RunningBatch:
        return RunningBatch(sequences, self._runner.vocabulary_size, self._runner.device)

    def _flush(self) -> None:
        """Let every running sequence have the tokens that were sampled for it."""
        if self._batch is not None:
            self._batch.flush(self._weight_version)

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
            self._batch = None
        return released
