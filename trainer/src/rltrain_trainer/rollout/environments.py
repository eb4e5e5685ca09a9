"""Environments of skyrl-gym, run in threads so that a slow one does not hold up the others, nor a hung one the run.

A thread cannot be killed: a call that outlives its deadline is abandoned with its thread, and no longer counts as one
of the workers. It must not know tokens nor engines.
"""

from __future__ import annotations

import asyncio
import copy
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, TypeVar

import skyrl_gym  # type: ignore[import-untyped]  # ships no types

from rltrain_trainer.data.rows import PromptRow

Result = TypeVar("Result")

Message = dict[str, str]


class EnvironmentTimeoutError(TimeoutError):
    """A call into an environment did not return within its deadline."""


class EnvironmentPool:
    """At most `max_workers` calls into environments at a time, each on a thread and within `deadline_seconds`."""

    def __init__(self, max_workers: int, *, deadline_seconds: float) -> None:
        self._deadline_seconds = deadline_seconds
        self._free = asyncio.Semaphore(max_workers)

    async def run(self, what: str, call: Callable[[], Result]) -> Result:
        """The result of `call()`; EnvironmentTimeoutError, naming `what`, when it takes too long."""
        async with self._free:
            answer: Future[Result] = Future()
            # A daemon: neither the pool nor the end of the process waits for a call that hangs.
            threading.Thread(target=_carry_out, args=(call, answer), name=what, daemon=True).start()
            waiting = asyncio.wrap_future(answer)
            done, _ = await asyncio.wait({waiting}, timeout=self._deadline_seconds)
            if not done:
                waiting.cancel()
                raise EnvironmentTimeoutError(f"{what} did not return within {self._deadline_seconds:.0f} s")
            return waiting.result()


def _carry_out(call: Callable[[], Result], answer: Future[Result]) -> None:
    if not answer.set_running_or_notify_cancel():
        return
    try:
        result = call()
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is raised again by whoever awaits the answer
        answer.set_exception(error)
    else:
        answer.set_result(result)


class Environment:
    """One environment and one episode in it. Its methods block: call them through the pool."""

    def __init__(self, row: PromptRow, settings: Mapping[str, Any], max_turns: int) -> None:
        """`settings`: the environment class's own section of `environment.skyrl_gym`, if it has one."""
        # Environments keep and change what they are given, and all samples of a prompt share one row.
        extras = {**copy.deepcopy(row.extras), "max_turns": max_turns}
        self._environment = skyrl_gym.make(row.env_class, env_config=dict(settings), extras=extras)
        conversation, _ = self._environment.init([dict(message) for message in row.messages])
        self.conversation: list[Message] = list(conversation)

    def step(self, action: str) -> tuple[list[Message], float, bool]:
        """(observations, reward, done) of one action.

        `postprocessed_action`, by which an environment may rewrite the action, is not used: the tokens that are trained
        on are those that were sampled. A stop string ends a response where such an environment would cut it.
        """
        output = self._environment.step(action)
        return list(output["observations"]), float(output["reward"]), bool(output["done"])

    def end(self) -> dict[str, float]:
        """Close it; its numeric metrics of the episode."""
        metrics = self._environment.get_metrics()
        self._environment.close()
        return {name: float(value) for name, value in metrics.items() if isinstance(value, (bool, int, float))}
