"""A trained model as a directory in Hugging Face's format, which transformers loads like any other.

Rank 0 holds the whole model in the host's memory while it writes. It must not know how parameters are gathered.
"""

from __future__ import annotations

import collections
import copy
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch.distributed as dist
from huggingface_hub import save_torch_state_dict
from torch import Tensor
from transformers import PreTrainedModel

from rltrain_api.fetching import scheme_of
from rltrain_trainer.checkpoint.places import normal, place_of
from rltrain_trainer.models.load import load_tokenizer


def export_model(
    location: str, model: PreTrainedModel, parameters: Iterator[tuple[str, Tensor]], dtype: str, *, tokenizer: str
) -> None:
    """Write configuration, weights and tokenizer below `location`, a path or URL. A collective of the model's ranks.

    parameters: the full ones under Hugging Face's names; a tied one once, as transformers saves it. dtype: their type.
    Returns when rank 0 has written. Raises OSError when it cannot.
    """
    if dist.get_rank() != 0:
        collections.deque(parameters, maxlen=0)  # every rank takes part in the gather, rank 0 keeps it
        dist.barrier()
        return
    # A gathered tensor may be part of a larger one; the copy is not.
    weights = {name: tensor.to("cpu", copy=True) for name, tensor in parameters}
    location = normal(location)
    if scheme_of(location):
        with tempfile.TemporaryDirectory() as directory:
            _write(Path(directory), model, weights, dtype, tokenizer)
            _upload(Path(directory), location)
    else:
        _write(Path(location), model, weights, dtype, tokenizer)
    dist.barrier()


def _write(directory: Path, model: PreTrainedModel, weights: dict[str, Tensor], dtype: str, tokenizer: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    save_torch_state_dict(weights, directory, filename_pattern="model{suffix}.safetensors")
    for file in directory.glob("*.safetensors"):
        file.chmod(0o644)  # the library writes them for their owner alone, and a model is for whoever loads it
    config = copy.deepcopy(model.config)
    config.use_cache = True  # that training needs none is no property of the model
    config.dtype = dtype
    config.save_pretrained(directory)
    if model.can_generate():
        model.generation_config.save_pretrained(directory)
    load_tokenizer(tokenizer).save_pretrained(directory)


def _upload(directory: Path, location: str) -> None:
    place = place_of(location)
    for file in sorted(path for path in directory.rglob("*") if path.is_file()):
        with file.open("rb") as source, place.writer(f"{location}/{file.relative_to(directory)}") as sink:
            shutil.copyfileobj(source, sink)
