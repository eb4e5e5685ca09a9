"""The critic: a transformer whose last hidden states become one number per token, the value of what follows.

It must not know of losses, optimisers or sharding.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils.hub import cached_file

from rltrain_trainer.models.attention import AttentionSettings, use_for
from rltrain_trainer.models.body import all_scores, hidden_states, laid_out


class ValuedLM(nn.Module):
    """Values of response tokens: a linear map of the state before each, the state that the policy samples it in.

    The transformer's parameters keep their names in `causal_lm`, whose output embedding is left out. The output layer
    is named `head_name`, as SkyRL's algorithm.value_head_prefix says. It begins as normal numbers of standard deviation
    1 / (width + 1), as upstream's does.
    """

    def __init__(self, causal_lm: PreTrainedModel, head_name: str, attention: AttentionSettings | None = None) -> None:
        super().__init__()
        self.attention = attention or AttentionSettings()
        use_for(causal_lm, self.attention)
        self.body_name = causal_lm.base_model_prefix
        self.add_module(self.body_name, causal_lm.base_model)
        width = causal_lm.config.hidden_size
        self.head_name = head_name
        head = nn.Linear(width, 1, bias=False, dtype=next(causal_lm.parameters()).dtype)
        nn.init.normal_(head.weight, std=1 / (width + 1))
        self.add_module(head_name, head)

    @property
    def body(self) -> PreTrainedModel:
        """The transformer."""
        body: PreTrainedModel = getattr(self, self.body_name)
        return body

    @property
    def head(self) -> nn.Linear:
        """The output layer."""
        head: nn.Linear = getattr(self, self.head_name)
        return head

    def forward(self, sequences: Tensor, attention_mask: Tensor, response_mask: Tensor) -> Tensor:
        """[batch, response] float32 (float64 for a float64 model), 0 where response_mask is 0.

        Arguments as in `ScoredCausalLM.forward`.
        """
        layout = laid_out(sequences, attention_mask, response_mask, self.attention)
        hidden, mine = hidden_states(self.body, layout, self.attention)
        values = self.head(hidden[mine.scored])[:, 0]
        values = values.to(torch.promote_types(values.dtype, torch.float32))
        return layout.placed(all_scores(values, layout, mine, self.attention), response_mask)


@torch.no_grad()
def load_head(model: ValuedLM, path: str) -> bool:
    """Take the output layer from the checkpoint at `path`, where it has one; returns whether it had."""
    name = f"{model.head_name}.weight"
    for file in _weight_files(path):
        with safe_open(file, framework="pt") as content:
            if name in content.keys():  # noqa: SIM118 - not a mapping
                model.head.weight.copy_(content.get_tensor(name))
                return True
    return False


def _weight_files(path: str) -> list[str]:
    """The safetensors files of a model: of a directory all, of a hub's name the single one, where it has that."""
    directory = Path(path).expanduser()
    if directory.is_dir():
        return [str(file) for file in sorted(directory.glob("*.safetensors"))]
    found = cached_file(path, "model.safetensors", _raise_exceptions_for_missing_entries=False)
    return [] if found is None else [str(found)]
