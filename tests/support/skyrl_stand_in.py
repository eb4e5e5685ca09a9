"""A stand-in for upstream's driver, for tests without GPUs: it trains nothing and says what upstream's would say.

Installed as `skyrl.train.entrypoints.main_base` in front of the package skyrl 0.1.0, whose real parser, timers, tracker
and logging it uses: what it prints goes through the same code and through Ray, as upstream's own does. It begins where
the marker below `trainer.ckpt_path` says, writes that marker as upstream does, and takes from the configuration only
`trainer.epochs` (its steps), `trainer.ckpt_interval`, `trainer.logger` and `trainer.run_name` ("fails" and "hangs").
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import ray

import upstream_skyrl

RESOLVED = "resolved: "
PACKAGES = ("skyrl", "skyrl/train", "skyrl/train/entrypoints")


def install(directory: Path) -> None:
    """Write packages into the directory, which is to come first on PYTHONPATH: all of skyrl's, but for this module."""
    for package in PACKAGES:
        (directory / package).mkdir(parents=True)
        text = "from pkgutil import extend_path\n__path__ = extend_path(__path__, __name__)\n"
        (directory / package / "__init__.py").write_text(text)
    main = directory / PACKAGES[-1] / "main_base.py"
    main.write_text("from skyrl_stand_in import main\n\nif __name__ == '__main__':\n    main()\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """As upstream's: parse, say what was understood, and leave the rest to a task of Ray's."""
    tree = upstream_skyrl.resolved(sys.argv[1:] if arguments is None else arguments)
    print(RESOLVED + json.dumps(tree))
    ray.init(log_to_driver=True)
    ray.get(ray.remote(num_cpus=1)(_run).remote(tree["trainer"]))


def _run(trainer: dict[str, Any]) -> None:
    upstream_skyrl.resolved([])  # makes the package importable in this process
    upstream_skyrl.checks().configure_ray_worker_logging()
    logger = import_module("loguru").logger
    timer = upstream_skyrl.checks().Timer
    tracking = import_module("skyrl.train.utils.tracking").Tracking("project", "run", trainer["logger"])
    total, checkpoints = trainer["epochs"], Path(trainer["ckpt_path"])
    step = _resumed(checkpoints, logger)
    if trainer["run_name"] == "fails":
        raise RuntimeError("no such model")
    bar = import_module("tqdm").tqdm(total=total, initial=step, desc="Training Batches Processed")
    while step < total or trainer["run_name"] == "hangs":
        step += 1
        with timer("step"):
            logger.info("Example:\n  Output: Step 99: \n{'reward/avg_raw_reward': '99.0'}")
            time.sleep(0.2)
            if step % trainer["ckpt_interval"] == 0:
                _save(checkpoints, step, logger)
        metrics = {"reward/avg_raw_reward": step / 8, "trainer/epoch": step - 1, "trainer/global_step": step}
        tracking.log({**metrics, "timing/step": 0.2, "eval/all/avg_score": step / 16}, step=step, commit=True)
        bar.update(1)
    bar.close()
    _save(checkpoints, step + 1, logger)
    logger.info("Training done!")
    logger.complete()


def _resumed(checkpoints: Path, logger: Any) -> int:
    marker = checkpoints / "latest_ckpt_global_step.txt"
    if not marker.exists():
        return 0
    step = int(marker.read_text())
    logger.info(f"Resuming from global_step: {step}")
    return step


def _save(checkpoints: Path, step: int, logger: Any) -> None:
    folder = checkpoints / f"global_step_{step}"
    folder.mkdir(parents=True, exist_ok=True)
    (checkpoints / "latest_ckpt_global_step.txt").write_text(str(step))
    logger.info(f"Successfully saved checkpoint for global_step_{step} to: {folder}")
