"""The objective of a mini-batch, its gradient and its metrics do not depend on how the rows are dealt out.

Rows are dealt to ranks and micro-batches, in any order and without the columns that are padding in a micro-batch, as
packing does; everything is added up again and held against the whole mini-batch at once, in float64.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from rltrain_api.config import AlgorithmConfig
from rltrain_trainer.algorithms.covariance import choose, chooses_tokens
from rltrain_trainer.algorithms.losses import POLICY_LOSSES
from rltrain_trainer.algorithms.objective import critic_objective, policy_objective
from rltrain_trainer.algorithms.reductions import loss_weights
from rltrain_trainer.algorithms.statistics import finished, joined
from rltrain_trainer.data.batch import TrainBatch
from token_losses import CORRECTED, REDUCTIONS, Draw, draw

ROWS, TOKENS = 12, 7
CORRECTION = {
    "tis_ratio_type": "sequence",
    "sequence_tis_ratio_clip_high": 1.5,
    "sequence_mask_metric": "geometric",
    "geo_mask_low": 0.7,
    "geo_mask_high": 1.4,
    "outlier_token_is_threshold_high": 2.6,
    "token_mask_is_threshold_low": 0.6,
    "token_mask_is_threshold_high": 2.0,
}
DEALINGS = {
    "one rank, single rows": (1, 1, False),
    "one rank, uneven micro-batches": (1, 5, False),
    "one rank, another order": (1, 4, True),
    "two ranks": (2, 4, True),
    "three ranks, micro-batches of 3": (3, 3, False),
    "twelve ranks": (12, 1, False),
}


@dataclass(frozen=True)
class Weights:
    policy_weights: Tensor
    sequence_weights: Tensor
    token_weights: Tensor

    def rows(self, index: Tensor, columns: int) -> Weights:
        tensors = (self.policy_weights, self.sequence_weights, self.token_weights)
        return Weights(*(tensor[index][:, -columns:] for tensor in tensors))


def settings(name: str) -> AlgorithmConfig:
    return AlgorithmConfig.model_validate(
        {
            "policy_loss_type": name,
            "use_kl_loss": True,
            "kl_loss_coef": 0.3,
            "use_entropy_loss": True,
            "entropy_loss_coef": 0.1,
            "clip_cov": {"clip_ratio": 0.2, "clip_cov_lb": 0.0},
            "off_policy_correction": CORRECTION if name in CORRECTED else {},
        }
    )


def batch_of(case: Draw) -> TrainBatch:
    width = case.mask.shape[1]
    return TrainBatch(
        sequences=torch.zeros(ROWS, width + 2, dtype=torch.int64),
        attention_mask=torch.ones(ROWS, width + 2, dtype=torch.bool),
        response_mask=case.mask,
        loss_mask=case.mask,
        token_rewards=torch.zeros(ROWS, width),
        rollout_logprobs=case.rollout,
        group_ids=case.groups,
        old_logprobs=case.old,
        reference_logprobs=case.rollout,
        advantages=case.advantages,
        values=case.old,
        returns=case.rollout,
    )


def weights_of(batch: TrainBatch, reduction: str) -> Weights:
    mask = batch.loss_mask
    return Weights(
        loss_weights(mask, reduction, max_seq_len=9, group_ids=batch.group_ids),
        loss_weights(mask, "sequence_mean"),
        loss_weights(mask, "token_mean"),
    )


def dealt(ranks: int, micro_batch: int, *, shuffled: bool) -> list[Tensor]:
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(3)) if shuffled else torch.arange(ROWS)
    return [part for rank in order.chunk(ranks) for part in rank.split(micro_batch)]  # type: ignore[no-untyped-call]


def test_rows_are_trimmed_somewhere() -> None:
    """Otherwise this module would not show what it says."""
    batch = batch_of(draw(tokens=TOKENS))
    assert min(batch.rows(index).trimmed().response_length for index in dealt(1, 1, shuffled=False)) < TOKENS


@pytest.mark.proves(
    "trainer.algorithm.use_kl_loss",
    "trainer.algorithm.kl_loss_coef",
    "trainer.algorithm.use_entropy_loss",
    "trainer.algorithm.entropy_loss_coef",
    "trainer.algorithm.loss_reduction",
    "trainer.algorithm.policy_loss_type",
)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", POLICY_LOSSES)
def test_the_policys_objective(name: str, reduction: str) -> None:
    case, config = draw(tokens=TOKENS), settings(name)
    batch = batch_of(case)
    if chooses_tokens(name):
        generator = torch.Generator().manual_seed(1)
        batch = replace(batch, chosen=choose(name, case.old, case.advantages, case.mask, config, generator))
    weights = weights_of(batch, reduction)

    def run(parts: list[Tensor]) -> tuple[float, Tensor, dict[str, float]]:
        leaf = case.logprobs.clone().requires_grad_()
        total, metrics = torch.zeros((), dtype=torch.float64), dict[str, Tensor]()
        for index in parts:
            micro = batch.rows(index).trimmed()
            columns = micro.response_length
            logprobs = leaf[index][:, -columns:]
            loss, part = policy_objective(logprobs, -logprobs * 0.7, micro, weights.rows(index, columns), config)
            total, metrics = total + loss, joined(metrics, part)
        (gradient,) = torch.autograd.grad(total, leaf)
        return total.item(), gradient, finished({key: value.item() for key, value in metrics.items()})

    objective, gradient, metrics = run([torch.arange(ROWS)])
    assert gradient.abs().max() > 1e-3
    for dealing, (ranks, micro_batch, shuffled) in DEALINGS.items():
        other, other_gradient, other_metrics = run(dealt(ranks, micro_batch, shuffled=shuffled))
        assert other == pytest.approx(objective, abs=1e-9), dealing
        torch.testing.assert_close(other_gradient, gradient, rtol=1e-6, atol=1e-12)
        assert other_metrics == pytest.approx(metrics, rel=1e-6, abs=1e-9), dealing


def test_the_policys_objective_is_the_sum_of_its_terms() -> None:
    case = draw(tokens=TOKENS)
    batch = batch_of(case)
    weights = weights_of(batch, "token_mean")
    entropy = case.advantages.square()
    terms = {
        "regular alone": {"use_kl_loss": False},
        "with divergence": {"use_kl_loss": True, "kl_loss_coef": 0.5},
        "with entropy": {"use_kl_loss": False, "use_entropy_loss": True, "entropy_loss_coef": 0.25},
    }
    losses = {}
    for name, values in terms.items():
        loss, metrics = policy_objective(case.logprobs, entropy, batch, weights, AlgorithmConfig.model_validate(values))
        losses[name] = loss.item()
        assert metrics["final_loss"].item() == loss.item()
        if values.get("use_kl_loss"):
            divergence = metrics["policy_kl"].item()
    alone = losses["regular alone"]
    assert losses["with divergence"] - alone == pytest.approx(0.5 * divergence)
    assert losses["with entropy"] - alone == pytest.approx(-0.25 * entropy[case.mask].mean().item())


@pytest.mark.proves("trainer.algorithm.value_clip")
def test_the_critics_objective() -> None:
    case, config = draw(tokens=TOKENS), AlgorithmConfig(value_clip=0.1)
    batch = batch_of(case)
    weights = weights_of(batch, "token_mean")

    def run(parts: list[Tensor]) -> tuple[float, Tensor, dict[str, float]]:
        leaf = case.logprobs.clone().requires_grad_()
        total, metrics = torch.zeros((), dtype=torch.float64), dict[str, Tensor]()
        for index in parts:
            micro = batch.rows(index).trimmed()
            columns = micro.response_length
            loss, part = critic_objective(leaf[index][:, -columns:], micro, weights.rows(index, columns), config)
            total, metrics = total + loss, joined(metrics, part)
        (gradient,) = torch.autograd.grad(total, leaf)
        return total.item(), gradient, finished({key: value.item() for key, value in metrics.items()})

    objective, gradient, metrics = run([torch.arange(ROWS)])
    assert metrics["critic_loss"] == objective
    assert metrics["values_mean"] == pytest.approx(case.logprobs[case.mask].mean().item())
    assert 0 < metrics["values_clipfrac"] < 1
    for ranks, micro_batch, shuffled in DEALINGS.values():
        other, other_gradient, other_metrics = run(dealt(ranks, micro_batch, shuffled=shuffled))
        assert other == pytest.approx(objective, abs=1e-9)
        torch.testing.assert_close(other_gradient, gradient, rtol=1e-6, atol=1e-12)
        assert other_metrics == pytest.approx(metrics)
