"""Estimators of the divergence between the policy and the reference, from one sample per token."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from rltrain_trainer.algorithms.masking import LOG_RATIO_BOUND, at_least_float32, masked

K3_BOUND = 10.0  # SkyRL's bound on the estimate itself


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
    difference = masked(at_least_float32(logprobs) - at_least_float32(ref_logprobs), loss_mask)
    return estimate(difference)


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
