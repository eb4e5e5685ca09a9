"""What is minimised: policy loss, divergence and entropy for the policy; squared error for the critic.

Both are weighted sums over tokens. The weights were fixed for the whole mini-batch (`rltrain_trainer.algorithms.
reductions`), so the sums over micro-batches and ranks are the objective of the mini-batch, with the same gradient
however its rows were dealt out. It must not know of models, ranks or how rows were dealt out.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from rltrain_api.config import AlgorithmConfig
from rltrain_trainer.algorithms.covariance import chosen_loss
from rltrain_trainer.algorithms.kl import approx_kl
from rltrain_trainer.algorithms.losses import POLICY_LOSSES
from rltrain_trainer.algorithms.masking import log_ratio
from rltrain_trainer.algorithms.reductions import weighted_sum
from rltrain_trainer.algorithms.statistics import as_part, distribution
from rltrain_trainer.algorithms.values import value_loss
from rltrain_trainer.data.batch import TrainBatch


class ObjectiveWeights(Protocol):
    """What each token of the rows at hand counts; [rows, response] float64, from the loss mask of the mini-batch."""

    @property
    def policy_weights(self) -> Tensor:
        """For the policy loss: trainer.algorithm.loss_reduction."""

    @property
    def sequence_weights(self) -> Tensor:
        """For divergence and the critic's error: the mean over sequences of means over tokens."""

    @property
    def token_weights(self) -> Tensor:
        """For entropy and metrics: the mean over trained tokens."""


def policy_objective(
    logprobs: Tensor, entropy: Tensor, batch: TrainBatch, weights: ObjectiveWeights, algorithm: AlgorithmConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """These rows' part of policy loss + kl_loss_coef·KL - entropy_loss_coef·entropy, and of the metrics.

    logprobs, entropy: [rows, response], of the policy being trained, with gradient. batch needs advantages, and
    reference_logprobs with use_kl_loss; without old_logprobs the policy is its own old one. The loss is
    a float64 sum: added up over all rows of the mini-batch it is the mini-batch's objective. Metrics (names without the
    prefix `policy/`) are a part that `rltrain_trainer.algorithms.statistics` joins to others: sums too, but for names
    that end in _max and _min.
    """
    assert batch.advantages is not None, "advantages come before the update"
    name = algorithm.policy_loss_type
    token_loss_of = POLICY_LOSSES.named(name) if batch.chosen is None else chosen_loss(name, batch.chosen)
    token_loss, loss_metrics = token_loss_of(
        logprobs,
        logprobs.detach() if batch.old_logprobs is None else batch.old_logprobs,
        batch.advantages,
        batch.loss_mask,
        rollout_logprobs=batch.rollout_logprobs,
        config=algorithm,
    )
    loss = weighted_sum(token_loss, weights.policy_weights)
    metrics = {"policy_loss": loss, "policy_entropy": weighted_sum(entropy, weights.token_weights)}
    if algorithm.use_kl_loss:
        assert batch.reference_logprobs is not None, "the reference's log-probabilities come before the update"
        divergence = approx_kl(logprobs, batch.reference_logprobs, batch.loss_mask, algorithm.kl_estimator_type)
        metrics["policy_kl"] = weighted_sum(divergence, weights.sequence_weights)
        loss = loss + algorithm.kl_loss_coef * metrics["policy_kl"]
    if algorithm.use_entropy_loss:
        loss = loss - algorithm.entropy_loss_coef * metrics["policy_entropy"]
    metrics["final_loss"] = loss
    difference = log_ratio(logprobs.detach(), batch.rollout_logprobs, batch.loss_mask).abs()
    of_tokens = {f"loss_metrics/{key}": value for key, value in loss_metrics.items()} | {
        f"minibatch_rollout_logprobs_abs_diff_{key}": value
        for key, value in distribution(difference, batch.loss_mask).items()
    }
    shares = {"token_share": weights.token_weights.sum(), "sequence_share": weights.sequence_weights.sum()}
    return loss, {key: value.detach() for key, value in metrics.items()} | as_part(of_tokens, **shares)


def critic_objective(
    values: Tensor, batch: TrainBatch, weights: ObjectiveWeights, algorithm: AlgorithmConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """These rows' part of the critic's loss, and of its metrics (names without the prefix `critic/`).

    values: [rows, response], of the critic being trained, with gradient; batch needs values (from before the update)
    and returns. Sums as in `policy_objective`.
    """
    assert batch.values is not None, "the critic's values come before the update"
    assert batch.returns is not None, "returns come before the update"
    token_loss, clipped = value_loss(values, batch.values, batch.returns, value_clip=algorithm.value_clip)
    loss = weighted_sum(token_loss, weights.sequence_weights)
    metrics = {
        "critic_loss": loss,
        "values_mean": weighted_sum(values, weights.token_weights),
        "values_clipfrac": weighted_sum(clipped, weights.token_weights),
    }
    return loss, {name: value.detach() for name, value in metrics.items()}
