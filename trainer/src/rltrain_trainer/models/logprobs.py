"""Log-probabilities and entropy of tokens from hidden states, without a full logits tensor.

A logits tensor of shape [tokens, vocabulary] in float32 is the largest thing a naive trainer holds: 1,024 sequences of
1,024 tokens over 150,000 words are 630 GB. Here the logits exist for one chunk of tokens at a time, in the forward pass
and, recomputed, in the backward pass. This module must not know of models, masks or sharding.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

# Elements of one chunk's logits: 128 MiB in float32, of which the backward pass holds about three at a time.
CHUNK_ELEMENTS = 2**25


def token_scores(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, temperature: float, chunk_elements: int = CHUNK_ELEMENTS
) -> tuple[Tensor, Tensor]:
    """Log-probability of each target and entropy of each distribution, in nats.

    hidden: [tokens, width], the last hidden states; weight: [vocabulary, width], the output embedding; targets:
    [tokens], int64. The logits are hidden·weightᵀ / temperature. Returns two tensors [tokens], float32 (float64 for
    float64 input), both differentiable in hidden and weight:

        logprob = z[target] - logsumexp(z)          ∂logprob/∂z = onehot(target) - p
        entropy = logsumexp(z) - Σ p·z              ∂entropy/∂z = -p·(log p + entropy)          p = softmax(z)
    """
    assert temperature > 0, "the configuration refuses a temperature of 0 for training"
    logprobs, entropy = _TokenScores.apply(hidden, weight, targets, temperature, chunk_elements)  # type: ignore[no-untyped-call]  # torch's apply is untyped
    return logprobs, entropy


class _TokenScores(torch.autograd.Function):
    """Saves hidden states, weight and per-token results; the logits of each chunk are made again in the backward."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, chunk_elements: int
    ) -> tuple[Tensor, Tensor]:
        precise = _precise(hidden.dtype)
        normalisers = torch.empty(len(targets), dtype=precise, device=hidden.device)
        logprobs = torch.empty_like(normalisers)
        entropy = torch.empty_like(normalisers)
        for chunk in _chunks(len(targets), weight.shape[0], chunk_elements):
            logits = _logits(hidden[chunk], weight, temperature)
            normaliser = logits.logsumexp(dim=-1)
            normalisers[chunk] = normaliser
            logprobs[chunk] = logits.gather(-1, targets[chunk, None]).squeeze(-1) - normaliser
            probabilities = (logits - normaliser[:, None]).exp_()
            entropy[chunk] = normaliser - probabilities.mul_(logits).sum(dim=-1)
        ctx.save_for_backward(hidden, weight, targets, normalisers, entropy)
        ctx.temperature, ctx.chunk_elements = temperature, chunk_elements
        ctx.set_materialize_grads(False)
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        logprob_gradient, entropy_gradient = gradients
        hidden, weight, targets, normalisers, entropy = ctx.saved_tensors
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        hidden_gradient = torch.empty_like(hidden) if wants_hidden else None
        # Chunks are summed in float32, so that a weight in bfloat16 does not lose the small ones.
        weight_gradient = torch.zeros_like(weight, dtype=_precise(weight.dtype)) if wants_weight else None
        for chunk in _chunks(len(targets), weight.shape[0], ctx.chunk_elements):
            log_p = _logits(hidden[chunk], weight, ctx.temperature).sub_(normalisers[chunk, None])
            p = log_p.exp()
            if entropy_gradient is None:
                gradient = p.mul_(-_column(logprob_gradient, chunk))
            else:
                uncertainty = log_p.add_(entropy[chunk, None]).mul_(entropy_gradient[chunk, None])
                gradient = p.mul_(uncertainty.add_(_column(logprob_gradient, chunk)).neg_())
            if logprob_gradient is not None:
                gradient.scatter_add_(-1, targets[chunk, None], logprob_gradient[chunk, None])
            gradient = gradient.div_(ctx.temperature).to(hidden.dtype)
            if hidden_gradient is not None:
                hidden_gradient[chunk] = gradient @ weight
            if weight_gradient is not None:
                weight_gradient += gradient.t() @ hidden[chunk]
        if weight_gradient is not None:
            weight_gradient = weight_gradient.to(weight.dtype)
        return hidden_gradient, weight_gradient, None, None, None


def _precise(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _logits(hidden: Tensor, weight: Tensor, temperature: float) -> Tensor:
    """[tokens of the chunk, vocabulary]: the product in the model's type, the rest in float32 or better."""
    return (hidden @ weight.t()).to(_precise(hidden.dtype)).div_(temperature)


def _column(gradient: Tensor | None, chunk: slice) -> Tensor | float:
    return 0.0 if gradient is None else gradient[chunk, None]


def _chunks(tokens: int, vocabulary: int, chunk_elements: int) -> Iterator[slice]:
    size = max(1, chunk_elements // vocabulary)
    for start in range(0, tokens, size):
        yield slice(start, start + size)
