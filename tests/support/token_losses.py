"""Losses, corrections and reductions once more, from their definitions: loops over sequences, Python's own numbers.

A second writing to hold the trainer's tensors against; it shares no line with them. `Row` is one sequence without its
padding. This module must not know torch's operators, but for making the draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rltrain_api.config import AlgorithmConfig

Numbers = list[float]


@dataclass(frozen=True)
class Draw:
    """A mini-batch: [rows, tokens] float64; the mask has ragged rows aligned on the right, holes, and an empty row."""

    logprobs: Tensor
    old: Tensor
    rollout: Tensor
    advantages: Tensor
    mask: Tensor
    groups: Tensor

    def rows(self) -> list[Row]:
        """The trained tokens of each sequence."""
        return [
            Row(*(tensor[row][self.mask[row]].tolist() for tensor in (self.logprobs, self.old, self.rollout)), adv)
            for row, adv in enumerate(line[on].tolist() for line, on in zip(self.advantages, self.mask, strict=True))
        ]

    def poisoned(self) -> Draw:
        """The same, with NaN where the mask is 0."""
        tensors = {name: getattr(self, name) for name in ("logprobs", "old", "rollout", "advantages")}
        return replace(self, **{name: torch.where(self.mask, tensor, torch.nan) for name, tensor in tensors.items()})


@dataclass(frozen=True)
class Row:
    """One sequence's trained tokens."""

    logprobs: Numbers
    old: Numbers
    rollout: Numbers
    advantages: Numbers


def draw(seed: int = 0, *, rows: int = 12, tokens: int = 7, spread: float = 0.4) -> Draw:
    """Ratios on both sides of every clip; `spread`: of the policies' log-probabilities around each other."""
    generator = torch.Generator().manual_seed(seed)

    def normal() -> Tensor:
        return torch.randn(rows, tokens, generator=generator, dtype=torch.float64)

    logprobs = -torch.rand(rows, tokens, generator=generator, dtype=torch.float64) * 3 - 0.05
    lengths = torch.randint(1, tokens + 1, (rows,), generator=generator)
    lengths[3] = 0
    mask = torch.arange(tokens, 0, -1) <= lengths[:, None]
    mask &= torch.rand(rows, tokens, generator=generator) < 0.9
    return Draw(
        logprobs=logprobs,
        old=logprobs + spread * normal(),
        rollout=logprobs + spread * normal(),
        advantages=normal(),
        mask=mask,
        groups=torch.arange(rows) // 3,
    )


def bounded(exponent: float) -> float:
    return math.exp(min(max(exponent, -20.0), 20.0))


def clipped(ratio: float, advantage: float, config: AlgorithmConfig) -> float:
    inside = min(max(ratio, 1 - config.eps_clip_low), 1 + config.eps_clip_high)
    return -min(ratio * advantage, inside * advantage)


def regular(row: Row, config: AlgorithmConfig) -> Numbers:
    return [
        clipped(bounded(new - old), advantage, config)
        for new, old, advantage in zip(row.logprobs, row.old, row.advantages, strict=True)
    ]


def dual_clip(row: Row, config: AlgorithmConfig) -> Numbers:
    return [
        min(loss, -config.clip_ratio_c * advantage) if advantage < 0 else loss
        for loss, advantage in zip(regular(row, config), row.advantages, strict=True)
    ]


def gspo(row: Row, config: AlgorithmConfig) -> Numbers:
    if not row.logprobs:
        return []
    differences = [new - old for new, old in zip(row.logprobs, row.old, strict=True)]
    ratio = math.exp(min(math.fsum(differences) / len(differences), 10.0))
    return [clipped(ratio, advantage, config) for advantage in row.advantages]


def sapo(row: Row, config: AlgorithmConfig) -> Numbers:
    result = []
    for new, old, advantage in zip(row.logprobs, row.old, row.advantages, strict=True):
        tau = config.sapo.tau_pos if advantage > 0 else config.sapo.tau_neg
        result.append(-advantage * 4 / tau / (1 + math.exp(-tau * (bounded(new - old) - 1))))
    return result


def cispo(row: Row, config: AlgorithmConfig) -> Numbers:
    low, high = 1 - config.cispo.cispo_eps_clip_low, 1 + config.cispo.cispo_eps_clip_high
    return [
        -advantage * min(max(bounded(new - old), low), high) * new
        for new, old, advantage in zip(row.logprobs, row.old, row.advantages, strict=True)
    ]


def rollout_is(row: Row, config: AlgorithmConfig) -> Numbers:
    result = []
    for new, engine, advantage in zip(row.logprobs, row.rollout, row.advantages, strict=True):
        ratio = bounded(new - engine)
        kept = 1 - config.eps_clip_low < ratio < 1 + config.eps_clip_high
        result.append(-ratio * advantage * new if kept else 0.0)
    return result


def dppo(row: Row, config: AlgorithmConfig) -> Numbers:
    result = []
    for new, engine, advantage in zip(row.logprobs, row.rollout, row.advantages, strict=True):
        moved = math.exp(new) - math.exp(engine)
        out = moved > config.eps_clip_high if advantage > 0 else -moved > config.eps_clip_low
        result.append(0.0 if out else -bounded(new - engine) * advantage)
    return result


def cross_entropy(row: Row, config: AlgorithmConfig) -> Numbers:
    return [-new for new in row.logprobs]


def importance_sampling(row: Row, config: AlgorithmConfig) -> Numbers:
    return [
        -bounded(new - old) * advantage
        for new, old, advantage in zip(row.logprobs, row.old, row.advantages, strict=True)
    ]


LOSSES: dict[str, Callable[[Row, AlgorithmConfig], Numbers]] = {
    "regular": regular,
    "dual_clip": dual_clip,
    "gspo": gspo,
    "sapo": sapo,
    "cispo": cispo,
    "rollout_is": rollout_is,
    "dppo": dppo,
    "cross_entropy": cross_entropy,
    "importance_sampling": importance_sampling,
}
CORRECTED = ("regular", "dual_clip", "gspo", "sapo", "cispo", "rollout_is", "dppo")


def covariances(rows: Sequence[Row]) -> Numbers:
    """Of all trained tokens in reading order."""
    old = [number for row in rows for number in row.old]
    advantages = [number for row in rows for number in row.advantages]
    first, second = math.fsum(old) / len(old), math.fsum(advantages) / len(advantages)
    return [(a - first) * (b - second) for a, b in zip(old, advantages, strict=True)]


def correction(row: Row, config: AlgorithmConfig) -> Numbers:
    """What the loss of each token is multiplied by."""
    settings = config.off_policy_correction
    exponents = [old - engine for old, engine in zip(row.old, row.rollout, strict=True)]
    ratios = [bounded(exponent) for exponent in exponents]
    low, high = settings.outlier_token_is_threshold_low, settings.outlier_token_is_threshold_high
    if any((high is not None and r > high) or (low is not None and r < low) for r in ratios):
        return [0.0] * len(ratios)
    low, high = settings.token_mask_is_threshold_low, settings.token_mask_is_threshold_high
    kept = [low is None or high is None or low <= ratio <= high for ratio in ratios]
    left = [exponent for exponent, on in zip(exponents, kept, strict=True) if on]
    weights = [1.0] * len(ratios)
    if settings.tis_ratio_type == "token":
        weights = [min(ratio, settings.token_tis_ratio_clip_high) for ratio in ratios]
    elif settings.tis_ratio_type == "sequence":
        weights = [min(bounded(math.fsum(left)), settings.sequence_tis_ratio_clip_high)] * len(ratios)
    if settings.sequence_mask_metric is not None and left:
        if settings.sequence_mask_metric == "geometric":
            whole, low, high = math.fsum(left) / len(left), settings.geo_mask_low, settings.geo_mask_high
        else:
            whole, low, high = math.fsum(left), settings.product_mask_low, settings.product_mask_high
        if not low <= bounded(whole) <= high:
            return [0.0] * len(ratios)
    return [weight if on else 0.0 for weight, on in zip(weights, kept, strict=True)]


def reduction(losses: Sequence[Numbers], name: str, *, max_seq_len: int, groups: Sequence[int]) -> float:
    """One number of the losses of each sequence's trained tokens."""
    match name:
        case "token_mean":
            return math.fsum(map(math.fsum, losses)) / max(sum(map(len, losses)), 1)
        case "sequence_mean":
            return math.fsum(math.fsum(row) / max(len(row), 1) for row in losses) / len(losses)
        case "seq_mean_token_sum_norm":
            return math.fsum(math.fsum(row) / max_seq_len for row in losses) / len(losses)
        case "prompt_mean":
            prompts = [[row for row, group in zip(losses, groups, strict=True) if group == g] for g in {*groups}]
            means = [math.fsum(map(math.fsum, rows)) / max(sum(map(len, rows)), 1) for rows in prompts]
            return math.fsum(means) / len(means)
    raise AssertionError(name)


REDUCTIONS = ("token_mean", "sequence_mean", "seq_mean_token_sum_norm", "prompt_mean")
