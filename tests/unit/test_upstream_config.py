"""The same overrides give the same resolved tree here and in upstream's SkyRL 0.1.0.

Three differences are known (`upstream_skyrl.as_upstream`): one field that upstream got a day later, one entry of a
default that came with it, and "~", which upstream expands in four defaults where the configuration is made; here the
pod's own home counts, so it stays.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import upstream_skyrl
from drawn_configs import chosen, leaves, nested, values
from rltrain_api.config import SkyRLTrainConfig
from rltrain_api.overrides import apply_overrides, parse_override, write_override
from rltrain_api.resolve import resolve
from upstream_skyrl import as_upstream, comparable

NEWER_FIELD = tuple(upstream_skyrl.NEWER_FIELD.split("."))
UPSTREAM_LEAVES = {path: schema for path, schema in leaves().items() if path != NEWER_FIELD}


def ours(overrides: list[str]) -> dict[str, Any]:
    """The tree that our reading of the same command line resolves to."""
    tree = apply_overrides({}, [parse_override(text) for text in overrides])
    return resolve(SkyRLTrainConfig.model_validate(tree)).model_dump(mode="json")


CASES: dict[str, list[str]] = {
    "nothing": [],
    "the reference run on GSM8K": [
        "data.train_data=['/data/gsm8k/train.parquet']",
        "data.val_data=['/data/gsm8k/validation.parquet']",
        "trainer.algorithm.advantage_estimator=grpo",
        "trainer.policy.model.path=Qwen/Qwen2.5-1.5B-Instruct",
        "trainer.placement.colocate_all=true",
        "trainer.strategy=fsdp2",
        "trainer.placement.policy_num_gpus_per_node=4",
        "trainer.placement.ref_num_gpus_per_node=4",
        "generator.inference_engine.num_engines=4",
        "generator.inference_engine.tensor_parallel_size=1",
        "trainer.epochs=20",
        "trainer.eval_batch_size=1024",
        "trainer.train_batch_size=1024",
        "trainer.policy_mini_batch_size=256",
        "trainer.micro_forward_batch_size_per_gpu=64",
        "trainer.micro_train_batch_size_per_gpu=64",
        "trainer.ckpt_interval=10",
        "trainer.max_prompt_length=512",
        "generator.sampling_params.max_generate_length=1024",
        "trainer.policy.optimizer_config.lr=1.0e-6",
        "trainer.algorithm.use_kl_loss=true",
        "generator.inference_engine.backend=vllm",
        "generator.batched=true",
        "environment.env_class=gsm8k",
        "generator.n_samples_per_prompt=5",
        "generator.inference_engine.gpu_memory_utilization=0.8",
        "trainer.logger=wandb",
        "trainer.project_name=gsm8k",
        "trainer.run_name=gsm8k_test",
        "trainer.resume_mode=null",
        "trainer.ckpt_path=~/ckpts/gsm8k_1.5B_ckpt",
    ],
    "input length follows the prompt, and the longest sequence both": [
        "trainer.max_prompt_length=100",
        "generator.sampling_params.max_generate_length=28",
    ],
    "an input length of its own": ["generator.max_turns=3", "generator.max_input_length=300"],
    "a longest sequence of its own": ["trainer.algorithm.max_seq_len=7"],
    "temperature of the loss follows sampling": ["generator.sampling_params.temperature=0.7"],
    "temperature of the loss is 0": ["trainer.algorithm.temperature=0", "generator.sampling_params.temperature=0.7"],
    "reference model follows the policy": ["trainer.policy.model.path=/data/model"],
    "reference model of its own": ["trainer.ref.model.path=/data/other"],
    "one setting of the policy's model, and its path is gone": ["trainer.policy.model.lora.rank=8"],
    "one setting of the critic's optimiser, and its rate is the policy's": [
        "trainer.critic.optimizer_config.weight_decay=0"
    ],
    "the whole map of the critic's optimiser": ["trainer.critic.optimizer_config={lr: 3e-6, adam_betas: [0.9, 0.95]}"],
    "evaluation samples by its own settings": ["generator.eval_sampling_params.top_p=0.5"],
    "evaluation set to null": [
        "generator.eval_sampling_params=null",
        "generator.sampling_params.max_generate_length=9",
    ],
    "evaluation does not take the stop strings": ["generator.sampling_params.stop=['</answer>', \"it's\"]"],
    "rotary embeddings follow the trainer": [
        "trainer.rope_scaling={rope_type: yarn, factor: 4.0, original_max_position_embeddings: 32768}",
        "trainer.rope_theta=1000000",
    ],
    "rotary embeddings of the engines": ["trainer.rope_theta=1e6", "generator.rope_theta=5.0e+5"],
    "types of numbers": ["trainer.policy.fsdp_config.mixed_precision.param_dtype=fp16"],
    "types of numbers as an empty map": ["trainer.policy.fsdp_config.mixed_precision={}"],
    "resharding to a count": ["trainer.policy.fsdp_config.reshard_after_forward=1"],
    "resharding is off": ["trainer.policy.fsdp_config.reshard_after_forward=false"],
    "a map of Megatron's replaces the default": [
        "trainer.policy.megatron_config.transformer_config_kwargs.recompute_num_layers=2"
    ],
    "a map of the engine's": [
        "generator.inference_engine.engine_init_kwargs.max_model_len=4096",
        "generator.inference_engine.engine_init_kwargs.hf_overrides={a: [1, null, {b: 'on'}]}",
    ],
    "null where null is a value": ["generator.sampling_params.logprobs=null", "trainer.resume_mode=null"],
    "empty text is null": ["trainer.resume_path="],
    "numbers in all spellings": [
        "trainer.policy.optimizer_config.lr=1e-6",
        "trainer.algorithm.kl_loss_coef=.001",
        "trainer.algorithm.eps_clip_high=1_0.5",
        "trainer.seed=0x10",
        "trainer.epochs=+3",
    ],
    "booleans in all spellings": ["trainer.bf16=no", "trainer.flash_attn=OFF", "generator.batched=Yes"],
    "the last of two wins": ["trainer.seed=1", "trainer.seed=2"],
    "a map, then one of its keys": ["trainer.placement={colocate_all: false}", "trainer.placement.policy_num_nodes=2"],
}


@pytest.mark.parametrize("overrides", CASES.values(), ids=CASES.keys())
def test_case_resolves_alike(overrides: list[str]) -> None:
    expected = comparable(upstream_skyrl.resolved(overrides))
    assert comparable(as_upstream(ours(overrides), overrides)) == expected


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(chosen(UPSTREAM_LEAVES))
def test_any_fields_resolve_alike(drawn: dict[tuple[str, ...], Any]) -> None:
    overrides = [write_override(path, value) for path, value in drawn.items()]
    # What was drawn reaches our models as it is, and upstream as text.
    tree = resolve(SkyRLTrainConfig.model_validate(nested(drawn))).model_dump(mode="json")
    assert comparable(as_upstream(tree, overrides)) == comparable(upstream_skyrl.resolved(overrides))


@pytest.mark.timeout(400)  # some 280 fields are drawn
@settings(max_examples=5, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_all_fields_at_once_resolve_alike(data: st.DataObject) -> None:
    drawn = {path: data.draw(values(schema), label=".".join(path)) for path, schema in UPSTREAM_LEAVES.items()}
    overrides = [write_override(path, value) for path, value in drawn.items()]
    tree = resolve(SkyRLTrainConfig.model_validate(nested(drawn))).model_dump(mode="json")
    assert comparable(as_upstream(tree, overrides)) == comparable(upstream_skyrl.resolved(overrides))


def test_upstream_knows_every_field_but_one() -> None:
    """And no field more: what upstream's tree has, ours has."""
    maps = {path for path, schema in UPSTREAM_LEAVES.items() if is_map(schema)}
    sections = [f"trainer.{model}.fsdp_config.mixed_precision={{}}" for model in ("policy", "ref", "critic")]
    assert set(paths(upstream_skyrl.resolved(sections), maps)) == set(UPSTREAM_LEAVES)
    with pytest.raises(ValueError, match=NEWER_FIELD[-1]):
        upstream_skyrl.resolved([f"{upstream_skyrl.NEWER_FIELD}=ray"])


def is_map(schema: dict[str, Any]) -> bool:
    return any(option.get("type") == "object" for option in schema.get("anyOf", [schema]))


def paths(tree: dict[str, Any], ends: set[tuple[str, ...]], above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for name, value in tree.items():
        path = (*above, name)
        found += paths(value, ends, path) if isinstance(value, dict) and path not in ends else [path]
    return found


REFUSED_BY_BOTH = {
    "an unknown field": "trainer.learning_rate=1",
    "an unknown field of a section far down": "trainer.policy.optimizer_config.betas=[0.9]",
    "an unknown section": "critic.model.path=x",
    "Hydra's prefix": "+trainer.seed=1",
}


@pytest.mark.parametrize("override", REFUSED_BY_BOTH.values(), ids=REFUSED_BY_BOTH.keys())
def test_what_upstream_cannot_read_is_refused(override: str) -> None:
    with pytest.raises(ValueError, match=r"Invalid fields|not supported"):
        upstream_skyrl.resolved([override])
    with pytest.raises(ValueError, match=r"Extra inputs are not permitted|Hydra's prefix"):
        ours([override])
