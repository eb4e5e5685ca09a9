"""Numbers about a training batch that need no model: how far trainer and engines agree, how long responses are."""

from __future__ import annotations

from rltrain_trainer.data.batch import TrainBatch


def batch_metrics(batch: TrainBatch) -> dict[str, float]:
    """Response length in tokens, and |old - rollout| log-probability over the trained tokens, in nats.

    The difference is how far the engines' arithmetic is from the trainer's; it is left out without old_logprobs and
    without trained tokens.
    """
    metrics = {"policy/response_length": batch.response_mask.sum(dim=-1).double().mean().item()}
    if batch.old_logprobs is None or not batch.loss_mask.any():
        return metrics
    difference = (batch.old_logprobs - batch.rollout_logprobs).abs()[batch.loss_mask].double()
    prefix = "policy/rollout_train_logprobs_abs_diff_"
    return metrics | {
        f"{prefix}mean": difference.mean().item(),
        f"{prefix}std": difference.std(correction=0).item(),
        f"{prefix}min": difference.min().item(),
        f"{prefix}max": difference.max().item(),
    }
