"""Advantage estimators against their definitions, written with loops and Python's own statistics."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from rltrain_api.config import AlgorithmConfig
from rltrain_trainer.algorithms import compute_advantages, register_advantage_estimator
from rltrain_trainer.algorithms.advantages import ADVANTAGE_ESTIMATORS, normalized_over_batch
from rltrain_trainer.algorithms.groups import group_indices
from rltrain_trainer.algorithms.steps import step_wise_advantages

Numbers = Sequence[float]


def last_token(scores: Numbers, length: int = 3) -> Tensor:
    rewards = torch.zeros(len(scores), length, dtype=torch.float64)
    rewards[:, -1] = torch.tensor(scores)
    return rewards


def grpo(score: float, group: Numbers) -> float:
    mean = statistics.fmean(group) if len(group) > 1 else 0.0
    return (score - mean) / ((statistics.stdev(group) if len(group) > 1 else 1.0) + 1e-6)


def dr_grpo(score: float, group: Numbers) -> float:
    return score - (statistics.fmean(group) if len(group) > 1 else 0.0)


def rloo(score: float, group: Numbers) -> float:
    others = list(group)
    others.remove(score)
    return score - statistics.fmean(others) if others else 0.0


def maxrl(score: float, group: Numbers) -> float:
    mean = statistics.fmean(group)
    return (score - mean) / (mean + 1e-6) if len(group) > 1 else score


OF_GROUPS: dict[str, tuple[str, AlgorithmConfig, Callable[[float, Numbers], float]]] = {
    "grpo": ("grpo", AlgorithmConfig(), grpo),
    "grpo without deviation": ("grpo", AlgorithmConfig(grpo_norm_by_std=False), dr_grpo),
    "rloo": ("rloo", AlgorithmConfig(), rloo),
    "maxrl": ("maxrl", AlgorithmConfig(), maxrl),
}
SCORES: dict[str, tuple[list[float], list[Any]]] = {
    "two groups": ([1.0, 0.0, 3.0, 5.0], ["a", "a", "b", "b"]),
    "interleaved": ([1.0, 3.0, 0.0, 5.0, 1.0], [7, 9, 7, 9, 7]),
    "no variance": ([2.0, 2.0, 2.0], ["a", "a", "a"]),
    "singleton": ([2.5, 1.0, 0.0], ["a", "b", "b"]),
    "negative": ([-1.0, 1.0, -1.0, -1.0], ["a", "a", "a", "a"]),
    "no reward at all": ([0.0, 0.0, 0.0], ["a", "a", "b"]),
}


@pytest.mark.proves("trainer.algorithm.advantage_estimator", "trainer.algorithm.grpo_norm_by_std")
@pytest.mark.parametrize("estimator", OF_GROUPS)
@pytest.mark.parametrize("case", SCORES.values(), ids=SCORES)
def test_estimators_of_groups(case: tuple[list[float], list[Any]], estimator: str) -> None:
    scores, groups = case
    name, config, definition = OF_GROUPS[estimator]
    mask = torch.tensor([[0.0, 1.0, 1.0]]).expand(len(scores), 3)
    advantages, returns = compute_advantages(name, last_token(scores), mask, groups, config=config)
    for row, (score, group) in enumerate(zip(scores, groups, strict=True)):
        members = [other for other, of in zip(scores, groups, strict=True) if of == group]
        expected = definition(score, members)
        assert advantages[row].tolist() == pytest.approx([0.0, expected, expected], abs=1e-9)
    torch.testing.assert_close(returns, advantages)


UPSTREAM_VECTORS: dict[str, tuple[list[float], list[float], AlgorithmConfig]] = {
    "grpo": ([3.0, 0.0, 9.0, 12.0], [1.5, -1.5, -1.5, 1.5], AlgorithmConfig(grpo_norm_by_std=False)),
    "rloo": ([6.0, 3.0, 9.0, 12.0], [3.0, -3.0, -3.0, 3.0], AlgorithmConfig()),
    "maxrl": ([6.0, 3.0, 9.0, 12.0], [1.5 / 4.5, -1.5 / 4.5, -1.5 / 10.5, 1.5 / 10.5], AlgorithmConfig()),
}


@pytest.mark.parametrize("name", UPSTREAM_VECTORS)
def test_vectors_of_upstream(name: str) -> None:
    scores, expected, config = UPSTREAM_VECTORS[name]
    advantages, _ = compute_advantages(name, last_token(scores), torch.ones(4, 3), [0, 0, 1, 1], config=config)
    assert advantages[:, 0].tolist() == pytest.approx(expected, abs=1e-6)


def over_time() -> tuple[Tensor, Tensor, Tensor]:
    """rewards, values, mask: float64, right-aligned rows of 5, 3, 1 and 0 tokens, NaN where there is none."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.arange(5, 0, -1) <= torch.tensor([5, 3, 1, 0])[:, None]
    rewards, values = torch.randn(2, 4, 5, generator=generator, dtype=torch.float64)
    return torch.where(mask, rewards, torch.nan), torch.where(mask, values, torch.nan), mask


def whitened(rows: list[list[float]]) -> list[float]:
    numbers = [number for row in rows for number in row]
    mean, deviation = statistics.fmean(numbers), math.sqrt(statistics.variance(numbers) + 1e-8)
    return [(number - mean) / deviation for number in numbers]


@pytest.mark.proves("trainer.algorithm.gamma", "trainer.algorithm.lambd")
@pytest.mark.parametrize(("gamma", "lambd"), [(1.0, 1.0), (0.9, 1.0), (0.9, 0.5)])
def test_gae_is_the_discounted_sum_of_temporal_differences(gamma: float, lambd: float) -> None:
    rewards, values, mask = over_time()
    advantages, returns = compute_advantages(
        "gae", rewards, mask, [0, 1, 2, 3], values=values, config=AlgorithmConfig(gamma=gamma, lambd=lambd)
    )
    expected: list[list[float]] = []
    for row in range(4):
        r, v = rewards[row][mask[row]].tolist(), [*values[row][mask[row]].tolist(), 0.0]
        errors = [r[t] + gamma * v[t + 1] - v[t] for t in range(len(r))]
        expected.append([sum((gamma * lambd) ** (u - t) * errors[u] for u in range(t, len(r))) for t in range(len(r))])
        assert returns[row][mask[row]].tolist() == pytest.approx(
            [a + b for a, b in zip(expected[row], v, strict=False)]
        )
    assert advantages[mask].tolist() == pytest.approx(whitened(expected))
    assert not advantages[~mask].any()


@pytest.mark.parametrize("gamma", [1.0, 0.7])
def test_reinforce_plus_plus_is_the_discounted_sum_of_rewards_to_come(gamma: float) -> None:
    rewards, _, mask = over_time()
    advantages, returns = compute_advantages(
        "reinforce++", rewards, mask, [0, 1, 2, 3], config=AlgorithmConfig(gamma=gamma)
    )
    expected = []
    for row in range(4):
        r = rewards[row][mask[row]].tolist()
        expected.append([sum(gamma ** (u - t) * r[u] for u in range(t, len(r))) for t in range(len(r))])
        assert returns[row][mask[row]].tolist() == pytest.approx(expected[row])
    assert advantages[mask].tolist() == pytest.approx(whitened(expected))
    assert not advantages[~mask].any()


VECTORS_OVER_TIME: dict[str, tuple[str, list[float], float, list[float]]] = {
    "gae": ("gae", [1, 1, 1], 1.0, [6, 5, 3]),
    "gae discounted": ("gae", [1, 1, 1], 0.5, [2.75, 3.5, 3]),
    "reinforce++": ("reinforce++", [1, 1, 1], 1.0, [6, 5, 3]),
    "reinforce++ discounted": ("reinforce++", [1, 1, 1], 0.5, [2.75, 3.5, 3]),
    "reinforce++ begins anew where the mask is 0": ("reinforce++", [1, 1, 0], 1.0, [3, 2, 3]),
}


@pytest.mark.parametrize("case", VECTORS_OVER_TIME.values(), ids=VECTORS_OVER_TIME)
def test_vectors_of_upstream_over_time(case: tuple[str, list[float], float, list[float]]) -> None:
    name, mask, gamma, expected = case
    _, returns = compute_advantages(
        name,
        torch.tensor([[1.0, 2.0, 3.0]]),
        torch.tensor([mask]),
        ["a"],
        values=torch.tensor([[0.5, 1.0, 1.5]]),
        config=AlgorithmConfig(gamma=gamma),
    )
    assert returns.tolist() == [pytest.approx(expected)]


@pytest.mark.parametrize("name", ADVANTAGE_ESTIMATORS)
@pytest.mark.parametrize("tokens", [0, 1])
def test_batches_with_next_to_nothing_stay_finite(name: str, tokens: int) -> None:
    mask = torch.tensor([[0.0, 0.0], [0.0, float(tokens)]])
    advantages, returns = compute_advantages(
        name, mask * 2, mask, ["a", "b"], values=torch.ones(2, 2), config=AlgorithmConfig()
    )
    assert advantages.isfinite().all()
    assert returns.isfinite().all()
    assert not advantages[mask == 0].any()


def test_rewards_of_all_tokens_count() -> None:
    rewards = torch.tensor([[0.0, 1.0, 2.0], [torch.nan, 0.0, 1.0]])
    mask = torch.tensor([[True, True, True], [False, True, True]])
    advantages, _ = compute_advantages(
        "grpo", rewards, mask, torch.tensor([4, 4]), config=AlgorithmConfig(grpo_norm_by_std=False)
    )
    assert advantages.tolist() == [[1.0, 1.0, 1.0], [0.0, -1.0, -1.0]]


@pytest.mark.proves("trainer.algorithm.advantage_batch_normalize")
def test_normalisation_over_the_batch() -> None:
    advantages = torch.tensor([[9.0, 1.0, 2.0], [9.0, 9.0, 6.0]], dtype=torch.float64)
    mask = torch.tensor([[False, True, True], [False, False, True]])
    result = normalized_over_batch(advantages, mask)
    deviation = statistics.pstdev([1.0, 2.0, 6.0])
    assert result[mask].tolist() == pytest.approx([-2 / deviation, -1 / deviation, 3 / deviation])
    assert not result[~mask].any()
    wider = torch.nn.functional.pad(advantages, (4, 0)), torch.nn.functional.pad(mask, (4, 0))
    torch.testing.assert_close(normalized_over_batch(*wider)[:, 4:], result)
    equal = normalized_over_batch(torch.full((1, 2), 3.0), torch.ones(1, 2))
    assert equal.tolist() == [[0.0, 0.0]]


def test_steps_get_what_the_last_of_their_trajectory_has() -> None:
    """Trajectories of 2, 1, 3 and 1 steps to two prompts; rewards of earlier steps are nobody's."""
    trajectory_ids = torch.tensor([5, 5, 2, 7, 7, 7, 8])
    ends = torch.tensor([False, True, True, False, False, True, True])
    mask = torch.tensor([[1, 1], [0, 1], [1, 1], [0, 1], [1, 1], [1, 1], [0, 1]], dtype=torch.bool)
    rewards = torch.tensor([[9.0, 9], [0, 3], [0, 1], [9, 9], [9, 9], [1, 1], [0, 4]])
    advantages, returns = step_wise_advantages(
        "rloo",
        rewards,
        mask,
        torch.tensor([0, 0, 0, 1, 1, 1, 1]),
        trajectory_ids=trajectory_ids,
        is_last_step=ends,
        config=AlgorithmConfig(),
    )
    expected = torch.tensor([2.0, 2, -2, -2, -2, -2, 2])[:, None] * mask
    torch.testing.assert_close(advantages, expected)
    torch.testing.assert_close(returns, expected)


@pytest.mark.parametrize("name", ["gae", "reinforce++"])
def test_steps_cannot_be_valued_by_what_followed(name: str) -> None:
    one = torch.ones(1, 1)
    numbers = torch.zeros(1, dtype=torch.int64)
    with pytest.raises(ValueError, match=rf"{re.escape(name)} cannot value steps apart; use grpo"):
        step_wise_advantages(
            name,
            one,
            one,
            numbers,
            trajectory_ids=numbers,
            is_last_step=torch.tensor([True]),
            config=AlgorithmConfig(),
        )


def test_a_users_estimator_is_found_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ADVANTAGE_ESTIMATORS, "_functions", dict(ADVANTAGE_ESTIMATORS))

    @register_advantage_estimator("constant")
    def constant(token_rewards, response_mask, group_ids, *, values, config):  # type: ignore[no-untyped-def]
        return torch.full_like(token_rewards, config.gamma), token_rewards

    advantages, _ = compute_advantages(
        "constant", torch.zeros(1, 2), torch.ones(1, 2), ["a"], config=AlgorithmConfig(gamma=0.25)
    )
    assert advantages.tolist() == [[0.25, 0.25]]
    with pytest.raises(ValueError, match=r"advantage_estimator: grpo is registered already"):
        register_advantage_estimator("grpo")(constant)


def test_an_unknown_estimator_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"advantage_estimator: best is not one of .*grpo.*spec.runtime.modules"):
        compute_advantages("best", torch.zeros(1, 1), torch.ones(1, 1), ["a"], config=AlgorithmConfig())


def test_groups_are_numbered_in_order_of_appearance() -> None:
    assert group_indices(["x", "a", "x", "b"]).tolist() == [0, 1, 0, 2]
    assert group_indices(torch.tensor([9, 2, 9])).tolist() == [0, 1, 0]
