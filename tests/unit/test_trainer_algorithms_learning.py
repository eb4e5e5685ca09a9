"""Every estimator and every loss raises the reward of a policy that is small enough to know it exactly.

The policy is a table of logits for each of a few tokens; a response is rewarded for the share of its tokens that are 0.
What is checked is the expected reward under the table, so no luck of sampling is in it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from rltrain_api.config import AlgorithmConfig
from rltrain_trainer.algorithms import compute_advantages
from rltrain_trainer.algorithms.advantages import ADVANTAGE_ESTIMATORS
from rltrain_trainer.algorithms.covariance import choose, chooses_tokens
from rltrain_trainer.algorithms.losses import POLICY_LOSSES
from rltrain_trainer.algorithms.objective import policy_objective
from rltrain_trainer.algorithms.reductions import loss_weights
from rltrain_trainer.data.batch import TrainBatch

TOKENS, WORDS, SAMPLES, STEPS, RATE = 3, 5, 64, 25, 4.0


@dataclass(frozen=True)
class Weights:
    policy_weights: Tensor
    sequence_weights: Tensor
    token_weights: Tensor


def expected_reward(logits: Tensor) -> float:
    return logits.softmax(dim=-1)[:, 0].mean().item()


def scores(logits: Tensor, words: Tensor) -> Tensor:
    """[samples, tokens]: log-probabilities of the words under the table."""
    return logits.log_softmax(dim=-1)[torch.arange(TOKENS), words]


def step(logits: Tensor, config: AlgorithmConfig, generator: torch.Generator) -> Tensor:
    """The table after one optimiser step on fresh samples of two prompts, of which both say the same."""
    words = torch.multinomial(logits.softmax(dim=-1), SAMPLES, replacement=True, generator=generator).t()
    rewards = (words == 0).double() / TOKENS
    mask, groups = torch.ones_like(rewards, dtype=torch.bool), torch.arange(SAMPLES) % 2
    advantages, returns = compute_advantages(
        config.advantage_estimator, rewards, mask, groups, values=torch.zeros_like(rewards), config=config
    )
    old = scores(logits, words)
    batch = TrainBatch(words, mask, mask, mask, rewards, old, groups, advantages=advantages, returns=returns)
    name = config.policy_loss_type
    if chooses_tokens(name):
        batch = replace(batch, chosen=choose(name, old, advantages, mask, config, generator))
    weights = Weights(*(loss_weights(mask, kind) for kind in ("token_mean", "sequence_mean", "token_mean")))
    leaf = logits.clone().requires_grad_()
    logprobs = scores(leaf, words)
    loss, _ = policy_objective(logprobs, torch.zeros_like(logprobs), batch, weights, config)
    (gradient,) = torch.autograd.grad(loss, leaf)
    return logits - RATE * gradient


PAIRS = [
    *(("grpo", loss) for loss in POLICY_LOSSES if loss != "cross_entropy"),
    *((estimator, "regular") for estimator in ADVANTAGE_ESTIMATORS if estimator != "grpo"),
]


@pytest.mark.parametrize(("estimator", "loss"), PAIRS)
def test_reward_rises(estimator: str, loss: str) -> None:
    config = AlgorithmConfig(advantage_estimator=estimator, policy_loss_type=loss, use_kl_loss=False)
    generator = torch.Generator().manual_seed(0)
    logits = torch.zeros(TOKENS, WORDS, dtype=torch.float64)
    for _ in range(STEPS):
        logits = step(logits, config, generator)
    assert expected_reward(logits) > 0.8  # 0.2 at first


def test_the_divergence_holds_the_policy_near_its_reference() -> None:
    """Without any reward, a heavy term brings the reference back; k1's gradient is 0 on average, so it does not."""
    reference = torch.zeros(TOKENS, WORDS, dtype=torch.float64)
    for kind in ("k2", "k3", "abs"):
        logits = reference.clone()
        logits[:, 1] = 2.0
        config = AlgorithmConfig.model_validate({"use_kl_loss": True, "kl_loss_coef": 1.0, "kl_estimator_type": kind})
        generator = torch.Generator().manual_seed(0)
        before = divergence(logits, reference)
        for _ in range(STEPS):
            words = torch.multinomial(logits.softmax(dim=-1), SAMPLES, replacement=True, generator=generator).t()
            mask = torch.ones(SAMPLES, TOKENS, dtype=torch.bool)
            nothing = torch.zeros(SAMPLES, TOKENS, dtype=torch.float64)
            batch = TrainBatch(
                words, mask, mask, mask, nothing, scores(logits, words), torch.arange(SAMPLES),
                reference_logprobs=scores(reference, words), advantages=nothing, returns=nothing,
            )  # fmt: skip
            weights = Weights(*(loss_weights(mask, kind) for kind in ("token_mean", "sequence_mean", "token_mean")))
            leaf = logits.clone().requires_grad_()
            loss, _ = policy_objective(scores(leaf, words), nothing, batch, weights, config)
            (gradient,) = torch.autograd.grad(loss, leaf)
            logits = logits - 0.5 * gradient
        assert divergence(logits, reference) < before / 4, kind


def divergence(logits: Tensor, reference: Tensor) -> float:
    policy = logits.log_softmax(dim=-1)
    return (policy.exp() * (policy - reference.log_softmax(dim=-1))).sum().item()
