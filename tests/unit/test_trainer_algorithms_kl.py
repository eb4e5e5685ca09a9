"""The divergence between policy and reference: its estimates, its place in the reward, its weight over time."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable

import pytest
import torch

from rltrain_api.config import AlgorithmConfig
from rltrain_trainer.algorithms import approx_kl
from rltrain_trainer.algorithms.kl import KLController, penalized_rewards
from token_losses import draw

KL: dict[str, Callable[[float], float]] = {
    "k1": lambda d: d,
    "abs": abs,
    "k2": lambda d: d * d / 2,
    "k3": lambda d: min(math.exp(min(-d, 20)) - 1 + min(max(d, -20), 20), 10.0),
}


@pytest.mark.proves("trainer.algorithm.kl_estimator_type")
@pytest.mark.parametrize("kind", KL)
def test_estimators_against_the_definition(kind: str) -> None:
    case = draw(spread=2.0).poisoned()
    result = approx_kl(case.logprobs, case.old, case.mask, kind)
    expected = [KL[kind](a - b) for row in case.rows() for a, b in zip(row.logprobs, row.old, strict=True)]
    assert result[case.mask].tolist() == pytest.approx(expected, rel=1e-9)
    assert not result[~case.mask].any()


@pytest.mark.parametrize("kind", KL)
def test_estimators_have_a_gradient(kind: str) -> None:
    case = draw()
    leaf = case.logprobs.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda inputs: approx_kl(inputs, case.old, case.mask, kind), (leaf,))
    (gradient,) = torch.autograd.grad(approx_kl(leaf, case.old, case.mask, kind).sum(), leaf)
    assert gradient[case.mask].abs().sum() > 0.1


@pytest.mark.parametrize("kind", KL)
def test_huge_differences_stay_finite(kind: str) -> None:
    leaf = torch.tensor([[0.0, -1e4, torch.nan]], requires_grad=True)
    result = approx_kl(leaf, torch.tensor([[-1e4, 0.0, 0.0]]), torch.tensor([[1, 1, 0]]), kind)
    (gradient,) = torch.autograd.grad(result.sum(), leaf)
    assert result.isfinite().all()
    assert gradient.isfinite().all()


def test_an_unknown_estimator_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="kl_estimator_type: k9 is not one of abs, k1, k2, k3"):
        approx_kl(torch.zeros(1, 1), torch.zeros(1, 1), torch.ones(1, 1), "k9")


def test_the_penalty_is_on_trained_tokens() -> None:
    case = draw()
    rewards, metrics = penalized_rewards(case.advantages, case.logprobs, case.old, case.mask, kind="k2", weight=0.5)
    differences = [[a - b for a, b in zip(row.logprobs, row.old, strict=True)] for row in case.rows()]
    expected = case.advantages.clone()
    expected[case.mask] -= torch.tensor([d * d / 4 for row in differences for d in row], dtype=torch.float64)
    torch.testing.assert_close(rewards, expected)
    means = [statistics.fmean([d * d / 2 for d in row]) if row else 0.0 for row in differences]
    greatest = [max([d * d / 2 for d in row], default=0.0) for row in differences]
    assert metrics == {
        "loss/avg_kl": pytest.approx(statistics.fmean(means)),
        "loss/avg_kl_max": pytest.approx(statistics.fmean(greatest)),
        "loss/kl_loss_coef": 0.5,
    }


def algorithm(**control: object) -> AlgorithmConfig:
    return AlgorithmConfig.model_validate({"kl_loss_coef": 0.2, "kl_ctrl": control})


STEERED = {
    "far above": (5.0, 0.2 * (1 + 0.2 * 64 / 1000)),
    "far below": (0.0, 0.2 * (1 - 0.2 * 64 / 1000)),
    "a little above": (0.11, 0.2 * (1 + 0.1 * 64 / 1000)),
    "on target": (0.1, 0.2),
}


@pytest.mark.proves(
    "trainer.algorithm.kl_ctrl.type", "trainer.algorithm.kl_ctrl.kl_target", "trainer.algorithm.kl_ctrl.horizon"
)
@pytest.mark.parametrize("case", STEERED)
def test_an_adaptive_weight_is_steered_towards_its_target(case: str) -> None:
    measured, expected = STEERED[case]
    adaptive = KLController.of(algorithm(type="adaptive", kl_target=0.1, horizon=1000))
    adaptive.update(measured, 64)
    assert adaptive.value == pytest.approx(expected)
    fixed = KLController.of(algorithm(type="fixed", kl_target=0.1, horizon=1000))
    fixed.update(measured, 64)
    assert fixed.value == 0.2


def test_an_adaptive_weight_survives_a_checkpoint() -> None:
    adaptive = KLController.of(algorithm(type="adaptive"))
    adaptive.update(9.0, 500)
    state = json.loads(json.dumps(adaptive.state_dict()))
    resumed = KLController.of(algorithm(type="adaptive"))
    resumed.load_state_dict(state)
    assert resumed.value == adaptive.value != 0.2
    fixed = KLController.of(algorithm(type="fixed"))
    fixed.load_state_dict(state)
    assert fixed.value == 0.2
