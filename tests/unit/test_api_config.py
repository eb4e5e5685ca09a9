"""The configuration tree: SkyRL's names and defaults, strict types, and the difference between unset and set."""

from __future__ import annotations

import hashlib
from typing import Any, get_args

import pytest
from pydantic import BaseModel, ValidationError

from rltrain_api.config import ConfigModel, OptimizerConfig, SkyRLTrainConfig
from rltrain_api.config.known import NOT_CARRIED_FIELDS, NOT_CARRIED_PATHS

# SHA-256 over the sorted dotted names of all 283 leaves of SkyRL's SkyRLTrainConfig, one per line.
SKYRL_FIELD_COUNT = 283
SKYRL_FIELDS_DIGEST = "af0424496f1212f57644af1b9e774c72c8ddf5d42fefdce4faec2d991b496a09"

# SkyRL's own defaults; a section that SkyRL leaves unset (null) is not descended into.
SKYRL_DEFAULTS: dict[str, Any] = {
    "data.train_data": ["~/data/gsm8k/train.parquet"],
    "data.val_data": ["~/data/gsm8k/validation.parquet"],
    "trainer.placement.colocate_all": True,
    "trainer.placement.colocate_policy_ref": True,
    "trainer.placement.policy_num_nodes": 1,
    "trainer.placement.policy_num_gpus_per_node": 1,
    "trainer.placement.ref_num_nodes": 1,
    "trainer.placement.ref_num_gpus_per_node": 1,
    "trainer.strategy": "fsdp2",
    "trainer.policy.model.path": "Qwen/Qwen2.5-1.5B-Instruct",
    "trainer.policy.optimizer_config.lr": 1e-6,
    "trainer.policy.optimizer_config.adam_betas": [0.9, 0.999],
    "trainer.policy.optimizer_config.weight_decay": 0.01,
    "trainer.policy.optimizer_config.max_grad_norm": 1.0,
    "trainer.policy.optimizer_config.num_warmup_steps": 0,
    "trainer.policy.optimizer_config.scheduler": "constant_with_warmup",
    "trainer.policy.fsdp_config.reshard_after_forward": True,
    "trainer.policy.sequence_parallel_size": 1,
    "trainer.ref.model.path": None,
    "trainer.algorithm.advantage_estimator": "grpo",
    "trainer.algorithm.kl_estimator_type": "k3",
    "trainer.algorithm.use_kl_loss": True,
    "trainer.algorithm.kl_loss_coef": 0.001,
    "trainer.algorithm.use_entropy_loss": False,
    "trainer.algorithm.entropy_loss_coef": 0.01,
    "trainer.algorithm.temperature": None,
    "trainer.algorithm.policy_loss_type": "regular",
    "trainer.algorithm.loss_reduction": "token_mean",
    "trainer.algorithm.grpo_norm_by_std": True,
    "trainer.algorithm.zero_variance_filter": False,
    "trainer.algorithm.eps_clip_low": 0.2,
    "trainer.algorithm.eps_clip_high": 0.2,
    "trainer.algorithm.clip_ratio_c": 3.0,
    "trainer.algorithm.max_seq_len": None,
    "trainer.gradient_checkpointing": True,
    "trainer.seed": 42,
    "trainer.resume_mode": "latest",
    "trainer.resume_path": None,
    "trainer.ckpt_path": "~/ckpts/",
    "trainer.max_ckpts_to_keep": -1,
    "trainer.ckpt_interval": 10,
    "trainer.bf16": True,
    "trainer.epochs": 1,
    "trainer.update_epochs_per_batch": 1,
    "trainer.train_batch_size": 1024,
    "trainer.policy_mini_batch_size": 256,
    "trainer.micro_train_batch_size_per_gpu": 1,
    "trainer.micro_forward_batch_size_per_gpu": 1,
    "trainer.eval_batch_size": 1024,
    "trainer.eval_before_train": True,
    "trainer.eval_interval": 5,
    "trainer.max_prompt_length": 512,
    "trainer.project_name": "skyrl",
    "trainer.run_name": "test_run",
    "trainer.logger": "wandb",
    "generator.inference_engine.model_dtype": "bfloat16",
    "generator.inference_engine.num_engines": 1,
    "generator.inference_engine.backend": "vllm",
    "generator.inference_engine.weight_sync_backend": "nccl",
    "generator.inference_engine.tensor_parallel_size": 1,
    "generator.inference_engine.pipeline_parallel_size": 1,
    "generator.inference_engine.expert_parallel_size": 1,
    "generator.inference_engine.data_parallel_size": 1,
    "generator.n_samples_per_prompt": 5,
    "generator.max_turns": 1,
    "generator.max_input_length": None,
    "generator.sampling_params.max_generate_length": 1024,
    "generator.sampling_params.repetition_penalty": 1.0,
    "generator.sampling_params.temperature": 1.0,
    "generator.sampling_params.top_p": 1.0,
    "generator.sampling_params.min_p": 0.0,
    "generator.sampling_params.top_k": -1,
    "generator.sampling_params.logprobs": 1,
    "generator.sampling_params.stop": None,
    "generator.sampling_params.additional_kwargs": None,
    "generator.eval_sampling_params": None,
    "generator.eval_n_samples_per_prompt": 1,
    "generator.zero_reward_on_non_stop": False,
    "generator.apply_overlong_filtering": False,
    "environment.env_class": "gsm8k",
    "environment.skyrl_gym.max_env_workers": 32,
}


def leaves(section: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in section.items():
        path = f"{prefix}{name}"
        found |= leaves(value, f"{path}.") if isinstance(value, dict) else {path: value}
    return found


def section_of(annotation: Any) -> type[BaseModel] | None:
    members = (annotation, *get_args(annotation))
    return next((member for member in members if isinstance(member, type) and issubclass(member, BaseModel)), None)


def carried_fields(model: type[BaseModel], prefix: str = "") -> set[str]:
    found: set[str] = set()
    for name, field in model.model_fields.items():
        section = section_of(field.annotation)
        found |= {f"{prefix}{name}"} if section is None else carried_fields(section, f"{prefix}{name}.")
    return found


def test_every_default_is_skyrls_own() -> None:
    assert leaves(SkyRLTrainConfig().model_dump()) == SKYRL_DEFAULTS


def test_carried_and_known_names_are_together_all_of_skyrls() -> None:
    carried = carried_fields(SkyRLTrainConfig)
    assert carried.isdisjoint(NOT_CARRIED_FIELDS)
    names = sorted(carried | NOT_CARRIED_FIELDS)
    assert len(names) == SKYRL_FIELD_COUNT
    assert hashlib.sha256("\n".join(names).encode()).hexdigest() == SKYRL_FIELDS_DIGEST


def test_known_paths_hold_sections_on_the_way() -> None:
    assert {"trainer.critic", "trainer.critic.model", "trainer.critic.model.path"} <= NOT_CARRIED_PATHS


def test_every_section_is_a_config_model_with_its_docstring() -> None:
    def sections(model: type[BaseModel]) -> set[type[BaseModel]]:
        inner = {section for field in model.model_fields.values() if (section := section_of(field.annotation))}
        return inner.union(*(sections(section) for section in inner))

    for section in sections(SkyRLTrainConfig):
        assert issubclass(section, ConfigModel), section
        assert section.__doc__, section


def test_unset_differs_from_set_to_the_default() -> None:
    unset, given = SkyRLTrainConfig(), SkyRLTrainConfig.model_validate({"trainer": {"seed": 42}})
    assert given.trainer.seed == unset.trainer.seed == 42
    assert "seed" in given.trainer.model_fields_set
    assert "seed" not in unset.trainer.model_fields_set
    assert given.model_dump(exclude_unset=True) == {"trainer": {"seed": 42}}


def test_setting_a_model_without_its_path_leaves_the_path_unset() -> None:
    config = SkyRLTrainConfig.model_validate({"trainer": {"policy": {"model": {}}}})
    assert config.trainer.policy.model.path is None


NUMBERS: dict[str, tuple[object, float]] = {
    "float": (1e-6, 1e-6),
    "integer": (0, 0.0),
    "text without a dot, as YAML 1.1 reads 1e-6": ("1e-6", 1e-6),
    "text with a dot": ("2.5E-5", 2.5e-5),
    "text with spaces around": (" 3e-4 ", 3e-4),
    "text that begins with a dot": (".5", 0.5),
}


@pytest.mark.parametrize("case", NUMBERS)
def test_numbers_are_read(case: str) -> None:
    given, expected = NUMBERS[case]
    lr = OptimizerConfig.model_validate({"lr": given}).lr
    assert lr == expected
    assert isinstance(lr, float)


REFUSED: dict[str, dict[str, Any]] = {
    "text for an integer": {"trainer": {"seed": "42"}},
    "bool for an integer": {"trainer": {"seed": True}},
    "float for an integer": {"trainer": {"seed": 42.0}},
    "bool for a float": {"trainer": {"policy": {"optimizer_config": {"lr": True}}}},
    "word for a float": {"trainer": {"policy": {"optimizer_config": {"lr": "small"}}}},
    "hexadecimal text for a float": {"trainer": {"policy": {"optimizer_config": {"lr": "0x1"}}}},
    "text nan for a float": {"trainer": {"policy": {"optimizer_config": {"lr": "nan"}}}},
    "nan": {"trainer": {"policy": {"optimizer_config": {"lr": float("nan")}}}},
    "text that overflows to infinity": {"trainer": {"policy": {"optimizer_config": {"lr": "1e999"}}}},
    "negative text below a bound": {"trainer": {"policy": {"optimizer_config": {"lr": "-1e-6"}}}},
    "integer for a bool": {"trainer": {"bf16": 1}},
    "text for a bool": {"trainer": {"bf16": "true"}},
    "zero for a bool or count": {"trainer": {"policy": {"fsdp_config": {"reshard_after_forward": 0}}}},
    "one path for a list": {"data": {"train_data": "/data/train.parquet"}},
    "three betas": {"trainer": {"policy": {"optimizer_config": {"adam_betas": [0.9, 0.9, 0.9]}}}},
    "unknown key": {"trainer": {"sead": 42}},
    "unknown estimator": {"trainer": {"algorithm": {"advantage_estimator": "mystery"}}},
    "batch of nothing": {"trainer": {"train_batch_size": 0}},
    "clip at one": {"trainer": {"algorithm": {"eps_clip_low": 1.0}}},
    "two log-probabilities": {"generator": {"sampling_params": {"logprobs": 2}}},
    "null for a number": {"trainer": {"seed": None}},
}


@pytest.mark.parametrize("case", REFUSED)
def test_values_of_another_type_or_out_of_bounds_are_refused(case: str) -> None:
    with pytest.raises(ValidationError):
        SkyRLTrainConfig.model_validate(REFUSED[case])


@pytest.mark.parametrize("value", [True, False, 1, 8])
def test_resharding_keeps_bool_and_count_apart(value: bool | int) -> None:
    config = SkyRLTrainConfig.model_validate({"trainer": {"policy": {"fsdp_config": {"reshard_after_forward": value}}}})
    read = config.trainer.policy.fsdp_config.reshard_after_forward
    assert read == value
    assert type(read) is type(value)


def test_config_does_not_change_once_read() -> None:
    with pytest.raises(ValidationError):
        SkyRLTrainConfig().trainer.seed = 1
