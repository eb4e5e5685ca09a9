"""Loading of Hugging Face causal language models and tokenizers by path.

Both the trainer's ranks and the builtin engine load through here, so that they agree on the model's configuration and
on what a bad path says. Code inside a model repository is never run. It must not know of sharding or training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from rltrain_api.config import ChatTemplateConfig, TrainerConfig

# Every rank and engine would draw its own bar into the one log of the driver.
disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers leaves it unannotated

# What decides the types of numbers and the kernels of attention has fields of its own.
_DECIDED_ELSEWHERE = {
    "dtype": "trainer.bf16",
    "torch_dtype": "trainer.bf16",
    "attn_implementation": "trainer.flash_attn",
    "_attn_implementation": "trainer.flash_attn",
}


@dataclass(frozen=True)
class ModelOverrides:
    """What a run says of a model's configuration instead of the model's own config.json.

    Args:
        settings: By the names of the model's Hugging Face configuration.
        rope_scaling: Of the rotary embeddings, by Hugging Face's names, beginning with rope_type.
        rope_theta: Base of the rotary embeddings.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    rope_scaling: Mapping[str, Any] | None = None
    rope_theta: float | None = None

    @classmethod
    def of(cls, trainer: TrainerConfig, settings: Mapping[str, Any]) -> ModelOverrides:
        """Those of one of the run's models: rotary embeddings are the same in all of them."""
        return cls(settings, trainer.rope_scaling, trainer.rope_theta)

    @property
    def rope(self) -> dict[str, Any]:
        """The changes of rotary embeddings under their names in transformers 5."""
        changes = dict(self.rope_scaling or {})
        if "type" in changes:  # the name before transformers 4.43
            changes.setdefault("rope_type", changes.pop("type"))
        return changes if self.rope_theta is None else changes | {"rope_theta": self.rope_theta}


NO_OVERRIDES = ModelOverrides()


def load_tokenizer(path: str, chat_template: ChatTemplateConfig | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer at `path` (a local directory or a hub name), with a padding token and the run's chat template.

    chat_template: a file of a Jinja template, or the name of one of the tokenizer's own (it may have several); None,
    or one without name, leaves the tokenizer's default. Raises ValueError when there is no tokenizer or no such
    template, or when it has neither a padding nor an end-of-sequence token.
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
    if chat_template is not None and chat_template.name_or_path is not None:
        tokenizer.chat_template = _template(tokenizer, path, chat_template)
    return tokenizer


def load_causal_lm(path: str, dtype: torch.dtype, overrides: ModelOverrides = NO_OVERRIDES) -> PreTrainedModel:
    """The causal language model at `path` on the CPU: weights in `dtype`, train mode, SDPA attention, no cache.

    Raises ValueError when there is no loadable model at `path`, or when its configuration has not what is overridden.
    """
    resolved = _resolve(path)
    try:
        config = _configuration(path, resolved, overrides)
        model = cast(
            PreTrainedModel,
            AutoModelForCausalLM.from_pretrained(resolved, config=config, dtype=dtype, attn_implementation="sdpa"),
        )
    except (OSError, KeyError) as error:
        raise ValueError(_unloadable("model", path, error)) from error
    except ValueError as error:
        if str(error).startswith(f"model {path}:"):
            raise
        raise ValueError(_unloadable("model", path, error)) from error
    # A cache is a matter of generation; in training it would only hold memory.
    model.config.use_cache = False
    model.train()
    return model


def _configuration(path: str, resolved: str, overrides: ModelOverrides) -> Any:
    """The model's configuration with what the run says instead."""
    settings = dict(overrides.settings)
    for name, decided_by in _DECIDED_ELSEWHERE.items():
        if name in settings:
            raise ValueError(f"model {path}: model_config_kwargs.{name} is decided by {decided_by}; remove it")
    for name in ("rope_theta", "rope_scaling", "rope_parameters"):
        if name in settings and overrides.rope:
            raise ValueError(
                f"model {path}: model_config_kwargs.{name} and trainer.rope_scaling or trainer.rope_theta both say how "
                "rotary embeddings are; remove one of them"
            )
    named = ModelOverrides(rope_scaling=settings.pop("rope_scaling", None), rope_theta=settings.pop("rope_theta", None))
    rope = overrides.rope or named.rope
    if rope:
        settings["rope_parameters"] = _rope_parameters(path, resolved, rope)
    config, unknown = AutoConfig.from_pretrained(resolved, return_unused_kwargs=True, **settings)
    if unknown:
        names = ", ".join(sorted(unknown))
        raise ValueError(
            f"model {path}: model_config_kwargs names what its configuration ({type(config).__name__}) has not: "
            f"{names}; correct or remove it"
        )
    return config


def _rope_parameters(path: str, resolved: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    own = getattr(AutoConfig.from_pretrained(resolved), "rope_parameters", None)
    if own is None or any(isinstance(value, dict) for value in own.values()):
        raise ValueError(
            f"model {path}: its rotary embeddings are not of one kind for all layers, so trainer.rope_scaling and "
            "trainer.rope_theta cannot be applied; set model_config_kwargs.rope_parameters instead"
        )
    return dict(own) | dict(changes)


def _template(tokenizer: PreTrainedTokenizerBase, path: str, wanted: ChatTemplateConfig) -> str:
    """The text of the chat template that is asked for."""
    assert wanted.name_or_path is not None, "asked for by its caller"
    if wanted.source == "file":
        file = Path(wanted.name_or_path).expanduser()
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(
                f"generator.chat_template.name_or_path: {file} cannot be read ({error}); mount the volume that holds "
                "it or correct the path"
            ) from error
    own = tokenizer.chat_template
    templates = cast(dict[str, str], own if isinstance(own, dict) else {"default": own} if own else {})
    if wanted.name_or_path not in templates:
        known = ", ".join(sorted(templates)) or "none"
        raise ValueError(
            f"generator.chat_template.name_or_path: tokenizer {path} has no chat template {wanted.name_or_path} (it "
            f"has: {known}); use one of these, or source file with a file of your own"
        )
    return templates[wanted.name_or_path]


def _resolve(path: str) -> str:
    """Expands `~`; a path that looks local must exist, or the hub would be asked for a name that cannot be one."""
    expanded = Path(path).expanduser()
    if path.startswith(("~", "/", ".")) and not expanded.is_dir():
        raise ValueError(f"model path {path}: no such directory; mount the volume that holds it or correct the path")
    return str(expanded) if path.startswith("~") else path


def _unloadable(what: str, path: str, error: Exception) -> str:
    first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return f"{what} {path}: it cannot be loaded ({first_line}); check the path, the files in it and network access"
