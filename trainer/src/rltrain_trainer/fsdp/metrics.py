"""Numbers about a training batch: those that need no model, and those of all ranks together."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from rltrain_trainer.algorithms.statistics import EXTREMES, MINIMUM, finished
from rltrain_trainer.data.batch import TrainBatch


def batch_metrics(batch: TrainBatch) -> dict[str, float]:
    """Response length in tokens, and |old - rollout| log-probability over the trained tokens, in nats.

    The difference is how far the engines' arithmetic is from the trainer's; it is left out without old_logprobs and
    without trained tokens.
    """
    metrics = {"policy/response_length": batch.response_mask.sum(dim=-1).double().mean().item()}
    if batch.old_logprobs is None or not batch.loss_mask.any():
        return metrics
    difference = (batch.old_logprobs - batch.rollout_logprobs).abs()[batch.loss_mask].double()
    prefix = "policy/rollout_train_logprobs_abs_diff_"
    return metrics | {
        f"{prefix}mean": difference.mean().item(),
        f"{prefix}std": difference.std(correction=0).item(),
        f"{prefix}min": difference.min().item(),
        f"{prefix}max": difference.max().item(),
    }


def over_ranks(part: dict[str, Tensor]) -> dict[str, float]:
    """The metrics of a mini-batch from each rank's part of them. A collective; every rank gets the same numbers."""
    sums = {name: value for name, value in part.items() if not name.endswith(EXTREMES)}
    signs = {name: -1 if name.endswith(MINIMUM) else 1 for name in part if name.endswith(EXTREMES)}
    totals = torch.stack(list(sums.values()))
    dist.all_reduce(totals)
    together = dict(zip(sums, totals.tolist(), strict=True))
    if signs:
        extremes = torch.stack([sign * part[name] for name, sign in signs.items()])
        dist.all_reduce(extremes, dist.ReduceOp.MAX)
        together |= {name: sign * value for (name, sign), value in zip(signs.items(), extremes.tolist(), strict=True)}
    return finished(together)
