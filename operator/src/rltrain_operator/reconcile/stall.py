"""Slow or hung: how long the present training step runs, beside the attempt's own pace. Pure.

The driver counts both numbers itself, so neither a busy operator nor a lost connection makes a step look long. Only
training steps are judged, and none before the driver has a median: the first steps of an attempt load and compile.
"""

from __future__ import annotations

from dataclasses import dataclass

from rltrain_api.wire import DriverPhase, DriverStatus

# From here on a step is called slow, which is said and changes nothing.
SLOW_STEPS = 3
SLOW_SECONDS = 60.0
# Nothing is called hung earlier: what has a name of its own (a collective, an environment) is to be told by it.
STALLED_SECONDS = 600.0


@dataclass(frozen=True)
class Pace:
    """How the present step goes; `words` say it with the numbers, and are empty while there is nothing to say."""

    words: str = ""
    stalled: bool = False


def judge_pace(driver: DriverStatus, stalled_after_steps: int) -> Pace:
    """The pace of the step that the driver works on. `stalled_after_steps` is in medians; 0 never calls it stalled."""
    median, age = driver.step_seconds, driver.step_age_seconds
    if driver.phase is not DriverPhase.TRAINING or median is None or age is None:
        return Pace()
    words = f"step {driver.step + 1} has run for {age:.0f} s, and the median of the steps before it is {median:.1f} s"
    if stalled_after_steps and age >= max(stalled_after_steps * median, STALLED_SECONDS):
        return Pace(words, stalled=True)
    return Pace(words) if age >= max(SLOW_STEPS * median, SLOW_SECONDS) else Pace()
