"""The divergence between policy and reference: estimates from one sample per token, and its weight over time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rltrain_api.config import AlgorithmConfig
from rltrain_trainer.algorithms.masking import LOG_RATIO_BOUND, log_ratio, row_means

K3_BOUND = 10.0  # SkyRL's bound on the estimate itself
ERROR_BOUND = 0.2  # of the adaptive controller


def approx_kl(logprobs: Tensor, ref_logprobs: Tensor, loss_mask: Tensor, kind: str) -> Tensor:
    """Divergence per token in nats, [batch, tokens], 0 where the mask is 0; with gradient in both.

    logprobs, ref_logprobs, loss_mask: [batch, tokens]. With d = logprobs - ref_logprobs (Schulman, "Approximating KL
    divergence", 2020): k1 d; abs |d|; k2 d²/2; k3 exp(-d) + d - 1 with d within ±20 and the estimate within ±10. The
    seed release of SkyRL computed this without gradient, so that its KL loss did not act; here it does. Raises
    ValueError for an unknown kind.
    """
    try:
        estimate = KL_ESTIMATORS[kind]
    except KeyError as error:
        known = ", ".join(sorted(KL_ESTIMATORS))
        raise ValueError(f"trainer.algorithm.kl_estimator_type: {kind} is not one of {known}") from error
    return estimate(log_ratio(logprobs, ref_logprobs, loss_mask))


def _k2(difference: Tensor) -> Tensor:
    return difference.square() / 2


def _k3(difference: Tensor) -> Tensor:
    inverse = (-difference).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND)
    return (inverse.expm1() - inverse).clamp(-K3_BOUND, K3_BOUND)


KL_ESTIMATORS: dict[str, Callable[[Tensor], Tensor]] = {
    "k1": lambda difference: difference,
    "abs": lambda difference: difference.abs(),
    "k2": _k2,
    "k3": _k3,
}


@dataclass
class KLController:
    """The weight of the divergence in the reward: `value`, at first kl_loss_coef.

    target: divergence per token in nats to steer towards, None to keep the weight; horizon: in sequences. After each
    batch an adaptive weight is multiplied by 1 + clip(measured/target - 1, ±0.2)·sequences/horizon (Ziegler et al.,
    arXiv 1909.08593, section 2.2). Upstream does not save it; here its state goes into checkpoints.
    """

    value: float
    target: float | None = None
    horizon: int = 1

    @classmethod
    def of(cls, algorithm: AlgorithmConfig) -> KLController:
        """The controller that trainer.algorithm.kl_ctrl describes."""
        settings = algorithm.kl_ctrl
        target = settings.kl_target if settings.type == "adaptive" else None
        return cls(algorithm.kl_loss_coef, target, settings.horizon)

    def update(self, divergence: float, sequences: int) -> None:
        """Steer by what was measured on a batch: the mean divergence per token, and how many sequences there were."""
        if self.target is not None:
            error = min(max(divergence / self.target - 1, -ERROR_BOUND), ERROR_BOUND)
            self.value *= 1 + error * sequences / self.horizon

    def state_dict(self) -> dict[str, float]:
        """What a resume needs."""
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on with the weight of a checkpoint, if the configuration lets it move; else the configuration's counts."""
        if self.target is not None:
            self.value = state["value"]


@torch.no_grad()
def penalized_rewards(
    token_rewards: Tensor, logprobs: Tensor, ref_logprobs: Tensor, loss_mask: Tensor, *, kind: str, weight: float
) -> tuple[Tensor, dict[str, float]]:
    """Rewards less weight·divergence on every trained token, and the divergence under SkyRL's metric names.

    All tensors [batch, tokens], without gradient; weight: at least 0. `loss/avg_kl` is the mean over sequences of the
    means over their trained tokens, `loss/avg_kl_max` that of the greatest absolute values. Sequences without trained
    tokens count 0 in both.
    """
    divergence = approx_kl(logprobs, ref_logprobs, loss_mask, kind)
    metrics = {
        "loss/avg_kl": row_means(divergence, loss_mask).mean().item(),
        "loss/avg_kl_max": divergence.abs().amax(dim=-1).mean().item(),
        "loss/kl_loss_coef": weight,
    }
    return token_rewards - weight * divergence, metrics
