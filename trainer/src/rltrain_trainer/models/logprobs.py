"""Log-probabilities and entropy of tokens from hidden states, without a full logits tensor.

A logits tensor of shape [tokens, vocabulary] in float32 is the largest thing a naive trainer holds: 1,024 sequences of
1,024 tokens over 150,000 words are 630 GB. Here the logits exist for one chunk of tokens at a time, in the forward pass
and, recomputed, in the backward pass. This module must not know of models, masks or sharding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

# Elements of one chunk's logits: 128 MiB in float32, of which the backward pass holds about three at a time.
CHUNK_ELEMENTS = 2**25


def token_scores(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    temperature: float,
    chunk_elements: int = CHUNK_ELEMENTS,
    compiled: bool = False,
) -> tuple[Tensor, Tensor]:
    """Log-probability of each target and entropy of each distribution, in nats.

    hidden: [tokens, width], the last hidden states; weight: [vocabulary, width], the output embedding; targets:
    [tokens], int64. The logits are hidden·weightᵀ / temperature. Returns two tensors [tokens], float32 (float64 for
    float64 input), both differentiable in hidden and weight:

        logprob = z[target] - logsumexp(z)          ∂logprob/∂z = onehot(target) - p
        entropy = logsumexp(z) - Σ p·z              ∂entropy/∂z = -p·(log p + entropy)          p = softmax(z)

    compiled: the work on a chunk is compiled (torch.compile), which needs a compiler for C++ on CPUs.
    """
    assert temperature > 0, "the configuration refuses a temperature of 0 for training"
    chunks = _Chunks(temperature, chunk_elements, compiled)
    logprobs, entropy = _TokenScores.apply(hidden, weight, targets, chunks)  # type: ignore[no-untyped-call]  # torch's apply is untyped
    return logprobs, entropy


@dataclass(frozen=True)
class _Chunks:
    """How the tokens of one call are worked on."""

    temperature: float
    elements: int
    compiled: bool

    def of(self, tokens: int, vocabulary: int) -> Iterator[slice]:
        """Runs of tokens whose logits are at most so many elements, but at least one token."""
        size = max(1, self.elements // vocabulary)
        for start in range(0, tokens, size):
            yield slice(start, start + size)


class _TokenScores(torch.autograd.Function):
    """Saves hidden states, weight and per-token results; the logits of each chunk are made again in the backward."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, chunks: _Chunks) -> tuple[Tensor, Tensor]:
        work = _compiled(_chunk_scores) if chunks.compiled else _chunk_scores
        normalisers = torch.empty(len(targets), dtype=_precise(hidden.dtype), device=hidden.device)
        logprobs = torch.empty_like(normalisers)
        entropy = torch.empty_like(normalisers)
        for chunk in chunks.of(len(targets), weight.shape[0]):
            logprobs[chunk], entropy[chunk], normalisers[chunk] = work(
                hidden[chunk], weight, targets[chunk], chunks.temperature
            )
        ctx.save_for_backward(hidden, weight, targets, normalisers, entropy)
        ctx.chunks = chunks
        ctx.set_materialize_grads(False)
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, Tensor | None, None, None]:
        logprob_gradient, entropy_gradient = gradients
        hidden, weight, targets, normalisers, entropy = ctx.saved_tensors
        chunks: _Chunks = ctx.chunks
        work = _compiled(_chunk_gradient) if chunks.compiled else _chunk_gradient
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        hidden_gradient = torch.empty_like(hidden) if wants_hidden else None
        # Chunks are summed in float32, so that a weight in bfloat16 does not lose the small ones.
        weight_gradient = torch.zeros_like(weight, dtype=_precise(weight.dtype)) if wants_weight else None
        for chunk in chunks.of(len(targets), weight.shape[0]):
            gradient = work(
                hidden[chunk],
                weight,
                targets[chunk],
                normalisers[chunk],
                entropy[chunk],
                None if logprob_gradient is None else logprob_gradient[chunk],
                None if entropy_gradient is None else entropy_gradient[chunk],
                chunks.temperature,
            )
            if hidden_gradient is not None:
                hidden_gradient[chunk] = gradient @ weight
            if weight_gradient is not None:
                weight_gradient += gradient.t() @ hidden[chunk]
        if weight_gradient is not None:
            weight_gradient = weight_gradient.to(weight.dtype)
        return hidden_gradient, weight_gradient, None, None


def _chunk_scores(hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities, entropy and logsumexp of a chunk's tokens, each [tokens]."""
    logits = _logits(hidden, weight, temperature)
    normaliser = logits.logsumexp(dim=-1)
    logprobs = logits.gather(-1, targets[:, None]).squeeze(-1) - normaliser
    probabilities = (logits - normaliser[:, None]).exp_()
    return logprobs, normaliser - probabilities.mul_(logits).sum(dim=-1), normaliser


def _chunk_gradient(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    normalisers: Tensor,
    entropy: Tensor,
    logprob_gradient: Tensor | None,
    entropy_gradient: Tensor | None,
    temperature: float,
) -> Tensor:
    """The gradient of the product of hidden states and weight, [tokens of the chunk, vocabulary]."""
    log_p = _logits(hidden, weight, temperature).sub_(normalisers[:, None])
    p = log_p.exp()
    column = 0.0 if logprob_gradient is None else logprob_gradient[:, None]
    if entropy_gradient is None:
        gradient = p.mul_(-column)
    else:
        uncertainty = log_p.add_(entropy[:, None]).mul_(entropy_gradient[:, None])
        gradient = p.mul_(uncertainty.add_(column).neg_())
    if logprob_gradient is not None:
        gradient.scatter_add_(-1, targets[:, None], logprob_gradient[:, None])
    return gradient.div_(temperature).to(hidden.dtype)


@cache
def _compiled(work: Callable[..., Any]) -> Callable[..., Any]:
    """The same work compiled, for chunks of any length."""
    return torch.compile(work, dynamic=True)


def _precise(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _logits(hidden: Tensor, weight: Tensor, temperature: float) -> Tensor:
    """[tokens of the chunk, vocabulary]: the product in the model's type, the rest in float32 or better."""
    return (hidden @ weight.t()).to(_precise(hidden.dtype)).div_(temperature)
