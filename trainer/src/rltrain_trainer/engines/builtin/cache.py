"""A key-value cache of fixed slots, one sequence per slot, that transformers models write to and attend over.

Running sequences always lie in the slots 0 … n-1, each from position 0 on, so a decoding step attends over views of
the cache and copies nothing. It must not know requests, only slots, positions and lengths.
"""

from __future__ import annotations

import numpy as np
import torch
from transformers import Cache, PretrainedConfig


class SlotCache(Cache):
    """Keys and values of all layers, each `[layer, slot, key-value head, position, head size]`."""

    def __init__(
        self, config: PretrainedConfig, *, slots: int, length: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__(layers=[])  # the tensors below take the place of per-layer caches
        shape = (config.num_hidden_layers, slots, key_value_heads(config), length, head_size(config))
        self.keys = _zeros(shape, dtype, device)
        self.values = _zeros(shape, dtype, device)
        self._of_layer = list(zip(self.keys.unbind(), self.values.unbind(), strict=True))
        self._slots_of_rows: torch.Tensor | None = None  # prefill: which row of the batch each new slot takes
        self._first_slot = 0
        self._positions: torch.Tensor | None = None  # decode: where each slot's next token goes, [n]
        self._attended = 0
        self._even = False

    def expect_prefill(self, first_slot: int, rows: torch.Tensor | None) -> None:
        """The next forward pass starts sequences at position 0 of `first_slot` and the slots after it.

        `rows` [sequences]: the batch row that each new sequence shares with others of the same tokens; None: its own.
        """
        self._positions, self._first_slot, self._slots_of_rows = None, first_slot, rows

    def expect_decode(self, positions: torch.Tensor, attended: int, *, even: bool) -> None:
        """The next forward pass gives one token to each of the first slots, at `positions` [n] (all < `attended`).

        even: all positions are the last attended one, which is then written as one slice.
        """
        self._positions, self._attended, self._even = positions, attended, even
        self._rows = torch.arange(positions.shape[0], device=positions.device)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store one layer's new keys and values `[batch, head, tokens, size]`; return what the layer attends over."""
        keys, values = self._of_layer[layer_idx]
        if self._positions is None:
            rows = self._slots_of_rows
            new_keys, new_values = (
                (key_states, value_states) if rows is None else (key_states[rows], value_states[rows])
            )
            slots = slice(self._first_slot, self._first_slot + new_keys.shape[0])
            keys[slots, :, : new_keys.shape[2]] = new_keys
            values[slots, :, : new_values.shape[2]] = new_values
            return key_states, value_states
        count = key_states.shape[0]
        if self._even:
            keys[:count, :, self._attended - 1] = key_states[:, :, 0]
            values[:count, :, self._attended - 1] = value_states[:, :, 0]
        else:
            keys[self._rows, :, self._positions] = key_states[:, :, 0]
            values[self._rows, :, self._positions] = value_states[:, :, 0]
        return keys[:count, :, : self._attended], values[:count, :, : self._attended]

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of one slot over another."""
        self.keys[:, target, :, :length] = self.keys[:, source, :, :length]
        self.values[:, target, :, :length] = self.values[:, source, :, :length]

    # What transformers asks when it makes the mask of a prefill: the batch stands at the start of its slots.
    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens before the batch; position ids are always given, so none are counted here."""
        return 0

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """Position of the batch's first token as far as masks are concerned."""
        return 0

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """(tokens attended over, offset) of a prefill."""
        return query_length, 0


def key_value_heads(config: PretrainedConfig) -> int:
    """Heads that keys and values have: fewer than queries under grouped-query attention."""
    return int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)


def head_size(config: PretrainedConfig) -> int:
    """Size of one head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def slot_bytes(config: PretrainedConfig, length: int, dtype: torch.dtype) -> int:
    """Memory of one slot of `length` positions, keys and values of all layers."""
    per_position = 2 * config.num_hidden_layers * key_value_heads(config) * head_size(config)
    return int(per_position * length * dtype.itemsize)


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Zeros; on a CPU pages that no sequence ever reached take no memory (numpy asks the kernel for zero pages)."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    count = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    return torch.from_numpy(np.zeros(count, dtype=np.uint8)).view(dtype).view(shape)
