"""The console tracker: one JSON line per step, for people who read logs and for programs that collect them."""

from __future__ import annotations

import json
import logging

log = logging.getLogger("rltrain.metrics")


def log_metrics(step: int, metrics: dict[str, float]) -> None:
    """Write the metrics of `step`, rounded to six significant digits."""
    rounded = {name: float(f"{value:.6g}") for name, value in sorted(metrics.items())}
    log.info("%s", json.dumps({"step": step, **rounded}))
