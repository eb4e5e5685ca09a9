"""Reinforcement-learning algorithms as plain functions of tensors: advantages, losses, reductions, divergences.

Tensors are [batch, tokens] with responses aligned on the right. Nothing here knows of models, ranks or micro-batches.

A user's module (`spec.runtime.modules`) adds its own with `register_advantage_estimator(name)` and
`register_policy_loss(name)`; see `AdvantageEstimator` and `PolicyLoss` for what such a function gets and gives.
"""

from rltrain_api.config import AlgorithmConfig
from rltrain_trainer.algorithms import clipped, covariance, likelihood, sequence
from rltrain_trainer.algorithms.advantages import (
    ADVANTAGE_ESTIMATORS,
    AdvantageEstimator,
    compute_advantages,
    register_advantage_estimator,
)
from rltrain_trainer.algorithms.kl import approx_kl
from rltrain_trainer.algorithms.losses import POLICY_LOSSES, PolicyLoss, policy_loss, register_policy_loss
from rltrain_trainer.algorithms.reductions import reduce_loss

LOSS_FAMILIES = (clipped, sequence, covariance, likelihood)  # importing them is what registers their losses

__all__ = [
    "LOSS_FAMILIES",
    "AdvantageEstimator",
    "PolicyLoss",
    "approx_kl",
    "check_registered",
    "compute_advantages",
    "policy_loss",
    "reduce_loss",
    "register_advantage_estimator",
    "register_policy_loss",
]


def check_registered(algorithm: AlgorithmConfig) -> None:
    """Raise ValueError, naming what there is, unless the configuration's estimator and loss are registered.

    Validation lets every name pass where a user's modules may register more; once they are imported, this tells.
    """
    ADVANTAGE_ESTIMATORS.named(algorithm.advantage_estimator)
    POLICY_LOSSES.named(algorithm.policy_loss_type)
