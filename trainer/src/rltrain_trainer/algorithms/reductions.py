"""From losses of tokens to one number, in a way that survives being split.

Every reduction here is a weighted sum, and the weights depend only on the loss mask of the whole mini-batch. So they
are computed once per mini-batch, dealt out with its rows, and the sum over any division into ranks and micro-batches is
the same number with the same gradient. Upstream's first release took a mean per micro-batch and averaged those, which
made the gradient depend on how sequences were dealt out.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from rltrain_trainer.algorithms.advantages import GroupIds
from rltrain_trainer.algorithms.masking import masked


def reduce_loss(
    token_loss: Tensor,
    loss_mask: Tensor,
    reduction: str,
    *,
    max_seq_len: int | None = None,
    group_ids: GroupIds | None = None,
) -> Tensor:
    """One scalar for a whole mini-batch; see `loss_weights` for the arguments."""
    weights = loss_weights(loss_mask, reduction, max_seq_len=max_seq_len, group_ids=group_ids)
    return weighted_sum(token_loss, weights).to(token_loss.dtype)


def weighted_sum(token_values: Tensor, weights: Tensor) -> Tensor:
    """Σ values·weights as a float64 scalar; values where the weight is 0 may be anything, NaN included."""
    return (masked(token_values, weights != 0) * weights).sum()


def loss_weights(
    loss_mask: Tensor, reduction: str, *, max_seq_len: int | None = None, group_ids: GroupIds | None = None
) -> Tensor:
    """[batch, tokens] float64: what each token counts in the sum that is the reduction.

    loss_mask: [batch, tokens] of the whole mini-batch over all ranks, 0 where a token does not count. With B sequences,
    M trained tokens in all and m of them in a sequence, a trained token counts

        token_mean                1 / M
        sequence_mean             1 / (B·m)
        seq_mean_token_sum_norm   1 / (B·max_seq_len)        (Dr. GRPO, arXiv 2503.20783)

    A sequence without trained tokens counts in B. Raises ValueError for an unknown reduction or a missing max_seq_len.
    """
    try:
        weigh = REDUCTIONS[reduction]
    except KeyError as error:
        known = ", ".join(sorted(REDUCTIONS))
        raise ValueError(f"trainer.algorithm.loss_reduction: {reduction} is not one of {known}") from error
    return weigh(loss_mask.double(), max_seq_len)


def _token_mean(mask: Tensor, max_seq_len: int | None) -> Tensor:
    return mask / mask.sum().clamp(min=1)


def _sequence_mean(mask: Tensor, max_seq_len: int | None) -> Tensor:
    return mask / (mask.shape[0] * mask.sum(dim=-1, keepdim=True).clamp(min=1))


def _sequence_mean_of_normed_sums(mask: Tensor, max_seq_len: int | None) -> Tensor:
    if max_seq_len is None:
        raise ValueError(
            "trainer.algorithm.max_seq_len: loss_reduction seq_mean_token_sum_norm divides by it; set it to the "
            "longest sequence, in tokens"
        )
    return mask / (mask.shape[0] * max_seq_len)


REDUCTIONS: dict[str, Callable[[Tensor, int | None], Tensor]] = {
    "token_mean": _token_mean,
    "sequence_mean": _sequence_mean,
    "seq_mean_token_sum_norm": _sequence_mean_of_normed_sums,
}
