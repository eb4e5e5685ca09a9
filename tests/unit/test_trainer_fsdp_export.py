"""What an export leaves behind: a directory that transformers loads, and everybody may read; in a store the same."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2ForCausalLM

from rltrain_trainer.checkpoint.places import place_of
from rltrain_trainer.fsdp.export import export_model
from rltrain_trainer.quickstart.model import build_model
from rltrain_trainer.quickstart.tokenizer import build_tokenizer


@pytest.fixture
def one_rank(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def export(location: str, tmp_path: Path) -> Qwen2ForCausalLM:
    tokenizer = build_tokenizer(["1+1=2"], 128)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    model = build_model(tokenizer, seed=3, hidden_size=32, layers=1)
    export_model(location, model, model.named_parameters(), "float32", tokenizer=str(tmp_path / "tokenizer"))
    return model


@pytest.mark.usefixtures("one_rank")
def test_on_a_volume_it_loads_and_everybody_may_read_it(tmp_path: Path) -> None:
    directory = tmp_path / "exports" / "global_step_4" / "policy"
    model = export(str(directory), tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(directory)
    for name, parameter in model.named_parameters():
        assert torch.equal(loaded.get_parameter(name), parameter), name
    assert AutoTokenizer.from_pretrained(directory).encode("1+1") == AutoTokenizer.from_pretrained(
        tmp_path / "tokenizer"
    ).encode("1+1")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}
    assert set(modes) >= {"model.safetensors", "config.json", "tokenizer.json"}
    assert set(modes.values()) == {0o644}


@pytest.mark.usefixtures("one_rank")
def test_in_a_store_there_are_the_same_files(tmp_path: Path) -> None:
    export(str(tmp_path / "exports"), tmp_path)
    export("memory://bucket/exports", tmp_path)
    there = place_of("memory://bucket/exports").sizes("memory://bucket/exports")
    assert there == place_of(str(tmp_path)).sizes(str(tmp_path / "exports"))
    fsspec.filesystem("memory").store.clear()
