"""A causal language model that scores given responses instead of returning logits.

This is the module that is sharded and trained: the transformer's body from Hugging Face, and its output embedding
applied chunk by chunk inside the same forward pass, while the parameters of the root are gathered. It must not know of
losses, optimisers or sharding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rltrain_trainer.models.attention import AttentionSettings, use_for
from rltrain_trainer.models.body import all_scores, hidden_states, laid_out
from rltrain_trainer.models.logprobs import token_scores

PREFIX = "causal_lm."  # what this module puts in front of Hugging Face's parameter names


class ScoredCausalLM(nn.Module):
    """Token log-probabilities and entropy of responses under `causal_lm`.

    Raises ValueError for a model whose logits are anything but a linear map of its last hidden states, or whose
    attention cannot be computed as `attention` asks.
    """

    def __init__(
        self, causal_lm: PreTrainedModel, attention: AttentionSettings | None = None, *, compiled: bool = False
    ) -> None:
        """compiled: compile the computation of log-probabilities."""
        super().__init__()
        _refuse_unusual_head(causal_lm)
        self.causal_lm = causal_lm
        self.attention = attention or AttentionSettings()
        self.compiled = compiled
        use_for(causal_lm, self.attention)

    @property
    def body(self) -> PreTrainedModel:
        """The transformer without its output embedding."""
        body = self.causal_lm.base_model
        assert isinstance(body, PreTrainedModel), "a causal language model is more than its body"
        return body

    def forward(
        self, sequences: Tensor, attention_mask: Tensor, response_mask: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        """Score every response token given all tokens before it.

        sequences, attention_mask: [batch, total], padded on the left; response_mask: [batch, response], whose columns
        are the last columns of `sequences`. Returns (logprobs, entropy), each [batch, response] in float32 (float64 for
        a float64 model), 0 where response_mask is 0. Ranks of one sequence group get the same, from the same input.
        """
        layout = laid_out(sequences, attention_mask, response_mask, self.attention)
        hidden, mine = hidden_states(self.body, layout, self.attention)
        logprobs, entropy = token_scores(
            hidden[mine.scored],
            _head(self.causal_lm).weight,
            mine.targets[mine.scored],
            temperature=temperature,
            compiled=self.compiled,
        )
        return (
            layout.placed(all_scores(logprobs, layout, mine, self.attention), response_mask),
            layout.placed(all_scores(entropy, layout, mine, self.attention), response_mask),
        )


def _head(causal_lm: PreTrainedModel) -> nn.Linear:
    head = causal_lm.get_output_embeddings()  # type: ignore[no-untyped-call]  # transformers leaves it untyped
    if not isinstance(head, nn.Linear) or head.bias is not None:
        raise ValueError(f"model {causal_lm.name_or_path}: its output embedding is not a linear map without bias")
    return head


@torch.no_grad()
def _refuse_unusual_head(causal_lm: PreTrainedModel) -> None:
    """Compare the model's own logits with the head applied to its hidden states, on two tokens.

    Some families scale or squash their logits; asking the model is surer than a list of families.
    """
    head = _head(causal_lm)
    tokens = torch.zeros((1, 2), dtype=torch.long, device=head.weight.device)
    training = causal_lm.training
    causal_lm.train(False)  # dropout would make the two passes differ
    own = causal_lm(input_ids=tokens, use_cache=False).logits
    ours = head(causal_lm.base_model(input_ids=tokens, use_cache=False).last_hidden_state)
    causal_lm.train(training)
    if not torch.allclose(own, ours, rtol=1e-3, atol=1e-4):
        raise ValueError(
            f"model {causal_lm.name_or_path} ({type(causal_lm).__name__}): it transforms its logits after the output "
            "embedding, which this trainer does not do; use a model family such as Qwen2, Qwen3 or Llama"
        )
