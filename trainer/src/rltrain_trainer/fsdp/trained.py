"""A model in training: a sharded model with its optimiser, its learning-rate schedule and its optimiser steps.

Every method is a collective. It must not know which model it is, nor what its loss is.
"""

from __future__ import annotations

import logging
import math

import torch
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_scheduler

from rltrain_api.config import OptimizerConfig
from rltrain_trainer.algorithms.statistics import EXTREMES
from rltrain_trainer.fsdp.gradients import Objective, accumulate_gradients
from rltrain_trainer.fsdp.metrics import over_ranks
from rltrain_trainer.fsdp.minibatches import MiniBatchShare
from rltrain_trainer.fsdp.sharded import Model, ShardedModel
from rltrain_trainer.fsdp.sharding import clip_gradients
from rltrain_trainer.fsdp.state import Trained

log = logging.getLogger(__name__)


class Training:
    """Optimiser and schedule of a sharded model, over `total_steps` optimiser steps.

    offload: keep the optimiser's state in the host's memory between steps.
    """

    def __init__(
        self, sharded: ShardedModel[Model], config: OptimizerConfig, *, total_steps: int, offload: bool = False
    ) -> None:
        self._sharded = sharded
        self._max_norm = config.max_grad_norm
        self._offload = offload
        self.optimizer = AdamW(
            [parameter for parameter in sharded.module.parameters() if parameter.requires_grad],
            lr=config.lr,
            betas=(config.adam_betas[0], config.adam_betas[1]),
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.scheduler: LambdaLR = get_scheduler(
            config.scheduler,
            self.optimizer,
            num_warmup_steps=config.num_warmup_steps,
            num_training_steps=total_steps,
        )

    @property
    def state(self) -> Trained:
        """What a checkpoint holds of it."""
        return Trained(self._sharded.module, self.optimizer, self.scheduler)

    @property
    def steps_done(self) -> int:
        """Optimiser steps that moved the schedule."""
        return self.scheduler.last_epoch

    def step(self, share: MiniBatchShare, objective: Objective) -> tuple[dict[str, float], dict[str, float]]:
        """Gradient, clipping and step of one mini-batch.

        Returns the objective's metrics and the step's own (grad_norm, lr, skipped_steps), the same on every rank. A
        gradient that is not finite is not stepped with, and does not move the schedule.
        """
        mesh = self._sharded.mesh
        part = accumulate_gradients(share, objective, mesh.device)
        learning_rate = self.optimizer.param_groups[0]["lr"]
        norm = clip_gradients(self._sharded.module, self._max_norm, mesh.copy_group)
        if math.isfinite(norm):
            self._move_state(mesh.device)
            self.optimizer.step()
            self.scheduler.step()
            self._move_state(torch.device("cpu"))
        else:
            log.warning("optimiser step skipped: the gradient's norm is %s", norm)
        self.optimizer.zero_grad(set_to_none=True)
        own = {"grad_norm": norm, "lr": learning_rate, "skipped_steps": float(not math.isfinite(norm))}
        return over_ranks(part if mesh.counts else _silent(part)), own

    def _move_state(self, device: torch.device) -> None:
        """Bring the optimiser's moments to `device`, where they are kept on the host between steps."""
        if not self._offload:
            return
        for state in self.optimizer.state.values():
            for name, value in state.items():
                if isinstance(value, Tensor):
                    state[name] = value.to(device)


def _silent(part: dict[str, Tensor]) -> dict[str, Tensor]:
    """The part of a rank whose rows another one counts: sums of nothing; extremes may be met twice."""
    return {name: value if name.endswith(EXTREMES) else torch.zeros_like(value) for name, value in part.items()}


def mean_of(steps: list[tuple[dict[str, float], dict[str, float]]], prefix: str) -> dict[str, float]:
    """The metrics of a training step from those of its optimiser steps: means, and the number of skipped ones."""
    together = [{f"{prefix}/{name}": value for name, value in objective.items()} for objective, _ in steps]
    for metrics, (_, own) in zip(together, steps, strict=True):
        metrics |= {
            f"{prefix}/grad_norm": own["grad_norm"],
            f"{prefix}/{prefix}_lr": own["lr"],
            f"{prefix}/skipped_steps": own["skipped_steps"],
        }
    mean = {name: sum(metrics[name] for metrics in together) / len(together) for name in together[0]}
    mean[f"{prefix}/skipped_steps"] *= len(steps)  # the one that is a count
    return mean
