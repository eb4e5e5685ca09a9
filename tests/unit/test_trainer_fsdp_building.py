"""From the configuration to sharded modules, optimisers and schedules: every setting lands where it acts.

One rank on gloo in this process; what several ranks do is in test_trainer_fsdp_policy.py.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from transformers import Qwen2Config, Qwen2ForCausalLM

from fsdp_cases import make_batch
from rltrain_api.config import SkyRLTrainConfig
from rltrain_api.resolve import resolve
from rltrain_trainer.driver.engine_hosts import model_overrides
from rltrain_trainer.fsdp import memory, sharding
from rltrain_trainer.fsdp.building import build_critic, build_policy, build_reference
from rltrain_trainer.fsdp.critic import CriticRank
from rltrain_trainer.fsdp.policy import PolicyRank
from rltrain_trainer.fsdp.sharded import ShardedModel
from rltrain_trainer.models import attention
from rltrain_trainer.models.adapters import adapted_layers, low_rank
from rltrain_trainer.models.attention import AttentionSettings
from rltrain_trainer.models.scored import ScoredCausalLM
from rltrain_trainer.models.sequence_parallel import SequenceGroup

BUILDERS: dict[str, Callable[[SkyRLTrainConfig], ShardedModel[Any]]] = {
    "policy": build_policy,
    "critic": build_critic,
    "ref": build_reference,
}
each_model = pytest.mark.parametrize("model", BUILDERS)
each_trained = pytest.mark.parametrize("model", ["policy", "critic"])


def qwen() -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    shape = Qwen2Config(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    return Qwen2ForCausalLM(shape)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("model")
    qwen().save_pretrained(directory)
    return str(directory)


@pytest.fixture(scope="module", autouse=True)
def one_rank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    store = tmp_path_factory.mktemp("store") / "store"
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def config(path: str, trainer: dict[str, Any] | None = None, *, model: str = "", **section: Any) -> SkyRLTrainConfig:
    """With these settings of the trainer, and these of one of its models."""
    tree: dict[str, Any] = {"bf16": False, "train_batch_size": 4, "policy_mini_batch_size": 2, **(trainer or {})}
    for name in BUILDERS:
        tree[name] = {"model": {"path": path}}
    if model:
        chosen = section.pop("model_section", {})
        tree[model] |= section
        tree[model]["model"] |= chosen
    return resolve(SkyRLTrainConfig.model_validate({"trainer": tree}))


def state_of(group: Any) -> Any:
    return group._get_fsdp_state()._fsdp_param_group


@pytest.mark.proves("trainer.strategy")
@each_model
@pytest.mark.parametrize("strategy", ["fsdp", "fsdp2"])
def test_every_block_is_a_shard_group_of_fsdp2(path: str, model: str, strategy: str) -> None:
    built = BUILDERS[model](config(path, {"strategy": strategy}))
    assert [type(group).__name__ for group in built._groups[:-1]] == ["FSDPQwen2DecoderLayer"] * 2
    assert built._groups[-1] is built.module
    assert all(isinstance(group, FSDPModule) for group in built._groups)


@pytest.mark.proves(
    "trainer.policy.fsdp_config.wrap_policy",
    "trainer.critic.fsdp_config.wrap_policy",
    "trainer.ref.fsdp_config.wrap_policy",
)
@each_model
def test_other_classes_may_be_the_shard_groups(path: str, model: str) -> None:
    wrapped = {"wrap_policy": {"transformer_layer_cls_to_wrap": ["Qwen2MLP", "Qwen2Attention"]}}
    built = BUILDERS[model](config(path, model=model, fsdp_config=wrapped))
    names = sorted(type(group).__name__ for group in built._groups[:-1])
    assert names == ["FSDPQwen2Attention"] * 2 + ["FSDPQwen2MLP"] * 2
    with pytest.raises(ValueError, match=r"min_num_params is a setting of FSDP 1"):
        BUILDERS[model](config(path, model=model, fsdp_config={"wrap_policy": {"min_num_params": 3}}))


@pytest.mark.proves(
    "trainer.policy.fsdp_config.reshard_after_forward",
    "trainer.critic.fsdp_config.reshard_after_forward",
    "trainer.ref.fsdp_config.reshard_after_forward",
)
@each_model
@pytest.mark.parametrize("reshard", [True, False])
def test_blocks_are_freed_after_the_forward_pass_or_not(path: str, model: str, reshard: bool) -> None:
    built = BUILDERS[model](config(path, model=model, fsdp_config={"reshard_after_forward": reshard}))
    assert [state_of(group).post_forward_mesh_info is not None for group in built._groups[:-1]] == [reshard] * 2


TYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@pytest.mark.proves(
    "trainer.bf16",
    "trainer.policy.fsdp_config.mixed_precision.param_dtype",
    "trainer.policy.fsdp_config.mixed_precision.reduce_dtype",
    "trainer.policy.fsdp_config.mixed_precision.buffer_dtype",
    "trainer.critic.fsdp_config.mixed_precision.param_dtype",
    "trainer.critic.fsdp_config.mixed_precision.reduce_dtype",
    "trainer.critic.fsdp_config.mixed_precision.buffer_dtype",
    "trainer.ref.fsdp_config.mixed_precision.param_dtype",
    "trainer.ref.fsdp_config.mixed_precision.reduce_dtype",
    "trainer.ref.fsdp_config.mixed_precision.buffer_dtype",
)
@each_model
@pytest.mark.parametrize("types", [("bf16", "fp32", "fp32"), ("fp32", "bf16", "bf16")], ids=str)
def test_types_of_numbers(path: str, model: str, types: tuple[str, str, str]) -> None:
    names = ("param_dtype", "reduce_dtype", "buffer_dtype")
    mixed = {"mixed_precision": dict(zip(names, types, strict=True))}
    built = BUILDERS[model](config(path, model=model, fsdp_config=mixed))
    seen: list[torch.dtype] = []
    built.module.body.layers[0].mlp.up_proj.register_forward_hook(
        lambda layer, inputs, output: seen.append(layer.weight.dtype)
    )
    ones = torch.ones(1, 4, dtype=torch.long)
    arguments = (ones, ones, torch.ones(1, 2, dtype=torch.bool))
    built.module(*arguments, *((1.0,) if model != "critic" else ()))
    assert seen == [TYPES[types[0]]]
    assert state_of(built._groups[0]).mp_policy.reduce_dtype == TYPES[types[1]]
    assert {buffer.dtype for buffer in built.module.buffers()} == {TYPES[types[2]]}
    with pytest.raises(ValueError, match="fp16 would need its gradients scaled"):
        BUILDERS[model](config(path, model=model, fsdp_config={"mixed_precision": {"param_dtype": "fp16"}}))


@pytest.mark.proves(
    "trainer.policy.fsdp_config.cpu_offload",
    "trainer.critic.fsdp_config.cpu_offload",
    "trainer.ref.fsdp_config.cpu_offload",
)
@each_model
def test_parameters_are_offloaded_where_there_is_somewhere_else(
    path: str, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU there is not; what a GPU would be asked for is seen in what fully_shard gets."""
    asked: list[str] = []

    class Sharded(nn.Module):
        def __init__(self, *_: object, offload_policy: object, **__: object) -> None:
            super().__init__()
            asked.append(type(offload_policy).__name__)

        def set_gradient_divide_factor(self, factor: float) -> None: ...

        def set_force_sum_reduction_for_comms(self, enable: bool) -> None: ...

    monkeypatch.setattr(sharding, "fully_shard", Sharded)
    for wanted in (True, False):
        made = config(path, model=model, fsdp_config={"cpu_offload": wanted})
        settings = sharding.Sharding.of(getattr(made.trainer, model).fsdp_config, bf16=False)
        mesh = sharding.RankMesh.form(torch.device("cpu"))
        sharding.shard_model(ScoredCausalLM(qwen()), mesh, settings)
        assert set(asked) == {"OffloadPolicy"}
        on_gpu = sharding.RankMesh(torch.device("cuda"), mesh.shards, 0, 1, None)
        asked.clear()
        sharding.shard_model(ScoredCausalLM(qwen()), on_gpu, settings)
        assert set(asked) == {"CPUOffloadPolicy" if wanted else "OffloadPolicy"}
        asked.clear()


@pytest.mark.proves(
    "trainer.policy.model_config_kwargs",
    "trainer.critic.model_config_kwargs",
    "trainer.ref.model_config_kwargs",
    "trainer.rope_theta",
    "trainer.rope_scaling",
)
@each_model
def test_a_models_configuration_is_overridden(path: str, model: str) -> None:
    trainer = {"rope_theta": 5e5, "rope_scaling": {"rope_type": "linear", "factor": 2.0}}
    built = BUILDERS[model](config(path, trainer, model=model, model_config_kwargs={"attention_dropout": 0.25}))
    found = built.module.body.config
    assert found.attention_dropout == 0.25
    assert found.rope_parameters == {"rope_theta": 5e5, "rope_type": "linear", "factor": 2.0}
    others = [build(config(path)).module.body.config for name, build in BUILDERS.items() if name != model]
    assert all(other.attention_dropout == 0.0 for other in others)


@pytest.mark.proves("generator.rope_scaling", "generator.rope_theta")
def test_engines_compute_the_model_that_is_trained(path: str) -> None:
    """Engines are told what the trainer is; the rules make generator.rope_* agree with it."""
    trainer = {"rope_theta": 5e5, "rope_scaling": {"rope_type": "linear", "factor": 2.0}}
    made = config(path, trainer, model="policy", model_config_kwargs={"attention_dropout": 0.25})
    assert model_overrides(made) == {"attention_dropout": 0.25, **trainer}
    assert model_overrides(config(path)) == {}
    assert {name: getattr(made.generator, name) for name in trainer} == trainer


LORA = {"rank": 3, "alpha": 6, "dropout": 0.25, "target_modules": ".*_proj", "exclude_modules": "o_proj"}


@pytest.mark.proves(
    "trainer.policy.model.lora.rank",
    "trainer.policy.model.lora.alpha",
    "trainer.policy.model.lora.dropout",
    "trainer.policy.model.lora.target_modules",
    "trainer.policy.model.lora.exclude_modules",
    "trainer.critic.model.lora.rank",
    "trainer.critic.model.lora.alpha",
    "trainer.critic.model.lora.dropout",
    "trainer.critic.model.lora.target_modules",
    "trainer.critic.model.lora.exclude_modules",
)
@each_trained
def test_adapters_are_as_they_are_asked_for(path: str, model: str) -> None:
    built = BUILDERS[model](config(path, model=model, model_section={"lora": LORA}))
    layers = dict(adapted_layers(built.module))
    assert {name.rpartition(".")[2] for name in layers} == {
        *("q_proj", "k_proj", "v_proj"),
        *("gate_proj", "up_proj", "down_proj"),
    }
    for layer in layers.values():
        assert low_rank(layer)[0].shape[0] == 3
        assert layer.scaling["default"] == 2.0
        assert layer.lora_dropout["default"].p == 0.25
    trained = {name for name, parameter in built.module.named_parameters() if parameter.requires_grad}
    head = {"value_head.weight"} if model == "critic" else set()
    assert trained == {name for name, _ in built.module.named_parameters() if ".lora_" in name} | head
    one = BUILDERS[model](config(path, model=model, model_section={"lora": {"rank": 2, "target_modules": "q_proj"}}))
    assert {name.rpartition(".")[2] for name, _ in adapted_layers(one.module)} == {"q_proj"}


# Of A, whose entries are [rank, inputs]: what each way to begin promises.
BEGINNINGS: dict[str, Callable[[Tensor], bool]] = {
    "kaiming": lambda a: 0.9 < a.abs().max() * math.sqrt(16) <= 1.0,  # uniform up to 1/√inputs
    "xavier": lambda a: 0.9 < a.abs().max() / math.sqrt(6 / 24) <= 1.0,  # uniform up to √(6/(inputs + rank))
    "normal": lambda a: a.std().item() == pytest.approx(1 / 8, rel=0.25),  # deviation 1/rank
    "orthogonal": lambda a: bool(a.abs().sum() > 0),
}


@pytest.mark.proves("trainer.policy.model.lora.init_method", "trainer.critic.model.lora.init_method")
@each_trained
@pytest.mark.parametrize("method", BEGINNINGS)
def test_adapters_begin_as_they_are_asked_to(path: str, model: str, method: str) -> None:
    lora = {"rank": 8, "init_method": method, "target_modules": "q_proj"}
    built = BUILDERS[model](config(path, model=model, model_section={"lora": lora}))
    drawn = []
    for _, layer in adapted_layers(built.module):
        a, b = (part.full_tensor() for part in low_rank(layer))
        drawn.append(a.detach())
        assert torch.allclose(b @ a, torch.zeros(()), atol=1e-6) or method == "orthogonal"
    assert BEGINNINGS[method](torch.cat(drawn))
    with pytest.raises(ValueError, match="leave adapters at rest for ever"):
        BUILDERS[model](config(path, model=model, model_section={"lora": {"rank": 8, "init_method": "zero"}}))


OPTIMIZER = {"lr": 3e-4, "adam_betas": [0.8, 0.95], "weight_decay": 0.3, "max_grad_norm": 0.25}


@pytest.mark.proves(
    "trainer.policy.optimizer_config.lr",
    "trainer.policy.optimizer_config.adam_betas",
    "trainer.policy.optimizer_config.weight_decay",
    "trainer.policy.optimizer_config.max_grad_norm",
    "trainer.policy.optimizer_config.offload_after_step",
    "trainer.critic.optimizer_config.lr",
    "trainer.critic.optimizer_config.adam_betas",
    "trainer.critic.optimizer_config.weight_decay",
    "trainer.critic.optimizer_config.max_grad_norm",
    "trainer.critic.optimizer_config.offload_after_step",
)
@each_trained
def test_the_optimiser_is_as_it_is_asked_for(path: str, model: str) -> None:
    rank = {"policy": PolicyRank, "critic": CriticRank}[model]
    for colocated in (True, False):
        placement = {"placement": {"colocate_all": colocated}}
        for offload in (True, False):
            settings = OPTIMIZER | {"offload_after_step": offload}
            training = rank(config(path, placement, model=model, optimizer_config=settings), total_steps=2)._training
            (group,) = training.optimizer.param_groups
            assert (group["initial_lr"], group["betas"], group["weight_decay"]) == (3e-4, (0.8, 0.95), 0.3)
            assert training._max_norm == 0.25
            assert training._offload is (colocated and offload)


# The factor of the peak after 0, 2, 5 and 9 of 10 optimiser steps, 2 of them warm-up.
SCHEDULES: dict[str, tuple[float, ...]] = {
    "constant": (1, 1, 1, 1),
    "constant_with_warmup": (0, 1, 1, 1),
    "linear": (0, 1, 5 / 8, 1 / 8),
    "cosine": (0, 1, (1 + math.cos(math.pi * 3 / 8)) / 2, (1 + math.cos(math.pi * 7 / 8)) / 2),
    "cosine_with_restarts": (0, 1, (1 + math.cos(math.pi * 3 / 8)) / 2, (1 + math.cos(math.pi * 7 / 8)) / 2),
    "polynomial": (0, 1, 5 / 8, 1 / 8),
    "inverse_sqrt": (0, 1, math.sqrt(2 / 5), math.sqrt(2 / 9)),
}


@pytest.mark.proves(
    "trainer.policy.optimizer_config.scheduler",
    "trainer.policy.optimizer_config.num_warmup_steps",
    "trainer.critic.optimizer_config.scheduler",
    "trainer.critic.optimizer_config.num_warmup_steps",
)
@each_trained
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_learning_rate_follows_its_schedule(path: str, model: str, name: str) -> None:
    rank = {"policy": PolicyRank, "critic": CriticRank}[model]
    settings = {"lr": 1e-2, "scheduler": name, "num_warmup_steps": 2}
    trainer = {"critic_mini_batch_size": 2}
    training = rank(config(path, trainer, model=model, optimizer_config=settings), total_steps=5)._training
    rates = []
    for _ in range(10):  # two mini-batches in each of five steps
        rates.append(training.optimizer.param_groups[0]["lr"] / 1e-2)
        training.optimizer.step()
        training.scheduler.step()
    assert [rates[step] for step in (0, 2, 5, 9)] == pytest.approx(SCHEDULES[name], abs=1e-4)


@pytest.mark.proves("trainer.micro_forward_batch_size_per_gpu", "trainer.use_sample_packing")
@pytest.mark.parametrize("packed", [False, True])
def test_so_many_sequences_are_scored_at_once(path: str, packed: bool) -> None:
    batch = make_batch(0)
    batch = replace(batch, sequences=batch.sequences % 64)
    scores, rows_at_once = [], []
    for count in (1, 3):
        trainer = {"micro_forward_batch_size_per_gpu": count, "use_sample_packing": packed}
        policy = PolicyRank(config(path, trainer), total_steps=1)
        assert policy.module.attention.packed is packed
        seen: list[int] = []
        policy.module.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(len(inputs[0])))
        scores.append(policy.logprobs(batch))
        rows_at_once.append(max(seen))
        assert sum(seen) == len(batch)
    torch.testing.assert_close(*scores)
    assert rows_at_once == [1, 3] or (packed and rows_at_once[1] > 3)


@pytest.mark.proves("trainer.flash_attn")
def test_flash_attention_is_for_packed_sequences_on_gpus(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no GPU here: the kernel is stood in for by a function that computes what its documentation says."""
    for wanted in (True, False):
        assert build_policy(config(path, {"flash_attn": wanted})).module.attention.flash is wanted
    calls = []

    def kernel(
        query: Tensor, key: Tensor, value: Tensor, starts: Tensor, _: Tensor, longest: int, *__: int, **how: Any
    ) -> Tensor:
        calls.append(how["window_size"])
        assert longest == max(starts.diff().tolist())
        parts = []
        for begin, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
            q, k, v = (part[begin:end].transpose(0, 1) for part in (query, key, value))
            distance = torch.arange(end - begin)[:, None] - torch.arange(end - begin)
            left = how["window_size"][0]
            seen = (distance >= 0) & ((distance <= left) if left >= 0 else torch.ones_like(distance, dtype=torch.bool))
            parts.append(
                nn.functional.scaled_dot_product_attention(
                    q, k, v, attn_mask=seen, scale=how["scale"], enable_gqa=how["enable_gqa"]
                ).transpose(0, 1)
            )
        return torch.cat(parts)

    monkeypatch.setattr(attention, "varlen_attn", kernel)
    query, key, value = torch.randn(1, 4, 9, 8), torch.randn(1, 2, 9, 8), torch.randn(1, 2, 9, 8)
    for window in (None, 2):
        form = attention._Form(0.5, 0.0, window)
        ours = form.flash(query, key, value, torch.tensor([0, 4, 9], dtype=torch.int32), 5)
        torch.testing.assert_close(ours, form.end_to_end(query, key, value, (4, 5)))
    assert calls == [(-1, 0), (1, 0)]
    with pytest.raises(ValueError, match="attention_dropout is not 0"):
        attention._Form(0.5, 0.1, None).flash(query, key, value, torch.tensor([0, 9]), 9)


@pytest.mark.proves("trainer.policy.record_memory")
def test_memory_is_recorded_on_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        memory.MemoryRecorder(str(tmp_path), enabled=True)
        assert "there is no GPU" in caplog.text
    switched: list[object] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda.memory, "_record_memory_history", lambda **how: switched.append(how))
    monkeypatch.setattr(torch.cuda.memory, "_dump_snapshot", lambda file: Path(file).write_bytes(b"snapshot"))
    with memory.MemoryRecorder(str(tmp_path), enabled=False).recording("nothing"):
        pass
    assert switched == []
    with pytest.raises(RuntimeError), memory.MemoryRecorder(str(tmp_path), enabled=True).recording("policy_step_3"):
        raise RuntimeError
    written = tmp_path / "memory_snapshots" / "policy_step_3_rank_0.pickle"
    assert written.read_bytes() == b"snapshot"
    assert switched[-1] == {"enabled": None}


def test_heads_that_do_not_divide_among_the_ranks_of_a_sequence_are_refused() -> None:
    group = SequenceGroup(dist.group.WORLD, 0, 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="3 GPUs cannot share the 2 attention heads"):
        ScoredCausalLM(qwen(), AttentionSettings(group=group))
