"""Loading of Hugging Face causal language models and tokenizers by path.

Both the trainer's ranks and the builtin engine load through here, so that they agree on the attention implementation
and on what a bad path says. Code inside a model repository is never run. It must not know of sharding or training.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

# Every rank and engine would draw its own bar into the one log of the driver.
disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers leaves it unannotated


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """The tokenizer at `path` (a local directory or a hub name), with a padding token.

    Raises ValueError when there is none, or when it has neither a padding nor an end-of-sequence token.
    """
    resolved = _resolve(path)
    try:
        tokenizer = cast(PreTrainedTokenizerBase, AutoTokenizer.from_pretrained(resolved))
    except (OSError, ValueError) as error:
        raise ValueError(_unloadable("tokenizer", path, error)) from error
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise ValueError(f"tokenizer {path}: it has neither a padding nor an end-of-sequence token; add one to it")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_causal_lm(path: str, dtype: torch.dtype) -> PreTrainedModel:
    """The causal language model at `path` on the CPU: weights in `dtype`, train mode, SDPA attention, no cache.

    Raises ValueError when there is no loadable model at `path`.
    """
    resolved = _resolve(path)
    try:
        model = cast(
            PreTrainedModel,
            AutoModelForCausalLM.from_pretrained(resolved, dtype=dtype, attn_implementation="sdpa"),
        )
    except (OSError, ValueError) as error:
        raise ValueError(_unloadable("model", path, error)) from error
    # A cache is a matter of generation; in training it would only hold memory.
    model.config.use_cache = False
    model.train()
    return model


def _resolve(path: str) -> str:
    """Expands `~`; a path that looks local must exist, or the hub would be asked for a name that cannot be one."""
    expanded = Path(path).expanduser()
    if path.startswith(("~", "/", ".")) and not expanded.is_dir():
        raise ValueError(f"model path {path}: no such directory; mount the volume that holds it or correct the path")
    return str(expanded) if path.startswith("~") else path


def _unloadable(what: str, path: str, error: Exception) -> str:
    first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return f"{what} {path}: it cannot be loaded ({first_line}); check the path, the files in it and network access"
