"""Low-rank adapters by PEFT: small matrices that are trained in place of a model's linear layers (arXiv 2106.09685).

An adapted layer computes W·x + (alpha / rank)·B·A·x; only A and B are trained. Layers are replaced inside the model,
whose own parameters keep their Hugging Face names but for `.base_layer`. It must not know of sharding or losses.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import PreTrainedModel

from rltrain_api.config import SkyRLLoraConfig

ADAPTER = "default"  # PEFT's name of the only one
_BASE = ".base_layer."
_A_NAME = re.compile(r"[\w.]+")  # of a layer; anything else is a regular expression
# The names of trainer.policy.model.lora.init_method, and what PEFT calls them.
_INIT_METHODS: dict[str, bool | str] = {
    "kaiming": True,
    "xavier": True,  # initialised again below
    "normal": "gaussian",
    "gaussian": "gaussian",
    "orthogonal": "orthogonal",
}


def add_adapters(model: PreTrainedModel, lora: SkyRLLoraConfig) -> None:
    """Put adapters into the model, of which nothing else is trained from then on; rank 0 changes nothing.

    Raises ValueError where no layer, or one that cannot be adapted, is named.
    """
    if lora.rank == 0:
        return
    if lora.init_method not in _INIT_METHODS:
        raise ValueError(
            f"model.lora.init_method: {lora.init_method} is not one of {', '.join(_INIT_METHODS)}; others leave "
            "adapters at rest for ever, or change the model beneath them"
        )
    settings = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=_layers(lora.target_modules),
        exclude_modules=None if lora.exclude_modules is None else _layers(lora.exclude_modules),
        init_lora_weights=_INIT_METHODS[lora.init_method],  # type: ignore[arg-type]  # a name that PEFT knows
    )
    try:
        inject_adapter_in_model(settings, model, adapter_name=ADAPTER)
    except ValueError as error:
        raise ValueError(f"model {model.name_or_path}: no adapters with these model.lora settings ({error})") from error
    for name, module in adapted_layers(model):
        if not isinstance(module.get_base_layer(), nn.Linear):
            raise ValueError(f"model.lora.target_modules: {name} is no linear layer, and only those can be adapted")
        if lora.init_method == "xavier":
            nn.init.xavier_uniform_(low_rank(module)[0])


def adapted_layers(module: nn.Module) -> Iterator[tuple[str, LoraLayer]]:
    """The adapted layers with their names."""
    return ((name, part) for name, part in module.named_modules() if isinstance(part, LoraLayer))


def low_rank(layer: LoraLayer) -> tuple[nn.Parameter, nn.Parameter]:
    """A and B of an adapted layer."""
    a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
    assert isinstance(a, nn.Parameter), "the weight of a linear layer"
    assert isinstance(b, nn.Parameter), "the weight of a linear layer"
    return a, b


def is_adapter(name: str) -> bool:
    """Whether a parameter of this name belongs to an adapter."""
    return ".lora_A." in name or ".lora_B." in name


def plain_name(name: str) -> str:
    """A parameter's name in the model without adapters."""
    return name.replace(_BASE, ".")


def adapter_of(module: nn.Module, name: str) -> LoraLayer | None:
    """The adapted layer whose weight has this name; None for other parameters."""
    layer, separator, leaf = name.rpartition(_BASE)
    if not separator or leaf != "weight":
        return None
    found = module.get_submodule(layer)
    assert isinstance(found, LoraLayer), "base layers are parts of adapted ones"
    return found


@contextmanager
def without_adapters(module: nn.Module) -> Iterator[None]:
    """The model as it was before it was adapted.

    PEFT's own switch also changes which parameters want gradients, which FSDP would remember.
    """
    layers = [layer for _, layer in adapted_layers(module)]
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


def merged_weight(weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scaling: float) -> torch.Tensor:
    """W + scaling·B·A in float32 or better; W: [out, in], A: [rank, in], B: [out, rank], whole tensors."""
    precise = torch.promote_types(weight.dtype, torch.float32)
    return torch.addmm(weight.to(precise), b.to(precise), a.to(precise), alpha=scaling)


def _layers(names: str) -> str | list[str]:
    """As PEFT takes it: `all-linear` and regular expressions as they are, a layer's own name in a list."""
    return [names] if names != "all-linear" and _A_NAME.fullmatch(names) and ".*" not in names else names
