"""Policy losses, the critic's loss and reductions against their definitions, and where numbers get out of hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import token_losses
from rltrain_api.config import AlgorithmConfig
from rltrain_trainer.algorithms import check_registered, compute_advantages, policy_loss, register_policy_loss
from rltrain_trainer.algorithms.losses import POLICY_LOSSES
from rltrain_trainer.algorithms.reductions import reduce_loss
from rltrain_trainer.algorithms.values import value_loss
from token_losses import LOSSES, REDUCTIONS, Draw, draw

CONFIG = AlgorithmConfig.model_validate(
    {
        "eps_clip_low": 0.2,
        "eps_clip_high": 0.28,
        "clip_ratio_c": 3.0,
        "sapo": {"tau_pos": 1.3, "tau_neg": 0.7},
        "cispo": {"cispo_eps_clip_low": 0.3, "cispo_eps_clip_high": 0.5},
    }
)


def loss_of(
    name: str, case: Draw, config: AlgorithmConfig = CONFIG, logprobs: Tensor | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    return policy_loss(
        name,
        case.logprobs if logprobs is None else logprobs,
        case.old,
        case.advantages,
        case.mask,
        rollout_logprobs=case.rollout,
        config=config,
    )


@pytest.mark.proves(
    "trainer.algorithm.policy_loss_type",
    "trainer.algorithm.eps_clip_low",
    "trainer.algorithm.eps_clip_high",
    "trainer.algorithm.clip_ratio_c",
    "trainer.algorithm.sapo.tau_pos",
    "trainer.algorithm.sapo.tau_neg",
    "trainer.algorithm.cispo.cispo_eps_clip_low",
    "trainer.algorithm.cispo.cispo_eps_clip_high",
)
@pytest.mark.parametrize("name", LOSSES)
def test_token_losses_against_the_definition(name: str) -> None:
    case = draw()
    loss, _ = loss_of(name, case)
    expected = [number for row in case.rows() for number in LOSSES[name](row, CONFIG)]
    torch.testing.assert_close(loss[case.mask], torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)
    assert loss.shape == case.mask.shape


def slope_of(name: str, case: Draw) -> Tensor:
    """What a loss whose weights pass no gradient has for its derivative in each token's log-probability."""
    ratio = (case.logprobs - (case.rollout if name == "rollout_is" else case.old)).exp()
    if name == "cispo":
        return -case.advantages * ratio.clamp(0.7, 1.5)
    if name == "rollout_is":
        return -case.advantages * ratio * ((ratio > 0.8) & (ratio < 1.28))
    inside = row_ratio(case)
    free = ((inside < 1.28) | (case.advantages < 0)) & ((inside > 0.8) | (case.advantages > 0))
    return -case.advantages * inside * free


def row_ratio(case: Draw) -> Tensor:
    difference = torch.where(case.mask, case.logprobs - case.old, 0.0)
    return (difference.sum(-1, keepdim=True) / case.mask.sum(-1, keepdim=True).clamp(min=1)).exp()


@pytest.mark.parametrize("name", ["cispo", "rollout_is", "gspo"])
def test_the_gradient_where_part_of_the_loss_is_a_constant(name: str) -> None:
    """Weights of importance do not pass gradient: ∂loss/∂log π is the weight times -A, the token's own alone."""
    case = draw()
    leaf = case.logprobs.clone().requires_grad_()
    loss, _ = loss_of(name, case, logprobs=leaf)
    (gradient,) = torch.autograd.grad(loss[case.mask].sum(), leaf)
    torch.testing.assert_close(gradient[case.mask], slope_of(name, case)[case.mask], rtol=1e-10, atol=1e-12)
    assert not gradient[~case.mask].any()


@pytest.mark.parametrize("name", ["regular", "dual_clip", "sapo", "dppo", "cross_entropy", "importance_sampling"])
def test_the_gradient_by_finite_differences(name: str) -> None:
    case = draw(rows=4, tokens=3)
    assert torch.autograd.gradcheck(
        lambda leaf: loss_of(name, case, logprobs=leaf)[0] * case.mask, (case.logprobs.clone().requires_grad_(),)
    )


def test_shares_of_clipped_tokens() -> None:
    case = draw()
    ratio = (case.logprobs - case.old).exp()
    above, below = ratio > 1.28, ratio < 0.8
    gone = ((case.advantages > 0) & above) | ((case.advantages < 0) & below)
    whole = row_ratio(case)
    moved = case.logprobs.exp() - case.rollout.exp()
    engine = (case.logprobs - case.rollout).exp()
    expected = {
        "regular": gone,
        "dual_clip": gone,
        "gspo": ((case.advantages > 0) & (whole > 1.28)) | ((case.advantages < 0) & (whole < 0.8)),
        "sapo": torch.zeros_like(case.mask),
        "cispo": (ratio < 0.7) | (ratio > 1.5),
        "rollout_is": (engine <= 0.8) | (engine >= 1.28),
        "dppo": ((case.advantages > 0) & (moved > 0.28)) | ((case.advantages < 0) & (moved < -0.2)),
        "cross_entropy": torch.zeros_like(case.mask),
    }
    for name, where in expected.items():
        share = loss_of(name, case)[1]["clip_ratio"].item()
        assert share == pytest.approx(where[case.mask].double().mean().item(), abs=1e-6), name
        assert 0 < share < 1 or name in ("sapo", "cross_entropy"), name


def test_metrics_of_single_losses() -> None:
    case = draw()
    ratio = (case.logprobs - case.old).exp()[case.mask]
    _, sampling = loss_of("importance_sampling", case)
    assert sampling == {"importance_ratio": pytest.approx(ratio.mean().item())}
    _, weights = loss_of("cispo", case)
    assert weights["cispo/ratio_mean"].item() == pytest.approx(ratio.mean().item())
    assert weights["cispo/ratio_clamped_mean"].item() == pytest.approx(ratio.clamp(0.7, 1.5).mean().item())
    assert weights["cispo/ratio_max"].item() == pytest.approx(ratio.max().item())
    assert weights["cispo/ratio_min"].item() == pytest.approx(ratio.min().item())


def test_dual_clip_vector_of_upstream() -> None:
    ratios, advantages = torch.tensor([[0.5, 1.0, 10.0]]), torch.tensor([[1.0, -1.0, -4.0]])
    loss, _ = policy_loss(
        "dual_clip", ratios.log(), torch.zeros(1, 3), advantages, torch.ones(1, 3), config=AlgorithmConfig()
    )
    torch.testing.assert_close(loss, torch.tensor([[-0.5, 1.0, 12.0]]))


@pytest.mark.parametrize("name", POLICY_LOSSES)
def test_huge_ratios_stay_finite(name: str) -> None:
    logprobs = torch.tensor([[0.0, -1e4], [-1e4, 0.0]], requires_grad=True)
    old = torch.tensor([[-1e4, 0.0], [0.0, -1e4]])
    advantages = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
    loss, metrics = policy_loss(
        name, logprobs, old, advantages, torch.ones(2, 2), rollout_logprobs=old, config=AlgorithmConfig()
    )
    (gradient,) = torch.autograd.grad(loss.sum(), logprobs)
    assert loss.isfinite().all()
    assert gradient.isfinite().all()
    assert all(value.isfinite() for value in metrics.values())


@pytest.mark.parametrize("name", POLICY_LOSSES)
def test_nothing_leaks_from_masked_positions(name: str) -> None:
    case = draw()
    expected, _ = loss_of(name, case)
    poisoned = case.poisoned()
    leaf = poisoned.logprobs.clone().requires_grad_()
    torch.manual_seed(0)
    loss, metrics = loss_of(name, poisoned, logprobs=leaf)
    if name != "clip_cov":  # chosen at random
        torch.testing.assert_close(loss[case.mask], expected[case.mask])
    (gradient,) = torch.autograd.grad(reduce_loss(loss, case.mask, "token_mean"), leaf)
    assert gradient.isfinite().all()
    assert not gradient[~case.mask].any()
    assert all(value.isfinite() for value in metrics.values())


@pytest.mark.parametrize("name", POLICY_LOSSES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_batch_without_trained_tokens_has_no_loss(name: str, reduction: str) -> None:
    case = draw()
    nothing = torch.zeros_like(case.mask)
    leaf = case.logprobs.clone().requires_grad_()
    loss, metrics = policy_loss(
        name, leaf, case.old, case.advantages, nothing, rollout_logprobs=case.rollout, config=CONFIG
    )
    total = reduce_loss(loss, nothing, reduction, max_seq_len=7, group_ids=case.groups)
    (gradient,) = torch.autograd.grad(total, leaf)
    assert total.item() == 0
    assert not gradient.any()
    assert all(value.item() == 0 for value in metrics.values())


@pytest.mark.parametrize("name", [name for name in POLICY_LOSSES if name not in ("cross_entropy", "kl_cov")])
def test_without_advantage_there_is_no_gradient(name: str) -> None:
    case = draw()
    leaf = case.logprobs.clone().requires_grad_()
    loss, _ = policy_loss(
        name, leaf, case.old, torch.zeros_like(leaf), case.mask, rollout_logprobs=case.rollout, config=CONFIG
    )
    (gradient,) = torch.autograd.grad(loss[case.mask].sum(), leaf)
    assert not gradient.any()


@pytest.mark.proves("trainer.algorithm.loss_reduction", "trainer.algorithm.max_seq_len")
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_reductions_against_the_definition(reduction: str) -> None:
    case = draw(seed=3)
    losses = [row.advantages for row in case.rows()]
    expected = token_losses.reduction(losses, reduction, max_seq_len=9, groups=case.groups.tolist())
    result = reduce_loss(case.poisoned().advantages, case.mask, reduction, max_seq_len=9, group_ids=case.groups)
    assert result.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.proves("trainer.algorithm.value_clip")
def test_the_critics_loss_against_the_definition() -> None:
    case = draw(spread=1.0)
    values, old, returns = case.logprobs, case.old, case.rollout
    loss, was_clipped = value_loss(values, old, returns, value_clip=0.3)
    for row in range(len(values)):
        for token in range(values.shape[1]):
            value, before, goal = (float(tensor[row, token]) for tensor in (values, old, returns))
            near = before + min(max(value - before, -0.3), 0.3)
            assert loss[row, token].item() == pytest.approx(max((near - goal) ** 2, (value - goal) ** 2) / 2)
            assert was_clipped[row, token].item() == ((near - goal) ** 2 > (value - goal) ** 2)
    assert 0 < was_clipped.mean().item() < 1


def test_a_users_loss_is_found_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(POLICY_LOSSES, "_functions", dict(POLICY_LOSSES))

    @register_policy_loss("half")
    def half(logprobs, old_logprobs, advantages, loss_mask, *, rollout_logprobs, config):  # type: ignore[no-untyped-def]
        return -logprobs * advantages / 2, {"seen": loss_mask.double().mean()}

    case = draw()
    loss, metrics = loss_of("half", case)
    torch.testing.assert_close(loss, -case.logprobs * case.advantages / 2)
    assert set(metrics) == {"seen"}
    with pytest.raises(ValueError, match=r"policy_loss_type: regular is registered already"):
        register_policy_loss("regular")(half)


def test_names_are_checked_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in POLICY_LOSSES:
        check_registered(AlgorithmConfig(policy_loss_type=name))
    mine = AlgorithmConfig(policy_loss_type="half")
    with pytest.raises(ValueError, match="policy_loss_type: half is not one of cispo, clip_cov"):
        check_registered(mine)
    with pytest.raises(ValueError, match="advantage_estimator: half is not one of gae, grpo"):
        check_registered(AlgorithmConfig(advantage_estimator="half"))
    monkeypatch.setattr(POLICY_LOSSES, "_functions", {**POLICY_LOSSES, "half": POLICY_LOSSES["regular"]})
    check_registered(mine)


ONE = torch.ones(1, 1)
REFUSALS: dict[str, Callable[[], object]] = {
    "policy_loss_type: best is not one of .*regular.*spec.runtime.modules": lambda: policy_loss(
        "best", ONE, ONE, ONE, ONE, config=CONFIG
    ),
    "rollout_is needs the log-probabilities of the engine": lambda: policy_loss(
        "rollout_is", ONE, ONE, ONE, ONE, config=CONFIG
    ),
    "loss_reduction: best": lambda: reduce_loss(ONE, ONE, "best"),
    "max_seq_len: ": lambda: reduce_loss(ONE, ONE, "seq_mean_token_sum_norm"),
    "group_ids: ": lambda: reduce_loss(ONE, ONE, "prompt_mean"),
    "gae needs the values of a critic": lambda: compute_advantages("gae", ONE, ONE, ["a"], config=CONFIG),
}


@pytest.mark.parametrize("message", REFUSALS)
def test_what_cannot_be_computed_is_refused_by_name(message: str) -> None:
    with pytest.raises(ValueError, match=message):
        REFUSALS[message]()


def test_numbers_are_the_definitions_own() -> None:
    """The definitions themselves, on numbers worked out by hand."""
    row = token_losses.Row([math.log(0.5)], [math.log(0.25)], [math.log(0.4)], [1.0])
    assert token_losses.regular(row, CONFIG) == [-1.28]
    assert token_losses.rollout_is(row, CONFIG) == [pytest.approx(-1.25 * math.log(0.5))]
    assert token_losses.dppo(row, CONFIG) == [pytest.approx(-1.25)]
