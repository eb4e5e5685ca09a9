"""Ranks on gloo: every world size of `fsdp_cases.LAYOUTS` in turn, each rank a process that writes what it computed.

    python tests/support/fsdp_ranks.py DIRECTORY     writes DIRECTORY/<world size>_<rank>.pt

Importing torch takes far longer than the work, so it is done once, and ranks are forked from there. Larger worlds go
first: the single rank resumes from what two have saved.
"""

from __future__ import annotations

import os
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from fsdp_cases import LAYOUTS, ONE_LAYOUT, RUNS_BY_LAYOUT, TOTAL_STEPS, changed, make_batch, make_config
from rltrain_api.config import SkyRLTrainConfig
from rltrain_trainer.data.batch import TrainBatch
from rltrain_trainer.fsdp.critic import CriticRank
from rltrain_trainer.fsdp.gradients import accumulate_gradients, policy_gradient
from rltrain_trainer.fsdp.minibatches import deal
from rltrain_trainer.fsdp.policy import PolicyRank
from rltrain_trainer.fsdp.reference import ReferenceRank
from rltrain_trainer.fsdp.sharded import ShardedModel
from rltrain_trainer.fsdp.sharding import clip_gradients, full_tensor
from rltrain_trainer.models.scored import PREFIX

LORA = {"rank": 4, "alpha": 8, "dropout": 0.0, "exclude_modules": "down_proj"}


def parameters_of(policy: PolicyRank) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in policy.gather_parameters()}


def gathered(model: PolicyRank | ReferenceRank | CriticRank, mine: Tensor) -> Tensor:
    """The rows of all ranks in order, as the driver puts them together."""
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, mine if model.leads else None)
    return torch.cat([rows for rows in everyone if rows is not None])


def one_step(policy: PolicyRank, seed: int, reference: ReferenceRank | None = None) -> dict[str, Any]:
    batch = make_batch(seed)
    batch = replace(batch, old_logprobs=gathered(policy, policy.logprobs(batch)))
    if reference is not None:
        batch = replace(batch, reference_logprobs=gathered(reference, reference.logprobs(batch)))
    metrics = policy.update(batch)
    return {"logprobs": batch.old_logprobs, "metrics": metrics, "parameters": parameters_of(policy)}


def three_steps(config: SkyRLTrainConfig) -> dict[str, Any]:
    """After the gradient of a first mini-batch, which is not stepped with."""
    policy = PolicyRank(config, total_steps=TOTAL_STEPS)
    reference = ReferenceRank(config) if config.trainer.algorithm.use_kl_loss else None
    result = first_gradient(config, policy)
    result["spread"] = [spread(policy._model), *([spread(reference._model)] if reference is not None else [])]
    return result | {"steps": [one_step(policy, seed, reference) for seed in range(3)]}


def resumed(config: SkyRLTrainConfig, directory: Path) -> dict[str, Any]:
    """Three steps, saved after the second, whose third is repeated from what was saved."""
    reference = ReferenceRank(config) if config.trainer.algorithm.use_kl_loss else None
    world = dist.get_world_size()
    checkpoint = str(directory / f"checkpoint_{world}")
    policy = PolicyRank(config, total_steps=TOTAL_STEPS)
    for seed in range(2):
        one_step(policy, seed, reference)
    policy.save(checkpoint)
    result: dict[str, Any] = {"third": one_step(policy, 2, reference)}  # beside the writing
    policy.written()
    fresh = PolicyRank(config, total_steps=TOTAL_STEPS)
    fresh.load(checkpoint)
    result["again"] = one_step(fresh, 2, reference)
    result["specs"] = [(spec.name, spec.shape, spec.dtype) for spec in fresh.parameter_specs()]
    other = directory / "checkpoint_2"
    if world == 1 and other.exists():
        fresh.load(str(other))
        result["from two"] = one_step(fresh, 2, reference)
    return result


def spread(model: ShardedModel[Any]) -> dict[str, Any]:
    """How a model lies on its ranks: as `fsdp_cases.LAYOUTS` says it."""
    mesh = model.mesh
    group: Any = model._groups[0]
    after_forward = group._get_fsdp_state()._fsdp_param_group.post_forward_mesh_info
    return {
        "fsdp": mesh.shards.shape[-1],
        "sequence": 1 if mesh.sequence is None else mesh.sequence.size,
        "different": mesh.data_size,
        "reshard": None if after_forward is None else after_forward.shard_mesh_size,
    }


def first_gradient(config: SkyRLTrainConfig, policy: PolicyRank) -> dict[str, Any]:
    """Of a mini-batch of three rows, so that some ranks have none where there are four."""
    batch = make_batch(0).rows(slice(0, 3))
    batch = replace(batch, old_logprobs=batch.rollout_logprobs)
    mesh = policy._model.mesh
    (share,) = deal(batch, config, rank=mesh.data_rank, ranks=mesh.data_size, prompts=4)
    algorithm = config.trainer.algorithm.model_copy(update={"use_kl_loss": False})
    accumulate_gradients(share, policy_gradient(policy.module, algorithm), mesh.device)
    gradients = {
        name.removeprefix(PREFIX): full_tensor(parameter.grad).clone()
        for name, parameter in policy.module.named_parameters()
        if parameter.grad is not None
    }
    norm = clip_gradients(policy.module, 0.01, mesh.copy_group)
    clipped = clip_gradients(policy.module, 0.0, mesh.copy_group)
    policy.module.zero_grad(set_to_none=True)
    return {"gradients": gradients, "norm": norm, "clipped": clipped}


def critic_steps(config: SkyRLTrainConfig, directory: Path) -> dict[str, Any]:
    critic = CriticRank(config, total_steps=TOTAL_STEPS)
    head = full_tensor(critic.module.head.weight).detach().clone()
    steps: list[dict[str, Any]] = []
    for seed in range(3):
        batch = make_batch(seed)
        values = gathered(critic, critic.values(batch))
        steps.append({"values": values, "metrics": critic.update(replace(batch, values=values))})
    critic.export(str(directory / f"critic_{dist.get_world_size()}"))
    parameters = {name: tensor.clone() for name, tensor in critic._model.full_parameters("float32")}
    return {"head": head, "steps": steps, "parameters": parameters, "spread": spread(critic._model)}


def adapter_steps(config: SkyRLTrainConfig, directory: Path) -> dict[str, Any]:
    path = config.trainer.policy.model.path
    config = changed(
        config, policy={"model": {"lora": LORA}}, algorithm={"use_kl_loss": True}, ref={"model": {"path": path}}
    )
    policy = PolicyRank(config, total_steps=TOTAL_STEPS)
    result: dict[str, Any] = {"before": parameters_of(policy), "steps": []}
    for seed in range(3):
        batch = make_batch(seed)
        batch = replace(
            batch,
            old_logprobs=gathered(policy, policy.logprobs(batch)),
            reference_logprobs=gathered(policy, policy.reference_logprobs(batch)),
        )
        metrics = policy.update(batch)
        result["steps"].append({"reference": batch.reference_logprobs, "metrics": metrics})
    result["parameters"] = parameters_of(policy)
    result["trained"] = [name for name, parameter in policy.module.named_parameters() if parameter.requires_grad]
    checkpoint = str(directory / f"adapters_{dist.get_world_size()}")
    policy.save(checkpoint)
    policy.written()
    fresh = PolicyRank(config, total_steps=TOTAL_STEPS)
    fresh.load(checkpoint)
    result["resumed"] = parameters_of(fresh)
    policy.export(str(directory / f"export_{dist.get_world_size()}"))
    return result


def special_cases(directory: Path) -> dict[str, Any]:
    config = make_config(directory, "regular")
    policy = PolicyRank(config, total_steps=TOTAL_STEPS)
    before, batch = parameters_of(policy), make_batch(0)
    assert batch.advantages is not None
    poisoned = batch.with_advantages(batch.advantages * torch.inf, batch.advantages)
    result: dict[str, Any] = {"poisoned": policy.update(poisoned), "before": before, "after": parameters_of(policy)}
    result["without old"] = after_two_updates(config)
    result["bf16"] = {
        "by bf16": half_steps(changed(config, bf16=True)),
        "by mixed_precision": half_steps(
            changed(config, policy={"fsdp_config": {"mixed_precision": {"param_dtype": "bf16"}}})
        ),
    }
    ways = {
        "reentrant": {"gradient_checkpointing": True, "gradient_checkpointing_use_reentrant": True},
        "wrapped": {
            "policy": {"fsdp_config": {"wrap_policy": {"transformer_layer_cls_to_wrap": ["Qwen2MLP"]}}},
        },
        "offloaded": {
            "placement": {"colocate_all": True},
            "policy": {"fsdp_config": {"cpu_offload": True}, "optimizer_config": {"offload_after_step": True}},
        },
    }
    result |= {way: after_two_updates(changed(config, **trainer)) for way, trainer in ways.items()}
    result["refreshed"] = refreshed(config, policy, batch, directory)
    return result


def after_two_updates(config: SkyRLTrainConfig) -> dict[str, Tensor]:
    """The first one has a learning rate of 0."""
    policy = PolicyRank(config, total_steps=TOTAL_STEPS)
    for seed in range(2):
        policy.update(make_batch(seed))
    return parameters_of(policy)


def half_steps(config: SkyRLTrainConfig) -> dict[str, Any]:
    document = config.model_dump(mode="json")
    document["generator"]["inference_engine"]["model_dtype"] = "bfloat16"
    policy = PolicyRank(SkyRLTrainConfig.model_validate(document), total_steps=TOTAL_STEPS)
    steps = [one_step(policy, 0), one_step(policy, 1)]
    return {"steps": steps, "masters": sorted({str(part.dtype) for part in policy.module.parameters()})}


def refreshed(config: SkyRLTrainConfig, policy: PolicyRank, batch: TrainBatch, directory: Path) -> dict[str, Tensor]:
    """The reference becomes the policy after an update, and is saved as that."""
    config = changed(config, ref={"model": {"path": config.trainer.policy.model.path}})
    reference = ReferenceRank(config)
    before = gathered(reference, reference.logprobs(batch))
    for _ in range(2):  # the first one has a learning rate of 0
        policy.update(batch)
    reference.take(policy.gather_parameters())
    checkpoint = str(directory / f"reference_{dist.get_world_size()}")
    reference.save(checkpoint)
    reference.written()
    again = ReferenceRank(config)
    again.load(checkpoint)
    return {
        "before": before,
        "resumed": gathered(again, again.logprobs(batch)),
        "after": gathered(reference, reference.logprobs(batch)),
        "policy": gathered(policy, policy.logprobs(batch)),
    }


def rank_main(directory: Path, rank: int, world: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{directory}/store_{world}", rank=rank, world_size=world)
    result: dict[str, Any] = {}
    for name, layout in LAYOUTS[world].items():
        runs = [run for size, where, run in RUNS_BY_LAYOUT if (size, where) == (world, name)]
        result[name] = {run: three_steps(make_config(directory, run, layout)) for run in runs}
    config = make_config(directory, "regular", LAYOUTS[world][ONE_LAYOUT[world]])
    result["critic"] = critic_steps(config, directory)
    result["adapters"] = adapter_steps(config, directory)
    if world <= 2:
        result["resumed"] = resumed(make_config(directory, "everything"), directory)
    if world == 2:
        result["special"] = special_cases(directory)
    torch.save(result, directory / f"{world}_{rank}.pt")
    dist.destroy_process_group()


def main(directory: Path) -> int:
    failed = 0
    for world in sorted(LAYOUTS, reverse=True):
        ranks = []
        for rank in range(world):
            if (child := os.fork()) == 0:
                code = 1
                try:
                    rank_main(directory, rank, world)
                    code = 0
                except BaseException:  # noqa: BLE001 - the process ends here, whatever it was
                    traceback.print_exc()
                finally:
                    sys.stdout.flush()
                    sys.stderr.flush()
                    os._exit(code)
            ranks.append(child)
        for child in ranks:
            failed |= os.waitpid(child, 0)[1]
        if failed:
            break
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
