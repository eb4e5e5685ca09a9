"""What the ranks of tests/support/fsdp_ranks.py compute, and what tests/unit/test_trainer_fsdp_*.py compare it with.

A run is three training steps under one configuration; a layout is how its ranks are arranged. It must not know of
process groups.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from rltrain_api.config import SkyRLTrainConfig
from rltrain_trainer.data.batch import TrainBatch, build_batch
from rltrain_trainer.rollout.trajectory import Trajectory

VOCABULARY = 256
LR = 1e-4
TOTAL_STEPS = 5

# What each run has that the others have not; `lora` and `critic` say what is trained.
RUNS: dict[str, dict[str, Any]] = {
    "regular": {
        "tied": True,
        "trainer": {"policy_mini_batch_size": 4, "micro_train_batch_size_per_gpu": 3},
        "algorithm": {"use_kl_loss": False, "temperature": 1.0},
    },
    "everything": {
        "tied": False,
        "trainer": {
            "policy_mini_batch_size": 4,
            "micro_train_batch_size_per_gpu": 2,
            "update_epochs_per_batch": 2,
            "gradient_checkpointing": True,
        },
        "algorithm": {
            "use_kl_loss": True,
            "kl_loss_coef": 0.1,
            "use_entropy_loss": True,
            "entropy_loss_coef": 0.05,
            "temperature": 0.7,
            "policy_loss_type": "dual_clip",
            "loss_reduction": "sequence_mean",
        },
    },
}

# By the number of ranks: how they share sequences and copies of the model, and whether sequences are packed.
LAYOUTS: dict[int, dict[str, dict[str, Any]]] = {
    1: {"padded": {}, "packed": {"packed": True}},
    2: {
        "padded": {},
        "packed": {"packed": True},
        "padded, shared sequences": {"sequence": 2},
        "packed, shared sequences": {"sequence": 2, "packed": True},
    },
    4: {
        "packed, two copies": {"packed": True, "fsdp": 2},
        "padded, two copies, pairs share sequences": {"sequence": 2, "fsdp": 2},
        "packed, resharded, all share sequences": {"sequence": 4, "packed": True, "reshard": 2},
    },
}
# Which run in which layout: everything in all, the regular one in the plainest.
RUNS_BY_LAYOUT = [
    (world, layout, run)
    for world, layouts in LAYOUTS.items()
    for layout in layouts
    for run in RUNS
    if run == "everything" or layout == "padded"
]
# Where the critic and adapters are trained too.
ONE_LAYOUT = {1: "packed", 2: "packed, shared sequences", 4: "packed, two copies"}


def make_model(*, tied: bool) -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    shape = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
        initializer_range=0.1,
    )
    return Qwen2ForCausalLM(shape)


def make_reference() -> Qwen2ForCausalLM:
    model = make_model(tied=False)
    with torch.no_grad():
        model.lm_head.weight.mul_(0.9)
    return model


def make_config(directory: Path, run: str, layout: dict[str, Any] | None = None) -> SkyRLTrainConfig:
    """Resolved far enough for a rank: four prompts of two samples each."""
    settings, layout = RUNS[run], layout or {}
    spread = {
        "sequence_parallel_size": layout.get("sequence", 1),
        "fsdp_config": {
            "fsdp_size": layout.get("fsdp", -1),
            "reshard_after_forward": layout.get("reshard", True),
        },
    }
    optimizer = {"lr": LR, "scheduler": "linear", "num_warmup_steps": 2, "max_grad_norm": 0.5}
    trainer = {
        "policy": {"model": {"path": str(directory / run)}, "optimizer_config": optimizer, **spread},
        "critic": {"model": {"path": str(directory / "reference")}, "optimizer_config": optimizer, **spread},
        "ref": {"model": {"path": str(directory / "reference")}, **spread},
        "bf16": False,
        "gradient_checkpointing": False,
        "train_batch_size": 4,
        "critic_mini_batch_size": 2,
        "micro_forward_batch_size_per_gpu": 3,
        "use_sample_packing": layout.get("packed", False),
    }
    return SkyRLTrainConfig.model_validate(
        {
            "trainer": trainer | settings["trainer"] | {"algorithm": settings["algorithm"]},
            "generator": {"n_samples_per_prompt": 2, "inference_engine": {"model_dtype": "float32"}},
        }
    )


def changed(config: SkyRLTrainConfig, **trainer: Any) -> SkyRLTrainConfig:
    """The configuration with other values in the trainer's section, nested ones merged."""
    document = config.model_dump(mode="json")
    _merge(document["trainer"], trainer)
    return SkyRLTrainConfig.model_validate(document)


def _merge(section: dict[str, Any], changes: dict[str, Any]) -> None:
    for name, value in changes.items():
        if isinstance(value, dict) and isinstance(section.get(name), dict):
            _merge(section[name], value)
        else:
            section[name] = value


def make_batch(seed: int, rows: int = 8) -> TrainBatch:
    """Ragged sequences with advantages; some tokens are the environment's, one response is masked out."""
    generator = torch.Generator().manual_seed(seed)

    def integers(low: int, high: int, count: int) -> tuple[int, ...]:
        return tuple(torch.randint(low, high, (count,), generator=generator).tolist())

    trajectories = []
    for index in range(rows):
        response = integers(1, 9, 1)[0]
        trajectories.append(
            Trajectory(
                group_id=str(index // 2),
                sample=index % 2,
                prompt_ids=integers(0, VOCABULARY, integers(2, 7, 1)[0]),
                response_ids=integers(0, VOCABULARY, response),
                rollout_logprobs=(-5.0,) * response,
                loss_mask=(0,) * response if index == 5 else (1, *integers(0, 2, response - 1)),
                token_rewards=(0.0,) * response,
                stop_reason="stop",
                version_spans=(),
            )
        )
    batch = build_batch(trajectories, pad_token_id=0)
    advantages = torch.randn(rows, 1, generator=generator) * batch.response_mask
    returns = torch.randn(advantages.shape, generator=generator) * batch.response_mask
    return batch.with_advantages(advantages, returns)
