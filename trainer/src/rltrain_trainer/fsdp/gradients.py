"""The gradient of one mini-batch, micro-batch by micro-batch, and the numbers that are reported of it.

Everything is a weighted sum whose weights `rltrain_trainer.fsdp.minibatches` fixed for the whole mini-batch, so the
gradient does not depend on how rows are dealt out to ranks and micro-batches.
"""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor, nn

from rltrain_api.config import AlgorithmConfig
from rltrain_trainer.algorithms.kl import approx_kl
from rltrain_trainer.algorithms.losses import policy_loss
from rltrain_trainer.algorithms.reductions import weighted_sum
from rltrain_trainer.fsdp.minibatches import MiniBatchShare


def accumulate_gradients(
    model: nn.Module, share: MiniBatchShare, algorithm: AlgorithmConfig, *, micro_batch_size: int, device: torch.device
) -> dict[str, Tensor]:
    """Add the gradient of this rank's share to the model's, which then holds its part of the sum over ranks.

    Returns this rank's part of the mini-batch's numbers, float64 scalars on `device`: their sums over the ranks are
    those of the mini-batch. Every rank must call it with the same number of rows.
    """
    sums: defaultdict[str, Tensor] = defaultdict(lambda: torch.zeros((), dtype=torch.float64, device=device))
    for start in range(0, len(share), micro_batch_size):
        micro = share.micro_batch(slice(start, start + micro_batch_size))
        loss, metrics = _loss(model, micro.to(device), algorithm)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        for name, value in metrics.items():
            sums[name] += value.detach()
    return dict(sums)


def _loss(model: nn.Module, micro: MiniBatchShare, algorithm: AlgorithmConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """This micro-batch's part of policy loss + kl_loss_coef·KL - entropy_loss_coef·entropy, and of the metrics."""
    batch = micro.batch
    assert batch.advantages is not None, "advantages come before the update"
    assert algorithm.temperature is not None, "resolve() sets the temperature"
    logprobs, entropy = model(batch.sequences, batch.attention_mask, batch.response_mask, algorithm.temperature)
    token_loss, loss_metrics = policy_loss(
        algorithm.policy_loss_type,
        logprobs,
        logprobs.detach() if batch.old_logprobs is None else batch.old_logprobs,
        batch.advantages,
        batch.loss_mask,
        rollout_logprobs=batch.rollout_logprobs,
        config=algorithm,
    )
    metrics = {
        "policy_loss": weighted_sum(token_loss, micro.policy_weights),
        "policy_entropy": weighted_sum(entropy, micro.token_weights),
    }
    share_of_tokens = micro.token_weights.sum()
    metrics |= {f"loss_metrics/{name}": value * share_of_tokens for name, value in loss_metrics.items()}
    loss = metrics["policy_loss"]
    if micro.reference_logprobs is not None:
        divergence = approx_kl(logprobs, micro.reference_logprobs, batch.loss_mask, algorithm.kl_estimator_type)
        metrics["policy_kl"] = weighted_sum(divergence, micro.sequence_weights)
        loss = loss + algorithm.kl_loss_coef * metrics["policy_kl"]
    if algorithm.use_entropy_loss:
        loss = loss - algorithm.entropy_loss_coef * metrics["policy_entropy"]
    return loss, metrics | {"final_loss": loss}
