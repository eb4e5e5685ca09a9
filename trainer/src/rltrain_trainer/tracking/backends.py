"""The trackers that `trainer.logger` names: W&B, MLflow, SwanLab, TensorBoard, and the console.

Each is a small class over the tracker's own client, made on the thread that feeds it; a client is imported only when
its tracker is asked for. Credentials, addresses and modes (offline among them) come from the clients' own variables of
the environment, and none of them is ever written anywhere by us. It must not know when something is logged.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from rltrain_trainer.tracking.console import log_metrics

MLFLOW_ADDRESS = "MLFLOW_TRACKING_URI"
TENSORBOARD_DIRECTORY = "TENSORBOARD_DIR"
WANDB_DIRECTORY = "WANDB_DIR"
SWANLAB_DIRECTORY = "SWANLAB_LOG_DIR"
SWANLAB_MODE = "SWANLAB_MODE"


@dataclass(frozen=True)
class RunDescription:
    """What trackers are told of a run.

    Args:
        project: trainer.project_name.
        name: trainer.run_name.
        config: The resolved configuration, as plain data; it holds no secrets, which come by references only.
        directory: Where a tracker that writes files puts them, unless its own variable says otherwise.
        run_id: The tracker's name for the run that is continued; None for a new one.
    """

    project: str
    name: str
    config: Mapping[str, Any] = field(default_factory=dict)
    directory: Path = Path("trackers")
    run_id: str | None = None


class Backend(Protocol):
    """One open run of one tracker; all of it is called on one thread."""

    @property
    def run_id(self) -> str | None:
        """By what the run is found again after a restart; None where nothing is needed for that."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Note the metrics of a step."""

    def close(self) -> None:
        """Write what is left, and end the run."""


class Console:
    """One JSON line per step in the driver's log."""

    run_id = None

    def __init__(self, run: RunDescription) -> None:
        del run  # the log has its own headline

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """See `Backend.log`."""
        log_metrics(step, dict(metrics))

    def close(self) -> None:
        """See `Backend.close`."""


class TensorBoard:
    """Event files, below TENSORBOARD_DIR or the run's directory; a resumed run goes on in the same directory."""

    run_id = None

    def __init__(self, run: RunDescription) -> None:
        from torch.utils.tensorboard import SummaryWriter

        root = Path(os.environ.get(TENSORBOARD_DIRECTORY) or run.directory / "tensorboard")
        self._writer = SummaryWriter(str(root / run.project / run.name))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """See `Backend.log`."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        """See `Backend.close`."""
        self._writer.close()


class WeightsAndBiases:
    """A run at wandb.ai, or in files with WANDB_MODE offline."""

    def __init__(self, run: RunDescription) -> None:
        import wandb

        if not os.environ.get(WANDB_DIRECTORY):
            run.directory.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=run.project,
            name=run.name,
            config=dict(run.config),
            id=run.run_id,
            resume=None if run.run_id is None else "allow",
            dir=os.environ.get(WANDB_DIRECTORY) or str(run.directory),
            settings=wandb.Settings(silent=True, console="off"),
        )
        self.run_id: str | None = self._run.id

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """See `Backend.log`."""
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        """See `Backend.close`."""
        self._run.finish()


class MLflow:
    """A run at MLFLOW_TRACKING_URI, or in files below the run's directory."""

    def __init__(self, run: RunDescription) -> None:
        # Files are what MLflow calls a store in maintenance; here they are read by whoever imports them elsewhere.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        from mlflow.tracking import MlflowClient

        address = os.environ.get(MLFLOW_ADDRESS) or (run.directory / "mlflow").absolute().as_uri()
        self._client = MlflowClient(tracking_uri=address)
        if run.run_id is not None:
            self._client.update_run(run.run_id, status="RUNNING")
        self._id: str = run.run_id or self._new_run(run)
        self.run_id: str | None = self._id

    def _new_run(self, run: RunDescription) -> str:
        experiment = self._client.get_experiment_by_name(run.project)
        number = self._client.create_experiment(run.project) if experiment is None else experiment.experiment_id
        created: str = self._client.create_run(number, run_name=run.name).info.run_id
        self._client.log_dict(created, dict(run.config), "config.json")
        return created

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """See `Backend.log`."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        # MLflow takes letters, digits and _ - . : / in names; what a data source is called may have others.
        allowed = {
            "".join(c if c.isalnum() or c in "_-.:/ " else "_" for c in name): value for name, value in metrics.items()
        }
        self._client.log_batch(self._id, metrics=[Metric(name, value, now, step) for name, value in allowed.items()])

    def close(self) -> None:
        """See `Backend.close`."""
        self._client.set_terminated(self._id)


class SwanLab:
    """A run at swanlab.cn, or in files with SWANLAB_MODE offline or local."""

    def __init__(self, run: RunDescription) -> None:
        import swanlab  # type: ignore[import-untyped]  # ships no types

        directory = Path(os.environ.get(SWANLAB_DIRECTORY) or run.directory / "swanlab")
        directory.mkdir(parents=True, exist_ok=True)
        mode = os.environ.get(SWANLAB_MODE)
        self._run = swanlab.init(
            project=run.project,
            name=run.name,
            config=dict(run.config),
            log_dir=str(directory),
            mode="online" if mode == "cloud" else mode or None,
            id=run.run_id,
            resume=None if run.run_id is None else "allow",
        )
        self.run_id: str | None = self._run.id

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """See `Backend.log`."""
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        """See `Backend.close`."""
        self._run.finish()


BACKENDS: dict[str, Callable[[RunDescription], Backend]] = {
    "console": Console,
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
    "swanlab": SwanLab,
}
