"""Numbers about tokens that survive being split: how the metrics of micro-batches and ranks become the mini-batch's.

A metric is a scalar about the tokens of one call. Its name says how several of them join:

    *_max, *_min    the greatest, the least
    *_std           with the *_mean beside it, the deviation over all tokens together
    of sequences    (SEQUENCE_METRICS) the share of all sequences
    anything else   the mean over all trained tokens

`as_part` turns the metrics of one call into a part of the mini-batch's, `joined` adds parts up (everything is a sum
but extremes), and `finished` gives the metrics of all of them. Sums over ranks are left to who has ranks: `EXTREMES`
names what must be joined by maximum and minimum there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from rltrain_trainer.algorithms.masking import masked_mean

MAXIMUM, MINIMUM, DEVIATION, MEAN = "_max", "_min", "_std", "_mean"
EXTREMES = (MAXIMUM, MINIMUM)

SEQUENCE_METRICS = frozenset(
    {
        "tis_seq_clip_high_ratio",
        *(f"outlier_seq_{name}_ratio" for name in ("masked", "over_high", "under_low")),
        *(f"geo_sequence_mask_{name}_ratio" for name in ("masked", "over_high", "under_low")),
        *(f"product_sequence_mask_{name}_ratio" for name in ("masked", "over_high", "under_low")),
    }
)


@torch.no_grad()
def distribution(values: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """mean, std (biased), max and min over the positions where the mask is 1; 0 when there are none.

    values, mask: [batch, tokens].
    """
    mean = masked_mean(values, mask)
    variance = masked_mean((values - mean).square(), mask)
    counted, anything = mask.bool(), mask.any()
    return {
        "mean": mean,
        "std": variance.sqrt(),
        "max": torch.where(anything, values.masked_fill(~counted, -torch.inf).amax(), 0.0),
        "min": torch.where(anything, values.masked_fill(~counted, torch.inf).amin(), 0.0),
    }


def as_part(metrics: Mapping[str, Tensor | float], *, token_share: Tensor, sequence_share: Tensor) -> dict[str, Tensor]:
    """The metrics of one call as a part that `joined` can add to others, in float64.

    token_share: the share of the mini-batch's trained tokens that the call had, a scalar; sequence_share: the sequences
    with trained tokens that it had, over all sequences of the mini-batch.
    """
    part = {}
    numbers = {
        name: torch.as_tensor(value, device=token_share.device).detach().double() for name, value in metrics.items()
    }
    for name, number in numbers.items():
        if name.endswith(EXTREMES):
            nothing = -torch.inf if name.endswith(MAXIMUM) else torch.inf
            part[name] = torch.where(token_share > 0, number, nothing)
        elif (mean := _mean_beside(name)) in numbers:
            part[name] = (number.square() + numbers[mean].square()) * token_share
        else:
            of_sequences = name.rpartition("/")[2] in SEQUENCE_METRICS
            part[name] = number * (sequence_share if of_sequences else token_share)
    return part


def joined(total: dict[str, Tensor], part: dict[str, Tensor]) -> dict[str, Tensor]:
    """Two parts as one."""
    result = dict(total)
    for name, value in part.items():
        if name not in total:
            result[name] = value
        elif name.endswith(EXTREMES):
            result[name] = (
                torch.maximum(total[name], value) if name.endswith(MAXIMUM) else torch.minimum(total[name], value)
            )
        else:
            result[name] = total[name] + value
    return result


def finished(total: dict[str, float]) -> dict[str, float]:
    """The metrics of all parts together; extremes of no token at all are 0."""
    result = {}
    for name, value in total.items():
        mean = _mean_beside(name)
        if mean in total:
            result[name] = math.sqrt(max(value - total[mean] ** 2, 0.0))
        else:
            result[name] = 0.0 if name.endswith(EXTREMES) and math.isinf(value) else value
    return result


def _mean_beside(name: str) -> str | None:
    """The name of the mean that a deviation goes with; None for anything else."""
    return name.removesuffix(DEVIATION) + MEAN if name.endswith(DEVIATION) else None
