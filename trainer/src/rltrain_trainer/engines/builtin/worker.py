"""The engine's one working thread, and what other threads may ask of it.

The thread alternates between orders (add, abort, pause, …) and scheduler steps, so the scheduler needs no locks. A
failure in a step is final: the engine reports itself dead and every request fails. It must not know HTTP.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from rltrain_trainer.engines.builtin.scheduler import Scheduler
from rltrain_trainer.engines.builtin.sequences import Sequence
from rltrain_trainer.engines.builtin.weights import WeightReceiver, WeightState, WrongStateError
from rltrain_trainer.engines.contract import PauseMode

Result = TypeVar("Result")
OnFinish = Callable[[list[Sequence]], None]

JOIN_SECONDS = 30
STOPPED = "the engine has stopped; its log has the cause"


class GenerationPausedError(Exception):
    """No requests are taken now; they are again after the resume."""


class EngineStoppedError(Exception):
    """The working thread has ended, by order or by a failure."""


class Worker:
    """Runs a scheduler on a thread of its own. `on_finish` is called there with the sequences that ended."""

    def __init__(self, scheduler: Scheduler, weights: WeightReceiver, on_finish: OnFinish) -> None:
        self._scheduler = scheduler
        self._weights = weights
        self._on_finish = on_finish
        self._orders: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        self._pause: PauseMode | None = None
        self._drained: list[Future[None]] = []  # pauses with mode "wait" that are not complete yet
        self._stopping = False  # set by an order
        self._stopped = False  # set by the thread as it ends
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread after its current step."""

        def order() -> None:
            self._stopping = True

        self._submit(order)
        self._thread.join(JOIN_SECONDS)

    @property
    def is_alive(self) -> bool:
        """False once a step has failed, or after `stop`."""
        return self._thread.is_alive() and not self._stopped

    @property
    def is_paused(self) -> bool:
        """Whether generation is paused, or draining towards it."""
        return self._pause is not None

    def counts(self) -> tuple[int, int]:
        """(running, waiting) sequences; a moment old when read from another thread."""
        return self._scheduler.counts

    def add(self, sequences: list[Sequence]) -> Future[None]:
        """Queue sequences; fails with GenerationPausedError when a pause other than "keep" is on."""

        def order() -> None:
            if self._pause in (PauseMode.ABORT, PauseMode.WAIT):
                raise GenerationPausedError("Generation is paused")
            for sequence in sequences:
                self._scheduler.add(sequence)

        return self._submit(order)

    def abort(self, chosen: Callable[[Sequence], bool]) -> Future[None]:
        """End the chosen sequences with finish reason "abort"."""
        return self._submit(lambda: self._on_finish(self._scheduler.abort(chosen)))

    def pause(self, mode: PauseMode, *, clear_cache: bool) -> Future[None]:
        """Pause; the future is done when nothing is computed any more."""
        paused: Future[None] = Future()

        def order() -> None:
            self._pause = mode
            if mode == PauseMode.ABORT:
                self._on_finish(self._scheduler.abort())
            if mode == PauseMode.WAIT and not self._scheduler.is_idle:
                self._drained.append(paused)
                return
            if clear_cache:
                self._scheduler.forget_cache()
            paused.set_result(None)

        self._submit(order, paused)
        return paused

    def resume(self) -> Future[None]:
        """Go on; fails with WrongStateError unless the weights are whole."""

        def order() -> None:
            if self._weights.state != WeightState.WHOLE:
                raise WrongStateError(
                    f"the weights are {self._weights.state}: a weight update has not ended well; "
                    "begin another, send every parameter and finish it, then resume"
                )
            self._scheduler.weight_version = self._weights.version
            self._pause = None

        return self._submit(order)

    def begin_update(self) -> Future[None]:
        """Open a weight update; fails with WrongStateError unless paused and drained."""

        def order() -> None:
            if self._pause is None or self._drained:
                raise WrongStateError("generation is not paused; call /pause before /start_weight_update")
            self._weights.begin()

        return self._submit(order)

    def _submit(self, order: Callable[[], Result], failed: Future[Result] | None = None) -> Future[Result]:
        """Queue an order; without `failed` its future also carries the order's result."""
        future: Future[Any] = failed or Future()

        def run() -> None:
            result = order()
            if failed is None:
                future.set_result(result)

        self._orders.put((future, run))
        if self._stopped:  # checked after putting: the thread's last act is to refuse what it finds
            self._refuse_orders()
        return future

    @property
    def _works(self) -> bool:
        """Whether there are steps to do. A pause with mode "wait" begins only when there are none."""
        frozen = self._pause is not None and not self._drained
        return not frozen and not self._scheduler.is_idle

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._take_orders()
                if self._works:
                    self._on_finish(self._scheduler.step())
                if self._drained and self._scheduler.is_idle:
                    for paused in self._drained:
                        paused.set_result(None)
                    self._drained.clear()
        finally:
            # By order, or because a step raised (the thread's traceback goes to stderr): either way nobody may wait
            # for this thread any more.
            self._stopped = True
            self._on_finish(self._scheduler.abort())
            self._refuse_orders()

    def _refuse_orders(self) -> None:
        for future in self._drained:
            future.set_exception(EngineStoppedError(STOPPED))
        while not self._orders.empty():
            future, _ = self._orders.get()
            if future.set_running_or_notify_cancel():
                future.set_exception(EngineStoppedError(STOPPED))

    def _take_orders(self) -> None:
        """Carry out all orders at hand; without work, wait for the next."""
        block = not self._works
        while True:
            try:
                future, order = self._orders.get(block=block)
            except queue.Empty:
                return
            block = False
            if not future.set_running_or_notify_cancel():
                continue  # whoever gave the order has gone away
            try:
                order()
            except (GenerationPausedError, WrongStateError) as error:
                future.set_exception(error)
