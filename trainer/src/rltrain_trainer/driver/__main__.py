"""`rltrain-driver`: the entry point that the operator submits through Ray's Jobs API.

Environment: `RLTRAIN_RUN` (a RunDocument as JSON, from the submission) and `RLTRAIN_DRIVER_TOKEN` (from the job's
Secret). Exit code 0 when all steps are done, 1 when training failed, 3 when it was stopped before its last step.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Coroutine

import ray
from aiohttp import web
from pydantic import ValidationError

from rltrain_api import names
from rltrain_api.config import SkyRLTrainConfig
from rltrain_api.wire import FINISHED_LINGER_SECONDS, STOPPED_LINGER_SECONDS, DriverPhase, RunDocument
from rltrain_trainer.algorithms import check_registered
from rltrain_trainer.driver.bring_up import bring_up
from rltrain_trainer.driver.failures import describe
from rltrain_trainer.driver.modules import import_modules
from rltrain_trainer.driver.variables import read_variables
from rltrain_trainer.server.app import make_app
from rltrain_trainer.tracking.log_copy import log_copied
from rltrain_trainer.tracking.logs import LOG_FORMAT, keep_log, log_directory
from rltrain_trainer.tracking.run_state import DEFAULT_STOP_SECONDS, RunState

log = logging.getLogger("rltrain.driver")

# The operator polls every few seconds: a failure is shown this long, then the process ends and the Ray job fails.
FAILED_LINGER_SECONDS = 15
STOPPED_EARLY = 3


def read_document() -> RunDocument:
    """The run document of this submission."""
    text = os.environ.get(names.RUN_ENV)
    if text is None:
        raise SystemExit(f"{names.RUN_ENV} is not set: the driver is started by the operator, not by hand")
    try:
        return RunDocument.model_validate_json(text)
    except ValidationError as error:
        raise SystemExit(f"{names.RUN_ENV} is not a run document: {error}") from error


async def serve(state: RunState) -> web.AppRunner:
    """Answer the operator from the first second on."""
    runner = web.AppRunner(make_app(state, os.environ.get(names.DRIVER_TOKEN_ENV, "")), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "0.0.0.0", names.DRIVER_PORT).start()  # noqa: S104 - the pod's own address
    return runner


async def linger(state: RunState, seconds: float) -> None:
    """Stay reachable until the operator has read the end and dismisses the driver, `seconds` at most."""
    try:
        async with asyncio.timeout(seconds):
            await state.dismissed.wait()
    except TimeoutError:
        log.warning("nobody said /stop without a checkpoint within %d s of the end", seconds)


async def train(document: RunDocument, state: RunState) -> None:
    """Bring everything up, run the loop, close it."""
    config = SkyRLTrainConfig.model_validate(document.config)
    keep_log(log_directory(config.trainer), f"driver-{document.attempt}")
    variables = read_variables(os.environ)
    import_modules(document.modules)
    check_registered(config.trainer.algorithm)
    ray.init(address="auto", namespace=document.job.name, log_to_driver=True, logging_level=logging.WARNING)
    log.info("project %s, run %s, attempt %d", config.trainer.project_name, config.trainer.run_name, document.attempt)
    run = await bring_up(document, config, state, variables)
    await run.train()


async def until_stopped(training: Coroutine[None, None, None], state: RunState) -> None:
    """Run `training`; once a stop is asked for, give it until the stop's deadline to reach a step boundary.

    Before the first weights there is no step whose end is worth waiting for.
    """
    task = asyncio.create_task(training)
    stop = asyncio.create_task(state.stop_requested.wait())
    await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()
    seconds = 0.0 if state.phase is DriverPhase.STARTING else state.stop_deadline_seconds
    if not task.done():
        await asyncio.wait({task}, timeout=seconds)
    if not task.done():
        log.warning("no step boundary within %.0f s of the stop: ending as it is", seconds)
        task.cancel()
        await asyncio.wait({task})
        return
    await task


async def drive(document: RunDocument) -> int:
    """One attempt from start to exit code."""
    state = RunState(document.attempt)
    stop_on_signal(state)
    runner = await serve(state)
    began = time.monotonic()
    try:
        await until_stopped(train(document, state), state)
    except Exception as error:  # the process boundary: whatever it was, the operator must read why
        log.exception("attempt %d failed after %.0f s", document.attempt, time.monotonic() - began)
        state.error = describe(error)
        state.phase = DriverPhase.FAILED
        state.message = state.error.message
        await linger(state, FAILED_LINGER_SECONDS)
        return 1
    else:
        if state.step != state.total_steps:
            # Exit code 0 would make Ray, and so the job, call this a success.
            log.info("stopped after step %d of %s, as asked", state.step, state.total_steps)
            state.phase = DriverPhase.STOPPED
            state.message = f"stopped after step {state.step} of {state.total_steps}, as asked"
            await linger(state, STOPPED_LINGER_SECONDS)
            return STOPPED_EARLY
        state.phase = DriverPhase.FINISHED
        state.message = f"all {state.total_steps} steps done"
        await linger(state, FINISHED_LINGER_SECONDS)
        return 0
    finally:
        await runner.cleanup()


def stop_on_signal(state: RunState) -> None:
    """SIGTERM and SIGINT are a stop with a checkpoint, as /stop is, and leave no time to linger."""

    def stop() -> None:
        state.request_stop(checkpoint=True, deadline_seconds=DEFAULT_STOP_SECONDS)
        state.dismissed.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)


def main() -> None:
    """Entry point of the console script."""
    try:
        level = read_variables(os.environ).log_level
    except ValueError as error:
        raise SystemExit(str(error)) from error
    logging.basicConfig(level=level, format=LOG_FORMAT, stream=sys.stdout)
    document = read_document()
    with log_copied(document.config.get("trainer", {}), f"driver-{document.attempt}"):
        code = asyncio.run(drive(document))
    sys.exit(code)


if __name__ == "__main__":
    main()
