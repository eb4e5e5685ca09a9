"""A causal language model that scores given responses instead of returning logits.

This is the module that is sharded and trained: the transformer's body from Hugging Face, and its output embedding
applied chunk by chunk inside the same forward pass, while the parameters of the root are gathered. It must not know of
losses, optimisers or process groups.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rltrain_trainer.models.logprobs import token_scores

PREFIX = "causal_lm."  # what this module puts in front of Hugging Face's parameter names


class ScoredCausalLM(nn.Module):
    """Token log-probabilities and entropy of responses under `causal_lm`.

    Raises ValueError for a model whose logits are anything but a linear map of its last hidden states.
    """

    def __init__(self, causal_lm: PreTrainedModel) -> None:
        super().__init__()
        _refuse_unusual_head(causal_lm)
        self.causal_lm = causal_lm

    def forward(
        self, sequences: Tensor, attention_mask: Tensor, response_mask: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        """Score every response token given all tokens before it.

        sequences, attention_mask: [batch, total], padded on the left; response_mask: [batch, response], whose columns
        are the last columns of `sequences`. Returns (logprobs, entropy), each [batch, response] in float32 (float64 for
        a float64 model), 0 where response_mask is 0.
        """
        position_ids = (attention_mask.long().cumsum(dim=-1) - 1).clamp_(min=0)
        body = self.causal_lm.base_model(
            input_ids=sequences, attention_mask=attention_mask.long(), position_ids=position_ids, use_cache=False
        )
        response = response_mask.shape[1]
        chosen = response_mask.bool()
        # The state at a token predicts the next one, so responses are read off one column earlier.
        hidden = body.last_hidden_state[:, -response - 1 : -1][chosen]
        logprobs, entropy = token_scores(
            hidden, _head(self.causal_lm).weight, sequences[:, -response:][chosen], temperature=temperature
        )
        empty = logprobs.new_zeros(chosen.shape)
        return empty.masked_scatter(chosen, logprobs), empty.masked_scatter(chosen, entropy)

    @property
    def blocks(self) -> list[nn.Module]:
        """The transformer's blocks in order: what is sharded, gathered and recomputed one at a time."""
        names = set(self.causal_lm._no_split_modules or ())
        blocks = [module for module in self.causal_lm.modules() if type(module).__name__ in names]
        if not blocks:
            raise ValueError(f"model {self.causal_lm.name_or_path}: transformers names no block class for its kind")
        return blocks


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
