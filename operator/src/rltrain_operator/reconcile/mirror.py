"""From the driver's words to the job's status: numbers are copied, never invented."""

from __future__ import annotations

import math

from rltrain_api import names
from rltrain_api.status import Checkpoint, Engines, Progress, Status
from rltrain_api.wire import DriverStatus, EngineState
from rltrain_operator.reconcile.conditions import cut

LOOP_PREFIX = "train/"
MAX_LOOP_PARTS = 48
NOT_SERVING = frozenset({EngineState.DEAD, EngineState.JOINING, EngineState.DRAINING})


def mirror_progress(driver: DriverStatus, newest_checkpoint: Checkpoint | None) -> Progress:
    """Progress as the driver reports it.

    A new attempt reports step 0 until it has loaded its checkpoint; the step shown never falls below that checkpoint.
    """
    total = driver.total_steps
    step = max(driver.step, newest_checkpoint.latest_step if newest_checkpoint else 0)
    # Upstream's last checkpoint bears the number of the step that would have come next.
    step = min(step, total) if total else step
    return Progress(
        step=step,
        total_steps=total,
        epoch=driver.epoch,
        percent=min(100, step * 100 // total) if total else None,
        eta_seconds=_whole(driver.eta_seconds),
        reward=_finite(driver.reward),
        eval_score=_finite(driver.eval_score),
        tokens_per_second=_finite(driver.tokens_per_second),
        weight_version=driver.weight_version,
        phase=driver.phase.value,
        message=cut(driver.message) or None,
        updated=driver.updated,
    )


def mirror_checkpoint(driver: DriverStatus, known: Checkpoint | None) -> Checkpoint | None:
    """The newest committed checkpoint; what is known is kept while a new attempt has not found it yet."""
    if driver.checkpoint is None or (known is not None and driver.checkpoint.step < known.latest_step):
        return known
    found = driver.checkpoint
    return Checkpoint(latest_step=found.step, path=found.path, time=found.time, bytes=found.bytes)


def mirror_engines(job_name: str, desired: int, driver: DriverStatus | None) -> Engines:
    """Engines wanted and engines that serve; a driver that does not answer has none that count."""
    ready = sum(engine.state not in NOT_SERVING for engine in driver.engines) if driver else 0
    selector = f"{names.JOB_LABEL}={job_name},{names.ROLE_LABEL}={names.ROLE_INFERENCE}"
    return Engines(desired=desired, ready=ready, selector=selector)


def mirror_durations(driver: DriverStatus, status: Status) -> dict[str, float]:
    """The phases of life as they are, the parts of the loop as the driver counts them."""
    own = {name: value for name, value in (status.durations or {}).items() if not name.startswith(LOOP_PREFIX)}
    parts = sorted(driver.durations.items())[:MAX_LOOP_PARTS]
    loop = {f"{LOOP_PREFIX}{name}": round(max(0.0, seconds), 1) for name, seconds in parts}
    return own | loop


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _whole(value: float | None) -> int | None:
    return max(0, round(value)) if value is not None and math.isfinite(value) else None
