from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rltrain_api.config import AlgorithmConfig
from rltrain_trainer.algorithms.kl import approx_kl
from rltrain_trainer.algorithms.losses import policy_loss
from rltrain_trainer.algorithms.reductions import loss_weights, reduce_loss, weighted_sum

CONFIG = AlgorithmConfig(eps_clip_low=0.2, eps_clip_high=0.28, clip_ratio_c=3.0)
ROWS, TOKENS = 6, 5


def case(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """logprobs, old_logprobs, advantages, mask: float64, ratios on both sides of every clip, ragged rows, one empty."""
    generator = torch.Generator().manual_seed(seed)
    logprobs = -torch.rand(ROWS, TOKENS, generator=generator, dtype=torch.float64) * 3
    old = logprobs + torch.randn(ROWS, TOKENS, generator=generator, dtype=torch.float64)
    advantages = torch.randn(ROWS, TOKENS, generator=generator, dtype=torch.float64)
    lengths = torch.tensor([5, 1, 3, 0, 4, 2])
    mask = torch.arange(TOKENS, 0, -1) <= lengths[:, None]
    return logprobs, old, advantages, mask


def expected_loss(name: str, logprob: float, old: float, advantage: float) -> float:
    ratio = math.exp(logprob - old)
    clipped = min(max(ratio, 0.8), 1.28)
    loss = -min(ratio * advantage, clipped * advantage)
    if name == "dual_clip" and advantage < 0:
        loss = min(loss, -3.0 * advantage)
    return loss


@pytest.mark.parametrize("name", ["regular", "dual_clip"])
def test_token_losses_against_the_definition(name: str) -> None:
    logprobs, old, advantages, mask = case()
    loss, metrics = policy_loss(name, logprobs, old, advantages, mask, config=CONFIG)
    expected = [
        [expected_loss(name, *values) for values in zip(*rows, strict=True)]
        for rows in zip(logprobs.tolist(), old.tolist(), advantages.tolist(), strict=True)
    ]
    torch.testing.assert_close(loss, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)
    ratio = (logprobs - old).exp()
    clipped = ((ratio > 1.28) & (advantages > 0)) | ((ratio < 0.8) & (advantages < 0))
    assert metrics["clip_ratio"].item() == pytest.approx(clipped[mask].double().mean().item())
    assert 0 < metrics["clip_ratio"].item() < 1


def test_dual_clip_vector_of_upstream() -> None:
    ratios, advantages = torch.tensor([[0.5, 1.0, 10.0]]), torch.tensor([[1.0, -1.0, -4.0]])
    loss, _ = policy_loss(
        "dual_clip", ratios.log(), torch.zeros(1, 3), advantages, torch.ones(1, 3), config=AlgorithmConfig()
    )
    torch.testing.assert_close(loss, torch.tensor([[-0.5, 1.0, 12.0]]))


def test_the_exponent_is_bounded() -> None:
    logprobs = torch.tensor([[100.0, -100.0]], requires_grad=True)
    loss, _ = policy_loss(
        "regular", logprobs, torch.zeros(1, 2), torch.tensor([[-1.0, 1.0]]), torch.ones(1, 2), config=CONFIG
    )
    torch.testing.assert_close(loss, torch.tensor([[math.exp(20), -math.exp(-20)]]))


def test_nothing_leaks_from_masked_positions() -> None:
    logprobs, old, advantages, mask = case()
    logprobs = torch.where(mask, logprobs, torch.nan).requires_grad_()
    loss, metrics = policy_loss("regular", logprobs, old, advantages, mask, config=CONFIG)
    total = reduce_loss(loss, mask, "token_mean") + approx_kl(logprobs, old, mask, "k3").sum()
    total.backward()  # type: ignore[no-untyped-call]
    assert math.isfinite(total.item())
    assert math.isfinite(metrics["clip_ratio"].item())
    assert logprobs.grad is not None
    assert logprobs.grad[mask].isfinite().all()


def expected_reduction(loss: Tensor, mask: Tensor, reduction: str) -> float:
    rows = [
        [value for value, on in zip(*row, strict=True) if on] for row in zip(loss.tolist(), mask.tolist(), strict=True)
    ]
    match reduction:
        case "token_mean":
            return math.fsum(map(math.fsum, rows)) / sum(map(len, rows))
        case "sequence_mean":
            return math.fsum(math.fsum(row) / max(len(row), 1) for row in rows) / len(rows)
        case "seq_mean_token_sum_norm":
            return math.fsum(math.fsum(row) / 7 for row in rows) / len(rows)
    raise AssertionError(reduction)


REDUCTIONS = ["token_mean", "sequence_mean", "seq_mean_token_sum_norm"]


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_reductions_against_the_definition(reduction: str) -> None:
    loss, _, _, mask = case(seed=3)
    assert reduce_loss(loss, mask, reduction, max_seq_len=7).item() == pytest.approx(
        expected_reduction(loss, mask, reduction), rel=1e-12
    )


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", ["regular", "dual_clip"])
def test_the_gradient_does_not_depend_on_how_rows_are_dealt_out(name: str, reduction: str) -> None:
    logprobs, old, advantages, mask = case(seed=1)

    def gradient(ranks: int, micro_batch: int) -> Tensor:
        leaf = logprobs.clone().requires_grad_()
        weights = loss_weights(mask, reduction, max_seq_len=7)
        share = ROWS // ranks
        for rank in range(ranks):
            for start in range(rank * share, (rank + 1) * share, micro_batch):
                rows = slice(start, min(start + micro_batch, (rank + 1) * share))
                loss, _ = policy_loss(name, leaf[rows], old[rows], advantages[rows], mask[rows], config=CONFIG)
                weighted_sum(loss, weights[rows]).backward()  # type: ignore[no-untyped-call]
        assert leaf.grad is not None
        return leaf.grad

    whole = logprobs.clone().requires_grad_()
    loss, _ = policy_loss(name, whole, old, advantages, mask, config=CONFIG)
    reduce_loss(loss, mask, reduction, max_seq_len=7).backward()  # type: ignore[no-untyped-call]
    assert whole.grad is not None
    assert whole.grad.abs().max() > 0.01
    for ranks, micro_batch in [(1, 1), (1, 4), (2, 1), (2, 2), (3, 2), (6, 1)]:
        torch.testing.assert_close(gradient(ranks, micro_batch), whole.grad, rtol=1e-6, atol=1e-9)


KL: dict[str, Callable[[float], float]] = {
    "k1": lambda d: d,
    "abs": abs,
    "k2": lambda d: d * d / 2,
    "k3": lambda d: min(math.exp(-d) - 1 + d, 10.0),
}


@pytest.mark.parametrize("kind", KL)
def test_kl_estimators_against_the_definition(kind: str) -> None:
    logprobs, reference, _, mask = case(seed=2)
    expected = [
        [KL[kind](a - b) if on else 0.0 for a, b, on in zip(*rows, strict=True)]
        for rows in zip(logprobs.tolist(), reference.tolist(), mask.tolist(), strict=True)
    ]
    result = approx_kl(logprobs, reference, mask, kind)
    torch.testing.assert_close(result, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", KL)
def test_kl_has_a_gradient(kind: str) -> None:
    logprobs, reference, _, mask = case(seed=2)
    inputs = logprobs.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda leaf: approx_kl(leaf, reference, mask, kind), (inputs,))
    approx_kl(inputs, reference, mask, kind).sum().backward()  # type: ignore[no-untyped-call]
    assert inputs.grad is not None
    assert inputs.grad[mask].abs().sum() > 0.1


REFUSALS: dict[str, Callable[[], object]] = {
    "policy_loss_type: best": lambda: policy_loss("best", *case(), config=CONFIG),
    "loss_reduction: best": lambda: reduce_loss(torch.zeros(1, 1), torch.ones(1, 1), "best"),
    "max_seq_len: ": lambda: reduce_loss(torch.zeros(1, 1), torch.ones(1, 1), "seq_mean_token_sum_norm"),
    "kl_estimator_type: k9": lambda: approx_kl(torch.zeros(1, 1), torch.zeros(1, 1), torch.ones(1, 1), "k9"),
}


@pytest.mark.parametrize("message", REFUSALS)
def test_what_is_unknown_is_refused_by_name(message: str) -> None:
    with pytest.raises(ValueError, match=message):
        REFUSALS[message]()
