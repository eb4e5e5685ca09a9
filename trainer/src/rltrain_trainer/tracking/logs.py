"""Log files that outlive the pods: where a process of the run keeps its log beside what it prints.

It must not know what is logged.
"""

from __future__ import annotations

import logging
from logging.handlers import RotatingFileHandler
from pathlib import Path

from rltrain_api.config import TrainerConfig
from rltrain_api.fetching import scheme_of

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
BESIDE_CHECKPOINTS = "logs"
MAX_LOG_BYTES = 2 * 1024 * 1024
_NOT_CHOSEN = TrainerConfig.model_fields["log_path"].default


def log_directory(trainer: TrainerConfig) -> Path:
    """trainer.log_path where it is not SkyRL's default, which dies with the pod; else a directory beside checkpoints.

    Where those are in an object store, the default after all: a log is appended to.
    """
    if trainer.log_path != _NOT_CHOSEN or scheme_of(trainer.ckpt_path):
        return Path(trainer.log_path).expanduser()
    return Path(trainer.ckpt_path).expanduser() / BESIDE_CHECKPOINTS


def keeps_all_logs(trainer: TrainerConfig) -> bool:
    """Whether every process of the run keeps its log, and not the driver alone: where trainer.log_path is chosen."""
    return bool(trainer.log_path != _NOT_CHOSEN)


def keep_log(directory: Path, name: str) -> None:
    """Write this process's log to `<directory>/<name>.log` too; `MAX_LOG_BYTES` of it.

    Raises OSError where the volume cannot be written, which is better known now than at the first checkpoint.
    """
    directory.mkdir(parents=True, exist_ok=True)
    kept = RotatingFileHandler(directory / f"{name}.log", maxBytes=MAX_LOG_BYTES // 2, backupCount=1, encoding="utf-8")
    kept.setFormatter(logging.Formatter(LOG_FORMAT))
    logging.getLogger().addHandler(kept)
