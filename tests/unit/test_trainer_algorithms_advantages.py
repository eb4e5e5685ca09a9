from __future__ import annotations

import statistics
from typing import Any

import pytest
import torch

from rltrain_api.config import AlgorithmConfig
from rltrain_trainer.algorithms.advantages import compute_advantages, group_indices
from rltrain_trainer.algorithms.filters import zero_variance_filter


def last_token(scores: list[float], length: int = 3) -> torch.Tensor:
    rewards = torch.zeros(len(scores), length, dtype=torch.float64)
    rewards[:, -1] = torch.tensor(scores)
    return rewards


def expected_grpo(scores: list[float], groups: list[Any], *, by_std: bool) -> list[float]:
    """Written from the definition, with Python's own statistics."""
    result = []
    for score, group in zip(scores, groups, strict=True):
        members = [other for other, name in zip(scores, groups, strict=True) if name == group]
        mean = statistics.fmean(members) if len(members) > 1 else 0.0
        deviation = statistics.stdev(members) if len(members) > 1 else 1.0
        result.append((score - mean) / (deviation + 1e-6) if by_std else score - mean)
    return result


GRPO = {
    "two groups": ([1.0, 0.0, 3.0, 5.0], ["a", "a", "b", "b"]),
    "interleaved": ([1.0, 3.0, 0.0, 5.0, 1.0], [7, 9, 7, 9, 7]),
    "no variance": ([2.0, 2.0, 2.0], ["a", "a", "a"]),
    "singleton": ([2.5, 1.0, 0.0], ["a", "b", "b"]),
    "negative": ([-1.0, 1.0, -1.0, -1.0], ["a", "a", "a", "a"]),
}


@pytest.mark.parametrize("by_std", [True, False])
@pytest.mark.parametrize("case", GRPO.values(), ids=GRPO)
def test_grpo_against_the_definition(case: tuple[list[float], list[Any]], by_std: bool) -> None:
    scores, groups = case
    mask = torch.ones(len(scores), 3)
    advantages, returns = compute_advantages(
        "grpo", last_token(scores), mask, groups, config=AlgorithmConfig(grpo_norm_by_std=by_std)
    )
    expected = torch.tensor(expected_grpo(scores, groups, by_std=by_std), dtype=torch.float64)
    torch.testing.assert_close(advantages, expected[:, None].expand(-1, 3), rtol=0, atol=1e-9)
    torch.testing.assert_close(returns, advantages)


def test_grpo_vector_of_upstream() -> None:
    advantages, _ = compute_advantages(
        "grpo",
        last_token([3.0, 0.0, 9.0, 12.0]),
        torch.ones(4, 3),
        ["0", "0", "1", "1"],
        config=AlgorithmConfig(grpo_norm_by_std=False),
    )
    assert advantages[:, 0].tolist() == [1.5, -1.5, -1.5, 1.5]


def test_rewards_of_all_tokens_count_and_padding_gets_no_advantage() -> None:
    rewards = torch.tensor([[0.0, 1.0, 2.0], [0.0, 0.0, 1.0]])
    mask = torch.tensor([[True, True, True], [False, True, True]])
    advantages, _ = compute_advantages(
        "grpo", rewards, mask, torch.tensor([4, 4]), config=AlgorithmConfig(grpo_norm_by_std=False)
    )
    assert advantages.tolist() == [[1.0, 1.0, 1.0], [0.0, -1.0, -1.0]]


def test_an_unknown_estimator_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"advantage_estimator: best is not one of .*grpo"):
        compute_advantages("best", torch.zeros(1, 1), torch.ones(1, 1), ["a"], config=AlgorithmConfig())


def test_groups_are_numbered_in_order_of_appearance() -> None:
    assert group_indices(["x", "a", "x", "b"]).tolist() == [0, 1, 0, 2]
    assert group_indices(torch.tensor([9, 2, 9])).tolist() == [0, 1, 0]


def test_zero_variance_filter() -> None:
    cases = {
        "all equal": ([1.0, 1.0], [1, 1], [0, 0]),
        "different": ([1.0, 0.0], [1, 1], [1, 1]),
        "a response without trained tokens does not vote": ([1.0, 0.0, 1.0], [1, 0, 1], [0, 0, 0]),
        "alone": ([1.0], [1], [1]),
        "alone among masked ones": ([1.0, 0.0], [1, 0], [1, 0]),
    }
    for name, (scores, live, kept) in cases.items():
        mask = torch.tensor(live, dtype=torch.bool)[:, None].expand(-1, 3)
        result = zero_variance_filter(last_token(scores), mask, ["a"] * len(scores))
        assert result.any(dim=-1).long().tolist() == kept, name
