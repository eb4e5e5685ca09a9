"""Environments of skyrl-gym, run in threads so that a slow one does not hold up the others, nor a hung one the run.

A thread cannot be killed: a call that outlives its deadline is abandoned with its thread, and no longer counts as one
of the workers. It must not know tokens nor engines.
"""

from __future__ import annotations

import asyncio
import copy
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import skyrl_gym  # type: ignore[import-untyped]  # ships no types

from rltrain_trainer.data.rows import Message, PromptRow
from rltrain_trainer.rollout import judge

Result = TypeVar("Result")

# SkyRL has settings for this environment and leaves the environment itself to its examples.
skyrl_gym.register(judge.NAME, judge.JudgeEnvironment)


class EnvironmentTimeoutError(TimeoutError):
    """A call into an environment did not return within its deadline."""


class EnvironmentFailedError(ValueError):
    """An environment raised; the message names it, its row and what it raised."""


class EnvironmentPool:
    """At most `max_workers` calls into environments at a time, each on a thread and within `deadline_seconds`.

    0 workers: one call after the other, as SkyRL has it, and still on a thread, so that a call that hangs is left. The
    threads take call after call: a step of training makes hundreds, most of which last microseconds.
    """

    def __init__(self, max_workers: int, *, deadline_seconds: float) -> None:
        self._max_workers = max(max_workers, 1)
        self._deadline_seconds = deadline_seconds
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._workers: set[_Worker] = set()
        self._open = 0
        self._watch: asyncio.TimerHandle | None = None
        weakref.finalize(self, _dismiss, self._calls, self._workers)

    async def run(self, what: str, call: Callable[[], Result]) -> Result:
        """The result of `call()`. Raises EnvironmentTimeoutError or EnvironmentFailedError, which name `what`."""
        loop = asyncio.get_running_loop()
        asked = _Call(what, call, loop, loop.create_future())
        self._open += 1
        if len(self._workers) < min(self._open, self._max_workers):
            self._hire()
        self._calls.put(asked)
        if self._watch is None:
            self._watch = loop.call_later(self._deadline_seconds, self._look, loop)
        try:
            result: Result = await asked.answer
        except EnvironmentTimeoutError:
            raise
        except Exception as error:  # an environment is somebody else's code, and may raise anything
            raise EnvironmentFailedError(f"{what} raised {type(error).__name__}: {error}") from error
        finally:
            self._open -= 1
        return result

    def _hire(self) -> None:
        worker = _Worker(self._calls)
        self._workers.add(worker)
        worker.start()

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """Give up the calls that have taken too long, with their threads; look again when the next may have."""
        now = time.monotonic()
        next_look = self._deadline_seconds
        for worker in list(self._workers):
            busy = worker.busy
            if busy is None:
                continue
            call, began = busy
            left = began + self._deadline_seconds - now
            if left > 0:
                next_look = min(next_look, left)
                continue
            worker.left = True
            self._workers.remove(worker)
            self._hire()
            call.fail(EnvironmentTimeoutError(f"{call.what} did not return within {self._deadline_seconds:g} s"))
        self._watch = loop.call_later(next_look, self._look, loop) if self._open else None


@dataclass(frozen=True)
class _Call:
    """One call and where its answer goes."""

    what: str
    function: Callable[[], Any]
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[Any]

    def fail(self, error: BaseException) -> None:
        """Raise `error` where the answer is awaited; on the loop's thread."""
        if not self.answer.done():
            self.answer.set_exception(error)

    def succeed(self, result: object) -> None:
        """Answer; on the loop's thread."""
        if not self.answer.done():
            self.answer.set_result(result)


class _Worker(threading.Thread):
    """Carries out calls until it is dismissed, or left with a call that hangs.

    A daemon: neither the pool nor the end of the process waits for a call that hangs.
    """

    def __init__(self, calls: queue.SimpleQueue[_Call | None]) -> None:
        super().__init__(name="environments", daemon=True)
        self._calls = calls
        self.busy: tuple[_Call, float] | None = None  # the call at hand, and when it began
        self.left = False

    def run(self) -> None:
        """See the class."""
        while (call := self._calls.get()) is not None:
            if self.left:
                self._calls.put(call)  # for those who are watched
                return
            if call.answer.cancelled():
                continue
            self.busy = call, time.monotonic()
            try:
                result = call.function()
            except BaseException as error:  # noqa: BLE001 - whatever it is, whoever awaits the answer is told
                self._tell(call, call.fail, error)
            else:
                self._tell(call, call.succeed, result)
            self.busy = None

    def _tell(self, call: _Call, tell: Callable[[Any], None], value: object) -> None:
        if not call.loop.is_closed():  # a run that has ended waits for nothing any more
            call.loop.call_soon_threadsafe(tell, value)


def _dismiss(calls: queue.SimpleQueue[_Call | None], workers: set[_Worker]) -> None:
    for _ in workers:
        calls.put(None)


class Environment:
    """One environment and one episode in it. Its methods block: call them through the pool."""

    def __init__(self, row: PromptRow, settings: object, max_turns: int) -> None:
        """`settings`: the environment class's own section of `environment.skyrl_gym`; an empty dict if it has none."""
        # Environments keep and change what they are given, and all samples of a prompt share one row.
        extras = {**copy.deepcopy(row.extras), "max_turns": max_turns}
        self._environment = skyrl_gym.make(row.env_class, env_config=settings, extras=extras)
        conversation, _ = self._environment.init([dict(message) for message in row.messages])
        self.conversation: list[Message] = list(conversation)

    def step(self, action: str) -> tuple[list[Message], float, bool]:
        """(observations, reward, done) of one action.

        `postprocessed_action`, by which an environment may rewrite the action, is not used: the tokens that are trained
        on are those that were sampled. A stop string ends a response where such an environment would cut it.
        """
        output = self._environment.step(action)
        return list(output["observations"]), float(output["reward"]), bool(output["done"])

    def end(self) -> dict[str, Any]:
        """Close it; its metrics of the episode."""
        metrics: dict[str, Any] = dict(self._environment.get_metrics())
        self._environment.close()
        return metrics


def check_registered(rows: Iterable[PromptRow]) -> None:
    """Raises ValueError, naming the row and what there is, for the first row with an environment nobody registered."""
    registered = sorted(skyrl_gym.envs.registration.registry)
    for row in rows:
        if row.env_class not in registered:
            raise ValueError(
                f"row {row.uid}: environment {row.env_class!r} is registered by nobody; registered are "
                f"{', '.join(registered)}. Correct env_class, or name the module that registers it in "
                "spec.runtime.modules"
            )
