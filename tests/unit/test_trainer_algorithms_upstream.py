"""The same numbers as SkyRL 0.1.0's own functions, wherever those are right, in float64.

Upstream reduces within its losses, over one micro-batch; with that micro-batch a whole mini-batch on a single rank, its
number is the one that ours must be. Where it differs by a defect, the case says which.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rltrain_api.config import AlgorithmConfig
from rltrain_trainer.algorithms import approx_kl, compute_advantages, policy_loss, reduce_loss
from rltrain_trainer.algorithms.advantages import normalized_over_batch
from rltrain_trainer.algorithms.kl import KLController
from rltrain_trainer.algorithms.reductions import loss_weights, weighted_sum
from rltrain_trainer.algorithms.values import value_loss
from token_losses import Draw, draw

LOSSES = ("regular", "dual_clip", "gspo", "sapo", "cispo", "clip_cov", "kl_cov")
REDUCTIONS = ("token_mean", "sequence_mean", "seq_mean_token_sum_norm")
CORRECTIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "weights of tokens": {"tis_ratio_type": "token", "token_tis_ratio_clip_high": 1.2},
    "everything": {
        "tis_ratio_type": "sequence",
        "sequence_tis_ratio_clip_high": 1.3,
        "sequence_mask_metric": "product",
        "product_mask_low": 0.6,
        "product_mask_high": 2.5,
        "outlier_token_is_threshold_high": 2.5,
        "token_mask_is_threshold_low": 0.6,
        "token_mask_is_threshold_high": 1.8,
    },
}


@pytest.fixture(scope="module")
def upstream() -> ModuleType:
    return importlib.import_module("skyrl.backends.skyrl_train.utils.ppo_utils")


def on_policy(case: Draw) -> Draw:
    """Before the first step: what upstream chooses by the current policy is what we choose by the old one."""
    return Draw(case.old, case.old, case.rollout, case.advantages, case.mask, case.groups)


def gradient(total: Tensor, leaf: Tensor) -> Tensor:
    (result,) = torch.autograd.grad(total, leaf)
    return result


@pytest.mark.parametrize(
    ("name", "correction"),
    [(name, correction) for name in LOSSES for correction in CORRECTIONS if correction == "none" or "_cov" not in name],
)
def test_policy_losses(upstream: ModuleType, name: str, correction: str) -> None:
    """With a correction, sums: upstream divides by what its masks left, ours by what was trained on."""
    case = draw(seed=1)
    if name in ("clip_cov", "kl_cov"):
        case = on_policy(case)
    for reduction in REDUCTIONS if correction == "none" else ("seq_mean_token_sum_norm",):
        config = AlgorithmConfig.model_validate(
            {
                "policy_loss_type": name,
                "loss_reduction": reduction,
                "max_seq_len": 11,
                "eps_clip_high": 0.3,
                "cispo": {"cispo_eps_clip_low": 0.4, "cispo_eps_clip_high": 0.4},
                "clip_cov": {"clip_ratio": 0.2, "clip_cov_lb": 0.0},
                "off_policy_correction": CORRECTIONS[correction],
            }
        )
        theirs, ours = (case.logprobs.clone().requires_grad_() for _ in range(2))
        torch.manual_seed(3)
        expected, metrics = upstream.PolicyLossRegistry.get(name)(
            theirs, case.old, case.advantages, config, case.mask.double(), case.rollout
        )
        torch.manual_seed(3)
        loss, found = policy_loss(
            name, ours, case.old, case.advantages, case.mask, rollout_logprobs=case.rollout, config=config
        )
        total = reduce_loss(loss, case.mask, reduction, max_seq_len=11)
        assert total.item() == pytest.approx(expected.item(), rel=1e-6), reduction
        torch.testing.assert_close(gradient(total, ours), gradient(expected, theirs), rtol=1e-6, atol=1e-9)
        assert found["clip_ratio"].item() == pytest.approx(metrics["clip_ratio"], abs=1e-6)
        shared = {key for key in metrics if key.startswith("is_ratio")} - {"is_ratio_mean", "is_ratio_max"}
        assert metrics.keys() - found.keys() == set()
        for key in metrics.keys() - shared:  # of these upstream's count padding as zeros
            if not key.endswith("_ratio") or key in ("clip_ratio", "tis_token_clip_high_ratio"):
                assert found[key].item() == pytest.approx(metrics[key], rel=1e-6), key


@pytest.mark.parametrize("name", ["cross_entropy", "importance_sampling"])
def test_losses_that_upstream_sums(upstream: ModuleType, name: str) -> None:
    case, config = draw(), AlgorithmConfig()
    expected, _ = upstream.PolicyLossRegistry.get(name)(
        case.logprobs, case.old, case.advantages, config, case.mask.double()
    )
    loss, _ = policy_loss(name, case.logprobs, case.old, case.advantages, case.mask, config=config)
    assert loss[case.mask].sum().item() == pytest.approx(expected.item())


@pytest.mark.parametrize("name", ["grpo", "rloo", "reinforce++", "gae"])
def test_advantages(upstream: ModuleType, name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    mask = (torch.arange(5, 0, -1) <= torch.tensor([5, 3, 1, 4, 2, 5, 2])[:, None]).double()
    rewards, values = torch.randn(2, 7, 5, generator=generator, dtype=torch.float64) * mask
    config = AlgorithmConfig(gamma=0.9, lambd=0.8)
    groups = np.array(["a", "b", "a", "b", "c", "a", "b"])
    expected, returns = upstream.compute_advantages_and_returns(
        token_level_rewards=rewards,
        response_mask=mask,
        index=groups,
        adv_estimator=name,
        config=config,
        values=values,
        gamma=0.9,
        lambd=0.8,
    )
    advantages, found = compute_advantages(name, rewards, mask, groups.tolist(), values=values, config=config)
    torch.testing.assert_close(advantages, expected * mask, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found * mask, returns * mask, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["k1", "k2", "k3", "abs"])
def test_divergences(upstream: ModuleType, kind: str) -> None:
    """Upstream's has no gradient; the numbers are the same."""
    case = draw(spread=2.0)
    expected = upstream.compute_approx_kl(case.logprobs, case.old, case.mask.double(), kind)
    torch.testing.assert_close(approx_kl(case.logprobs, case.old, case.mask, kind), expected)


def test_the_critics_loss(upstream: ModuleType) -> None:
    case, config = draw(spread=1.0), AlgorithmConfig(value_clip=0.3)
    expected, share = upstream.ppo_critic_loss(case.logprobs, case.old, case.rollout, config, case.mask.double())
    loss, clipped = value_loss(case.logprobs, case.old, case.rollout, value_clip=0.3)
    assert weighted_sum(loss, loss_weights(case.mask, "sequence_mean")).item() == pytest.approx(expected.item())
    assert clipped[case.mask].mean().item() == pytest.approx(share)


def test_normalisation_of_a_batch_without_padding(upstream: ModuleType) -> None:
    """With padding, upstream's mean takes it in."""
    advantages, mask = draw().advantages, torch.ones(12, 7)
    expected = upstream.normalize_advantages_dict({"advantages": advantages, "response_mask": mask})["advantages"]
    torch.testing.assert_close(normalized_over_batch(advantages, mask), expected)


def test_the_adaptive_weight(upstream: ModuleType) -> None:
    config = AlgorithmConfig.model_validate({"kl_ctrl": {"type": "adaptive", "horizon": 500}, "kl_loss_coef": 0.3})
    theirs, ours = upstream.get_kl_controller(config), KLController.of(config)
    for measured in (0.05, 0.5, 0.11, 0.0):
        theirs.update(current=measured, n_steps=64)
        ours.update(measured, 64)
        assert ours.value == pytest.approx(theirs.value)
