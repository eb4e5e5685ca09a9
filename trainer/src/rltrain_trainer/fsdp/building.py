"""From the configuration to the modules that are sharded: policy, critic and reference as each rank loads them.

Every rank loads the whole model and draws the same random numbers for what is new in it, then keeps its part. It must
not know of optimisers or losses.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from transformers import PreTrainedModel

from rltrain_api.config import CriticConfig, PolicyConfig, RefConfig, SkyRLTrainConfig, TrainerConfig
from rltrain_trainer.fsdp.sharded import ShardedModel
from rltrain_trainer.fsdp.sharding import RankMesh, Sharding, rank_device
from rltrain_trainer.models.adapters import add_adapters
from rltrain_trainer.models.attention import AttentionSettings
from rltrain_trainer.models.load import ModelOverrides, load_causal_lm
from rltrain_trainer.models.scored import ScoredCausalLM
from rltrain_trainer.models.valued import ValuedLM, load_head


def build_policy(config: SkyRLTrainConfig) -> ShardedModel[ScoredCausalLM]:
    """The policy: float32 master weights, or adapters on frozen weights of the type that is computed in."""
    trainer = config.trainer
    policy = trainer.policy
    sharding, mesh = _spread(policy, trainer)
    torch.manual_seed(trainer.seed)
    causal_lm = _trained(policy, trainer, sharding, mesh)
    module = ScoredCausalLM(causal_lm, _attention(trainer, mesh), compiled=policy.use_torch_compile)
    torch.manual_seed(trainer.seed + dist.get_rank())
    return _sharded(module, mesh, sharding, trainer)


def build_critic(config: SkyRLTrainConfig) -> ShardedModel[ValuedLM]:
    """The critic; its output layer is that of its checkpoint, where it has one, or begins at random."""
    trainer = config.trainer
    critic = trainer.critic
    sharding, mesh = _spread(critic, trainer)
    torch.manual_seed(trainer.seed)
    causal_lm = _trained(critic, trainer, sharding, mesh)
    module = ValuedLM(causal_lm, trainer.algorithm.value_head_prefix, _attention(trainer, mesh))
    assert critic.model.path is not None, "there is a critic where it has a path"
    load_head(module, critic.model.path)
    torch.manual_seed(trainer.seed + dist.get_rank())
    return _sharded(module, mesh, sharding, trainer)


def build_reference(config: SkyRLTrainConfig) -> ShardedModel[ScoredCausalLM]:
    """The frozen reference, in the type that is computed in."""
    trainer = config.trainer
    sharding, mesh = _spread(trainer.ref, trainer)
    causal_lm = _loaded(trainer.ref, trainer, sharding.compute_dtype)
    module = ScoredCausalLM(causal_lm, _attention(trainer, mesh)).eval().requires_grad_(False)
    return _sharded(module, mesh, sharding, trainer)


def _spread(model: PolicyConfig | CriticConfig | RefConfig, trainer: TrainerConfig) -> tuple[Sharding, RankMesh]:
    sharding = Sharding.of(model.fsdp_config, bf16=trainer.bf16)
    mesh = RankMesh.form(
        rank_device(),
        fsdp_size=model.fsdp_config.fsdp_size,
        sequence_parallel_size=model.sequence_parallel_size,
    )
    return sharding, mesh


def _loaded(
    model: PolicyConfig | CriticConfig | RefConfig, trainer: TrainerConfig, dtype: torch.dtype
) -> PreTrainedModel:
    assert model.model.path is not None, "validate() demands a model, and resolve() sets the reference's path"
    settings: Mapping[str, Any] = model.model_config_kwargs
    return load_causal_lm(model.model.path, dtype, ModelOverrides.of(trainer, settings))


def _trained(
    model: PolicyConfig | CriticConfig, trainer: TrainerConfig, sharding: Sharding, mesh: RankMesh
) -> PreTrainedModel:
    causal_lm = _loaded(model, trainer, torch.float32)
    if model.model.lora.rank > 0:
        add_adapters(causal_lm, model.model.lora)
        for parameter in causal_lm.parameters():
            if not parameter.requires_grad:  # what is never stepped needs no master weights
                parameter.data = parameter.data.to(sharding.compute_dtype)
    if trainer.gradient_checkpointing:
        reentrant = trainer.gradient_checkpointing_use_reentrant
        causal_lm.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": reentrant})
        if reentrant:  # that form sees only what comes in, and with adapters nothing there would want a gradient
            causal_lm.enable_input_require_grads()  # type: ignore[no-untyped-call]  # transformers leaves it untyped
    return causal_lm


def _attention(trainer: TrainerConfig, mesh: RankMesh) -> AttentionSettings:
    return AttentionSettings(packed=trainer.use_sample_packing, flash=trainer.flash_attn, group=mesh.sequence)


def _sharded(module: Any, mesh: RankMesh, sharding: Sharding, trainer: TrainerConfig) -> ShardedModel[Any]:
    return ShardedModel(module, mesh, sharding, rows_at_once=trainer.micro_forward_batch_size_per_gpu)
