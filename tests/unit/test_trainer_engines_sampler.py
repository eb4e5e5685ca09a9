"""The sampler: truncation as transformers does it, log-probabilities of what was drawn from, reproducible draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from rltrain_trainer.engines.builtin.sampler import (
    SamplingTable,
    child_seed,
    penalise_repetition,
    sample,
    truncate,
    uniforms,
)
from rltrain_trainer.engines.contract import TokenSampling

CPU = torch.device("cpu")


def table_of(*rows: TokenSampling) -> SamplingTable:
    return SamplingTable.of(rows, CPU)


def logits_of(rows: int, vocabulary: int = 50) -> torch.Tensor:
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(3)) * 3


@dataclass(frozen=True)
class Truncation:
    sampling: TokenSampling
    reference: Callable[[torch.Tensor], torch.Tensor]


TRUNCATIONS = {
    "none": Truncation(TokenSampling(1), lambda logits: logits),
    "top-k": Truncation(TokenSampling(1, top_k=7), lambda logits: TopKLogitsWarper(7)(None, logits)),
    "top-p": Truncation(TokenSampling(1, top_p=0.8), lambda logits: TopPLogitsWarper(0.8)(None, logits)),
    "tiny top-p": Truncation(TokenSampling(1, top_p=1e-6), lambda logits: TopPLogitsWarper(1e-6)(None, logits)),
    "min-p": Truncation(TokenSampling(1, min_p=0.1), lambda logits: MinPLogitsWarper(0.1)(None, logits)),
    "top-k, then top-p": Truncation(
        TokenSampling(1, top_k=9, top_p=0.7),
        lambda logits: TopPLogitsWarper(0.7)(None, TopKLogitsWarper(9)(None, logits)),
    ),
}


@pytest.mark.parametrize("case", TRUNCATIONS.values(), ids=TRUNCATIONS.keys())
def test_truncation_keeps_what_transformers_keeps(case: Truncation) -> None:
    logits = logits_of(6)
    torch.testing.assert_close(truncate(logits, table_of(*[case.sampling] * 6)), case.reference(logits.clone()))


def test_each_row_has_its_own_parameters() -> None:
    logits = logits_of(4)
    mixed = [TokenSampling(1), TokenSampling(1, top_k=3), TokenSampling(1, top_p=0.5), TokenSampling(1, min_p=0.3)]
    together = truncate(logits, table_of(*mixed))
    for row, sampling in enumerate(mixed):
        torch.testing.assert_close(together[row : row + 1], truncate(logits[row : row + 1], table_of(sampling)))


def test_repetition_is_penalised_as_in_transformers() -> None:
    logits = logits_of(2)
    histories = [[1, 4, 4, 9], [0, 2]]
    penalised = penalise_repetition(logits, torch.tensor([[1.7], [1.0]]), histories)
    expected = RepetitionPenaltyLogitsProcessor(1.7)(torch.tensor([histories[0]]), logits[:1].clone())
    torch.testing.assert_close(penalised[:1], expected)
    torch.testing.assert_close(penalised[1], logits[1])


def test_logprobs_are_those_of_the_distribution_drawn_from() -> None:
    logits = logits_of(3)
    sampling = TokenSampling(1, temperature=0.5, top_k=5)
    tokens, logprobs = sample(logits, table_of(*[sampling] * 3), np.array([0.0, 0.4, 0.999999]))
    warped = TopKLogitsWarper(5)(None, TemperatureLogitsWarper(0.5)(None, logits.clone()))
    expected = warped.log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
    torch.testing.assert_close(logprobs, expected)
    assert torch.isfinite(logprobs).all()


def test_greedy_rows_take_the_largest_logit_at_temperature_one() -> None:
    logits = logits_of(2)
    greedy = TokenSampling(1, temperature=0.0)
    for table in (table_of(greedy, greedy), table_of(greedy, TokenSampling(1))):
        tokens, logprobs = sample(logits, table, np.array([0.9, 0.9]))
        assert tokens[0] == logits[0].argmax()
        torch.testing.assert_close(logprobs[0], logits[0].log_softmax(-1).max())


def test_draws_follow_the_distribution() -> None:
    probabilities = torch.tensor([0.5, 0.25, 0.0, 0.2, 0.05])
    draws = uniforms(np.full(20_000, 7, dtype=np.uint64), np.arange(20_000, dtype=np.uint64))
    logits = probabilities.log().expand(20_000, -1)
    tokens, _ = sample(logits, table_of(*[TokenSampling(1)] * 20_000), draws)
    frequencies = torch.bincount(tokens, minlength=5) / 20_000
    assert frequencies[2] == 0
    torch.testing.assert_close(frequencies, probabilities, atol=0.01, rtol=0)


def test_the_generator_is_splitmix64() -> None:
    # First outputs for the seed 1234567, as published with the algorithm's reference implementation.
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    draws = uniforms(np.full(3, 1234567, dtype=np.uint64), np.arange(3, dtype=np.uint64))
    assert draws.tolist() == [(value >> 11) / 2**53 for value in published]


def test_samples_of_one_seed_have_unrelated_streams() -> None:
    seeds = [child_seed(5, index) for index in range(100)]
    assert len(set(seeds)) == 100
    assert seeds[0] != child_seed(6, 0)
