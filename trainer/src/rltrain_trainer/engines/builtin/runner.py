"""The model on its device: prefill and decode of the slots of one cache, giving the logits of the next tokens.

Any causal model of transformers that attends fully over one key-value cache works (Qwen2, Qwen3, Llama, Mistral without
a window, …); others are refused by name at the start. It must not know requests, sampling nor weight versions.
"""

from __future__ import annotations

from collections.abc import Sequence as Rows

import torch
from transformers import PreTrainedModel

from rltrain_trainer.engines.builtin.cache import SlotCache, slot_bytes
from rltrain_trainer.engines.builtin.decoding import DecodingStep

FINAL_LOGIT_SETTINGS = ("final_logit_softcapping", "logits_scaling", "logit_scale")


class ModelRunner:
    """A model and its slot cache."""

    def __init__(
        self, model: PreTrainedModel, *, max_sequences: int, max_length: int, cache_bytes: int, device: torch.device
    ) -> None:
        """At most `max_sequences` slots of `max_length` tokens, fewer when they would take more than `cache_bytes`."""
        refuse_unsupported(model, max_length)
        model.train(False)
        self.model = model
        self.device = device
        per_slot = slot_bytes(model.config, max_length, model.dtype)
        self.slots = min(max_sequences, cache_bytes // per_slot)
        if self.slots < 1:
            raise ValueError(
                f"one sequence of {max_length} tokens takes {per_slot} bytes of cache, more than the {cache_bytes} "
                "allowed; lower --max-model-len or raise --kv-cache-memory-bytes"
            )
        self.max_length = max_length
        self._decoder = model.get_decoder()  # type: ignore[no-untyped-call]  # transformers ships no type for it
        self._head = model.get_output_embeddings()  # type: ignore[no-untyped-call]  # as above
        self._cache = SlotCache(model.config, slots=self.slots, length=max_length, dtype=model.dtype, device=device)
        self._step = DecodingStep(model, self._cache, max_length) if DecodingStep.fits(model) else None

    @property
    def vocabulary_size(self) -> int:
        """Token ids are below this."""
        return int(self._head.weight.shape[0])

    def prefill(self, first_slot: int, sequences: Rows[list[int]]) -> torch.Tensor:
        """Compute whole sequences into the slots from `first_slot` on; logits of their next tokens [n, vocabulary].

        Equal sequences are computed once, so the samples of one prompt cost one prefill.
        """
        unique = list(dict.fromkeys(map(tuple, sequences)))
        row_of = {tokens: row for row, tokens in enumerate(unique)}
        shared = len(unique) < len(sequences)
        rows = torch.tensor([row_of[tuple(tokens)] for tokens in sequences], device=self.device) if shared else None
        longest = max(map(len, unique))
        # Padding stands behind the tokens, where causal attention cannot see it; decoding later overwrites it.
        padded = torch.tensor([[*tokens, *[0] * (longest - len(tokens))] for tokens in unique], device=self.device)
        last = torch.tensor([len(tokens) - 1 for tokens in unique], device=self.device)
        self._cache.expect_prefill(first_slot, rows)
        positions = torch.arange(longest, device=self.device)[None]
        hidden = self._decoder(
            input_ids=padded, position_ids=positions, past_key_values=self._cache, use_cache=True
        ).last_hidden_state
        newest = hidden[torch.arange(len(unique), device=self.device), last]
        logits: torch.Tensor = self._head(newest).float()
        return logits if rows is None else logits[rows]

    def decode(self, tokens: torch.Tensor, positions: torch.Tensor, attended: int, *, even: bool) -> torch.Tensor:
        """Give the first n slots one token each; logits of their next tokens [n, vocabulary].

        tokens, positions: [n]; attended: the largest position + 1; even: all positions are the same.
        """
        self._cache.expect_decode(positions, attended, even=even)
        mask = None if even else (torch.arange(attended, device=self.device)[None] <= positions[:, None])[:, None, None]
        decode = self._step or self._decode_in_transformers
        hidden = decode(tokens, positions, mask)
        logits: torch.Tensor = self._head(hidden).float()
        return logits

    def _decode_in_transformers(
        self, tokens: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """What `DecodingStep` gives, for models that it does not fit."""
        if mask is None:  # transformers would take its absence for a batch without a past
            mask = torch.ones((len(tokens), 1, 1, int(positions[0]) + 1), dtype=torch.bool, device=self.device)
        output = self._decoder(
            input_ids=tokens[:, None],
            position_ids=positions[:, None],
            attention_mask=mask,
            past_key_values=self._cache,
            use_cache=True,
        )
        hidden: torch.Tensor = output.last_hidden_state[:, -1]
        return hidden

    def move(self, source: int, target: int, length: int) -> None:
        """Let the sequence of slot `source`, `length` tokens long, go on in slot `target`."""
        self._cache.move(source, target, length)


def refuse_unsupported(model: PreTrainedModel, max_length: int) -> None:
    """ValueError for models whose logits this runner would get wrong."""
    config = model.config
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = getattr(config, "sliding_window", None)
    slides = "sliding_attention" in kinds or (window is not None and getattr(config, "use_sliding_window", True))
    if kinds - {"full_attention", "sliding_attention"} or (slides and (window or 0) < max_length):
        raise ValueError(
            f"{config.model_type}: layers of kind {', '.join(sorted(kinds))} (window {window}) are not supported by "
            "the builtin engine; use backend vllm or sglang, or a --max-model-len within the window"
        )
    for setting in FINAL_LOGIT_SETTINGS:
        if getattr(config, setting, None):
            raise ValueError(
                f"{config.model_type}: {setting} is not supported by the builtin engine; use backend vllm or sglang"
            )
    limit = getattr(config, "max_position_embeddings", None)
    if limit is not None and max_length > limit:
        raise ValueError(f"--max-model-len {max_length} is more than the model's {limit} positions; lower it")
