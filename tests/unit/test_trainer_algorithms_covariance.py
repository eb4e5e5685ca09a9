"""clip_cov and kl_cov: which tokens of a mini-batch they choose, and what becomes of those."""

from __future__ import annotations

import math

import pytest
import torch

import token_losses
from rltrain_api.config import AlgorithmConfig
from rltrain_trainer.algorithms import policy_loss
from rltrain_trainer.algorithms.covariance import choose, chooses_tokens, chosen_loss, covariances
from rltrain_trainer.algorithms.losses import POLICY_LOSSES
from token_losses import Draw, draw


def settings(**fields: object) -> AlgorithmConfig:
    return AlgorithmConfig.model_validate(
        {
            "clip_cov": {"clip_ratio": 0.15, "clip_cov_lb": 0.1, "clip_cov_ub": 1.0},
            "kl_cov": {"kl_cov_frac": 0.2, "ppo_kl_coef": 0.7},
            **fields,
        }
    )


def choice(name: str, case: Draw, config: AlgorithmConfig, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return choose(name, case.old, case.advantages, case.mask, config, generator)


def test_covariances_against_the_definition() -> None:
    case = draw()
    poisoned = case.poisoned()
    result = covariances(poisoned.old, poisoned.advantages, case.mask)
    assert result[case.mask].tolist() == pytest.approx(token_losses.covariances(case.rows()))
    assert not result[~case.mask].any()


@pytest.mark.proves("trainer.algorithm.kl_cov.kl_cov_frac")
def test_kl_cov_chooses_the_greatest() -> None:
    case, config = draw(), settings()
    chosen = choice("kl_cov", case, config)
    ranked = sorted(token_losses.covariances(case.rows()), reverse=True)
    count = int(0.2 * len(ranked))
    assert count > 1
    found = covariances(case.old, case.advantages, case.mask)[chosen]
    assert sorted(found.tolist(), reverse=True) == pytest.approx(ranked[:count])
    assert not (chosen & ~case.mask).any()


@pytest.mark.proves(
    "trainer.algorithm.clip_cov.clip_ratio",
    "trainer.algorithm.clip_cov.clip_cov_lb",
    "trainer.algorithm.clip_cov.clip_cov_ub",
)
def test_clip_cov_draws_among_those_within_bounds() -> None:
    case, config = draw(), settings()
    within = (covariances(case.old, case.advantages, case.mask) - 0.55).abs() < 0.45
    count = int(0.15 * int(case.mask.sum()))
    drawn = [choice("clip_cov", case, config, seed) for seed in range(20)]
    assert all(int(chosen.sum()) == count > 1 for chosen in drawn)
    assert all(not (chosen & ~within).any() for chosen in drawn)
    assert len({tuple(chosen.flatten().tolist()) for chosen in drawn}) > 1
    assert torch.equal(drawn[3], choice("clip_cov", case, config, 3))
    few = choice("clip_cov", case, settings(clip_cov={"clip_ratio": 1.0, "clip_cov_lb": 0.1, "clip_cov_ub": 1.0}))
    assert torch.equal(few, within & case.mask)


def test_at_least_one_is_chosen_and_none_of_nothing() -> None:
    case = draw()
    config = settings(kl_cov={"kl_cov_frac": 0.0}, clip_cov={"clip_ratio": 0.0, "clip_cov_lb": 0.1, "clip_cov_ub": 1.0})
    nothing = torch.zeros_like(case.mask)
    for name in ("clip_cov", "kl_cov"):
        assert choice(name, case, config).sum() == 1
        assert not choose(name, case.old, case.advantages, nothing, config).any()
    outside = settings(clip_cov={"clip_cov_lb": 100.0, "clip_cov_ub": 200.0})
    assert not choice("clip_cov", case, outside).any()


@pytest.mark.proves("trainer.algorithm.kl_cov.ppo_kl_coef")
def test_losses_of_what_was_chosen() -> None:
    case, config = draw(), settings()
    for name in ("clip_cov", "kl_cov"):
        chosen = choice(name, case, config)
        loss, metrics = chosen_loss(name, chosen)(
            case.logprobs, case.old, case.advantages, case.mask, rollout_logprobs=None, config=config
        )
        expected = []
        for row, column in case.mask.nonzero().tolist():
            new, old, advantage = (float(t[row, column]) for t in (case.logprobs, case.old, case.advantages))
            if name == "clip_cov":
                expected.append(
                    0.0 if chosen[row, column] else token_losses.clipped(math.exp(new - old), advantage, config)
                )
            else:
                penalty = 0.7 * abs(new - old) if chosen[row, column] else 0.0
                expected.append(-math.exp(new - old) * advantage + penalty)
        assert loss[case.mask].tolist() == pytest.approx(expected)
        share = chosen.sum() / case.mask.sum() if name == "clip_cov" else 0.0
        assert metrics["clip_ratio"].item() == pytest.approx(float(share))


def test_a_whole_mini_batch_chooses_for_itself() -> None:
    case, config = draw(), settings()
    for name in ("clip_cov", "kl_cov"):
        torch.manual_seed(7)
        loss, _ = policy_loss(name, case.logprobs, case.old, case.advantages, case.mask, config=config)
        torch.manual_seed(7)
        chosen = choose(name, case.old, case.advantages, case.mask, config)
        again, _ = chosen_loss(name, chosen)(
            case.logprobs, case.old, case.advantages, case.mask, rollout_logprobs=None, config=config
        )
        torch.testing.assert_close(loss, again)


def test_which_losses_choose() -> None:
    assert {name for name in POLICY_LOSSES if chooses_tokens(name)} == {"clip_cov", "kl_cov"}
