"""From losses of tokens to one number, in a way that survives being split.

Every reduction here is a weighted sum, and the weights depend only on the loss mask of the whole mini-batch. So they
are computed once per mini-batch, dealt out with its rows, and the sum over any division into ranks and micro-batches is
the same number with the same gradient. Upstream's first release took a mean per micro-batch and averaged those, which
made the gradient depend on how sequences were dealt out.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from rltrain_trainer.algorithms.groups import GroupIds, group_indices, group_sums
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

    loss_mask: [batch, tokens] of the whole mini-batch over all ranks, 0 where a token does not count; group_ids:
    [batch], equal for samples of one prompt. With B sequences of P prompts, M trained tokens in all, m of them in a
    sequence and M_p in those of a prompt, a trained token counts

        token_mean                1 / M            (DAPO, arXiv 2503.14476)
        sequence_mean             1 / (B·m)        (GRPO, arXiv 2402.03300)
        seq_mean_token_sum_norm   1 / (B·max_seq_len)        (Dr. GRPO, arXiv 2503.20783)
        prompt_mean               1 / (P·M_p)

    A sequence without trained tokens counts in B, and its prompt in P. Raises ValueError for an unknown reduction, or
    without the max_seq_len or group_ids that one needs.
    """
    try:
        weigh = REDUCTIONS[reduction]
    except KeyError as error:
        known = ", ".join(sorted(REDUCTIONS))
        raise ValueError(f"trainer.algorithm.loss_reduction: {reduction} is not one of {known}") from error
    return weigh(loss_mask.double(), max_seq_len, group_ids)


def _token_mean(mask: Tensor, max_seq_len: int | None, group_ids: GroupIds | None) -> Tensor:
    return mask / mask.sum().clamp(min=1)


def _sequence_mean(mask: Tensor, max_seq_len: int | None, group_ids: GroupIds | None) -> Tensor:
    return mask / (mask.shape[0] * mask.sum(dim=-1, keepdim=True).clamp(min=1))


def _sequence_mean_of_normed_sums(mask: Tensor, max_seq_len: int | None, group_ids: GroupIds | None) -> Tensor:
    if max_seq_len is None:
        raise ValueError(
            "trainer.algorithm.max_seq_len: loss_reduction seq_mean_token_sum_norm divides by it; set it to the "
            "longest sequence, in tokens"
        )
    return mask / (mask.shape[0] * max_seq_len)


def _prompt_mean(mask: Tensor, max_seq_len: int | None, group_ids: GroupIds | None) -> Tensor:
    if group_ids is None:
        raise ValueError("group_ids: loss_reduction prompt_mean needs to know which sequences have the same prompt")
    groups = group_indices(group_ids).to(mask.device)
    tokens = group_sums(mask.sum(dim=-1), groups)
    return mask / (len(tokens) * tokens.clamp(min=1))[groups, None]


REDUCTIONS: dict[str, Callable[[Tensor, int | None, GroupIds | None], Tensor]] = {
    "token_mean": _token_mean,
    "sequence_mean": _sequence_mean,
    "seq_mean_token_sum_norm": _sequence_mean_of_normed_sums,
    "prompt_mean": _prompt_mean,
}
