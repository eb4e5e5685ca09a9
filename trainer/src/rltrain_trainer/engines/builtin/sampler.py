"""From logits to tokens and their log-probabilities, for many sequences with parameters of their own at once.

Randomness is a pure function of (seed, index of the token): a response does not depend on what else is in the batch,
nor on being frozen and recomputed. It must not know models nor requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from rltrain_trainer.engines.contract import TokenSampling

GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)
MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
MIX_2 = np.uint64(0x94D049BB133111EB)
UNIT = 2.0**-53


def uniforms(seeds: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """One number in [0, 1) per pair of uint64 (seed, index): output `index` of SplitMix64 (Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        state = seeds + (indices + np.uint64(1)) * GOLDEN_GAMMA
        state = (state ^ (state >> np.uint64(30))) * MIX_1
        state = (state ^ (state >> np.uint64(27))) * MIX_2
        state = state ^ (state >> np.uint64(31))
    result: np.ndarray = (state >> np.uint64(11)).astype(np.float64) * UNIT
    return result


def child_seed(seed: int, index: int) -> int:
    """The seed of sample `index` of a request that asks for several: unrelated streams from one seed."""
    mixed = uniforms(np.array([seed % 2**64], dtype=np.uint64), np.array([index], dtype=np.uint64))
    return int(mixed[0] / UNIT)


@dataclass(frozen=True)
class SamplingTable:
    """The parameters of a batch as columns `[n, 1]`; None where no row needs that step."""

    greedy: torch.Tensor | None
    all_greedy: bool
    temperature: torch.Tensor | None
    min_p: torch.Tensor | None
    top_k: torch.Tensor | None
    top_p: torch.Tensor | None
    repetition_penalty: torch.Tensor | None

    @classmethod
    def of(cls, rows: Sequence[TokenSampling], device: torch.device) -> SamplingTable:
        """The columns of a batch."""

        def column(values: list[float], neutral: float) -> torch.Tensor | None:
            if all(value == neutral for value in values):
                return None
            return torch.tensor(values, dtype=torch.float32, device=device)[:, None]

        greedy = [row.temperature == 0 for row in rows]
        top_k = [row.top_k if row.top_k > 0 else 0 for row in rows]
        return cls(
            greedy=torch.tensor(greedy, device=device)[:, None] if any(greedy) else None,
            all_greedy=all(greedy),
            temperature=column([row.temperature or 1.0 for row in rows], 1.0),
            min_p=column([row.min_p for row in rows], 0.0),
            top_k=torch.tensor(top_k, device=device)[:, None] if any(top_k) else None,
            top_p=column([row.top_p for row in rows], 1.0),
            repetition_penalty=column([row.repetition_penalty for row in rows], 1.0),
        )


def penalise_repetition(
    logits: torch.Tensor, penalty: torch.Tensor, histories: Sequence[Sequence[int]]
) -> torch.Tensor:
    """Divide the positive logits of tokens seen before by the penalty, multiply the negative (Keskar et al. 2019).

    logits [n, vocabulary], penalty [n, 1], histories: the tokens of each sequence so far, prompt included.
    """
    seen = torch.zeros_like(logits, dtype=torch.bool)
    for row, history in enumerate(histories):
        seen[row, torch.as_tensor(history, device=logits.device)] = True
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def truncate(logits: torch.Tensor, table: SamplingTable) -> torch.Tensor:
    """Set the logits that min-p, top-k and top-p (in this order) exclude to minus infinity. logits [n, vocabulary]."""
    if table.min_p is not None:
        probabilities = logits.softmax(-1)
        logits = logits.masked_fill(probabilities < table.min_p * probabilities.amax(-1, keepdim=True), -torch.inf)
    if table.top_k is None and table.top_p is None:
        return logits
    ordered, order = logits.sort(-1, descending=True)
    if table.top_k is not None:
        rank = torch.arange(logits.shape[-1], device=logits.device)
        ordered = ordered.masked_fill((table.top_k > 0) & (rank >= table.top_k), -torch.inf)
    if table.top_p is not None:
        probabilities = ordered.softmax(-1)
        mass_before = probabilities.cumsum(-1) - probabilities
        excluded = mass_before >= table.top_p
        excluded[:, 0] = False  # the most probable token always stays
        ordered = ordered.masked_fill(excluded, -torch.inf)
    return torch.empty_like(logits).scatter_(-1, order, ordered)


def sample(logits: torch.Tensor, table: SamplingTable, draws: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw one token per row. logits [n, vocabulary] float32 (penalties applied), draws [n] uniform in [0, 1).

    Returns tokens [n] and their log-probabilities [n] under the distribution that was drawn from: after temperature
    and truncation. Greedy rows take the largest logit and report it at temperature 1.
    """
    if table.temperature is not None:
        logits = logits / table.temperature
    kept = truncate(logits, table)
    largest = kept.amax(-1, keepdim=True)
    # The cumulative distribution in float64: float32 would lose rare tokens of a large vocabulary.
    cumulative = (kept - largest).exp_().cumsum(-1, dtype=torch.float64)
    mass = cumulative[:, -1:]
    if table.all_greedy:
        tokens = logits.argmax(-1, keepdim=True)
    else:
        targets = torch.from_numpy(draws).to(logits.device)[:, None] * mass
        tokens = torch.searchsorted(cumulative, targets, right=True).clamp_(max=logits.shape[-1] - 1)
        if table.greedy is not None:
            tokens = torch.where(table.greedy, logits.argmax(-1, keepdim=True), tokens)
    logprobs = kept.gather(-1, tokens) - largest - mass.log()
    return tokens[:, 0], logprobs[:, 0].float()
