"""Variables of the environment that driver and ranks read, by SkyRL's names: how patient they are, what they log.

SkyRL's configuration has no fields for these. Those of its variables that have one (`SKYRL_DISABLE_WANDB`,
`SKYRL_ASYNC_*`) are settled before a run, in `rltrain_api.resolve`. It must not know what is waited for.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

PLACEMENT = "SKYRL_RAY_PG_TIMEOUT_IN_S"
ENGINE_START = "SKYRL_ENGINE_STARTUP_TIMEOUT"
ENGINE_HEALTHY = "SKYRL_WAIT_UNTIL_INFERENCE_SERVER_HEALTHY_TIMEOUT_S"
WEIGHT_SYNC = "SKYRL_WEIGHT_SYNC_TIMEOUT"
COLLECTIVE = "SKYRL_WORKER_NCCL_TIMEOUT_IN_S"
LOG_LEVELS = ("SKYRL_LOG_LEVEL", "LOG_LEVEL")  # the first that is set counts


@dataclass(frozen=True)
class Variables:
    """What the environment says, or a default for what it does not. Times are in seconds."""

    log_level: int = logging.INFO
    placement_seconds: float = 180.0
    engine_start_seconds: float = 600.0
    weight_sync_seconds: float = 1800.0
    collective_seconds: float = 600.0  # of the ranks' process groups


def read_variables(environment: Mapping[str, str]) -> Variables:
    """Raises ValueError naming the variable whose value cannot be used. An empty value counts as none."""
    defaults = Variables()
    return Variables(
        log_level=_level(environment, defaults.log_level),
        placement_seconds=_seconds(environment, (PLACEMENT,), defaults.placement_seconds),
        engine_start_seconds=_seconds(environment, (ENGINE_START, ENGINE_HEALTHY), defaults.engine_start_seconds),
        weight_sync_seconds=_seconds(environment, (WEIGHT_SYNC,), defaults.weight_sync_seconds),
        collective_seconds=_seconds(environment, (COLLECTIVE,), defaults.collective_seconds),
    )


def _seconds(environment: Mapping[str, str], names: tuple[str, ...], default: float) -> float:
    name = next((name for name in names if environment.get(name)), None)
    if name is None:
        return default
    try:
        seconds = float(environment[name])
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ValueError(
            f"{name} is {environment[name]!r}, and must be a number of seconds above 0, such as {default:g}"
        )
    return seconds


def _level(environment: Mapping[str, str], default: int) -> int:
    name = next((name for name in LOG_LEVELS if environment.get(name)), None)
    if name is None:
        return default
    level = logging.getLevelNamesMapping().get(environment[name].upper())
    if level is None:
        raise ValueError(f"{name} is {environment[name]!r}, and must be DEBUG, INFO, WARNING or ERROR")
    return level
