"""Which models share GPUs, and how GPUs are dealt out: SkyRL's placement checks, and what its meshes need.

Pods and their GPUs follow from these numbers (`rltrain_operator.plan`), so a wrong one here is a pod that waits for
ever, or a process group that never forms.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from rltrain_api.errors import ErrorCode, FieldError
from rltrain_api.rules.facts import Facts, Model, Rule, in_config
from rltrain_api.rules.wording import counted, said

_PLACEMENT = "trainer.placement"


def reference_shares_the_policys_gpus(facts: Facts) -> Iterator[FieldError]:
    """A reference model on the policy's GPUs has as many nodes and GPUs per node as the policy. SkyRL: C20."""
    placement = facts.placement
    if not facts.needs_reference or placement.colocate_all or not placement.colocate_policy_ref:
        return
    term = "use_kl_loss" if facts.algorithm.use_kl_loss else "use_kl_in_reward"
    for field, reference, policy in (
        ("num_nodes", placement.ref_num_nodes, placement.policy_num_nodes),
        ("num_gpus_per_node", placement.ref_num_gpus_per_node, placement.policy_num_gpus_per_node),
    ):
        if policy != reference:
            yield in_config(
                f"{_PLACEMENT}.ref_{field}",
                ErrorCode.CONFLICT,
                f"{said(placement, f'ref_{field}')} differs from policy_{field} {policy}, and with {term} the "
                f"reference model is on the policy's GPUs; set it to {policy}, or set algorithm.{term} to false",
            )


def engines_fill_the_policys_gpus(facts: Facts) -> Iterator[FieldError]:
    """With colocate_all, engines have as many GPUs as the policy. SkyRL: C19."""
    engine, policy = facts.engine, facts.policy.gpus
    engines = engine.num_engines * facts.gpus_per_engine
    if not facts.placement.colocate_all or not engine.run_engines_locally or engines == policy:
        return
    if policy % facts.gpus_per_engine == 0:
        remedy = f"set num_engines to {policy // facts.gpus_per_engine}"
    else:
        remedy = f"let an engine have a divisor of {policy} GPUs"
    yield in_config(
        "generator.inference_engine.num_engines",
        ErrorCode.CONFLICT,
        f"{said(engine, 'num_engines', 'engine')} of {counted(facts.gpus_per_engine, 'GPU')} each need "
        f"{counted(engines, 'GPU')}, and with placement.colocate_all they share the policy's {policy}; {remedy}, or "
        "set placement.colocate_all to false",
    )


def reference_fills_the_policys_gpus(facts: Facts) -> Iterator[FieldError]:
    """With colocate_all, the reference model has as many GPUs as the policy. SkyRL: 2.7 build_models."""
    yield from _fills_the_policys_gpus(facts, facts.reference, "reference model")


def critic_fills_the_policys_gpus(facts: Facts) -> Iterator[FieldError]:
    """With colocate_all, the critic has as many GPUs as the policy. SkyRL: 2.7 build_models."""
    yield from _fills_the_policys_gpus(facts, facts.critic, "critic")


def _fills_the_policys_gpus(facts: Facts, model: Model | None, words: str) -> Iterator[FieldError]:
    if model is None or not facts.placement.colocate_all or model.gpus == facts.policy.gpus:
        return
    yield in_config(
        f"{_PLACEMENT}.{model.name}_num_gpus_per_node",
        ErrorCode.CONFLICT,
        f"the {words} has {counted(model.gpus, 'GPU')}, {model.name}_num_nodes times {model.name}_num_gpus_per_node, "
        f"and with colocate_all it shares the policy's {facts.policy.gpus}; make the two products equal",
    )


def colocated_engines_are_started_by_the_run(facts: Facts) -> Iterator[FieldError]:
    """With colocate_all, the run starts its engines itself. Ours: engines elsewhere are not on the trainer's GPUs."""
    if facts.placement.colocate_all and not facts.engine.run_engines_locally:
        yield in_config(
            f"{_PLACEMENT}.colocate_all",
            ErrorCode.CONFLICT,
            "engines that inference_engine.run_engines_locally false leaves to others cannot be on the trainer's GPUs; "
            "set it to false",
        )


def engine_processes_stay_on_one_node(facts: Facts) -> Iterator[FieldError]:
    """With colocate_all and executor mp, an engine's tensor times pipeline parallel fits one node. SkyRL: I3."""
    engine, per_node = facts.engine, facts.placement.policy_num_gpus_per_node
    wanted = engine.tensor_parallel_size * engine.pipeline_parallel_size
    if facts.placement.colocate_all and engine.distributed_executor_backend == "mp" and wanted > per_node:
        yield in_config(
            "generator.inference_engine.distributed_executor_backend",
            ErrorCode.CONFLICT,
            f"mp runs an engine's processes on one node, and tensor_parallel_size {engine.tensor_parallel_size} times "
            f"pipeline_parallel_size {engine.pipeline_parallel_size} is more than its "
            f"{counted(per_node, 'GPU')} (placement.policy_num_gpus_per_node); set it to ray, or use smaller engines",
        )


def sequence_parallel_divides_the_gpus(facts: Facts) -> Iterator[FieldError]:
    """With FSDP, sequence_parallel_size divides the GPUs of each model. Ours (2.8): SkyRL rounds down, then fails."""
    if facts.megatron:
        return
    for model in facts.models:
        if model.gpus % model.sequence_parallel_size != 0:
            yield in_config(
                f"trainer.{model.name}.sequence_parallel_size",
                ErrorCode.NOT_DIVISIBLE,
                f"{model.sequence_parallel_size} GPUs for each sequence do not divide {model.owner} "
                f"{counted(model.gpus, 'GPU')}; use {_divisor_near(model.gpus, model.sequence_parallel_size)} or "
                f"another divisor of {model.gpus}",
            )


def shard_groups_divide_the_gpus(facts: Facts) -> Iterator[FieldError]:
    """With FSDP, fsdp_size is -1 or a divisor of the model's GPUs. Ours: the device mesh cannot be formed otherwise."""
    if facts.megatron:
        return
    for model in facts.models:
        size = model.fsdp.fsdp_size
        if size == -1 or size >= model.gpus:  # SkyRL takes both for all GPUs
            continue
        if size == 0 or model.gpus % size != 0:
            yield in_config(
                f"trainer.{model.name}.fsdp_config.fsdp_size",
                ErrorCode.NOT_DIVISIBLE,
                f"{size} GPUs for each copy of the model do not divide {model.owner} "
                f"{counted(model.gpus, 'GPU')}; use -1 for all of them, or a divisor of {model.gpus}",
            )


def resharding_divides_the_shards(facts: Facts) -> Iterator[FieldError]:
    """With FSDP2, a reshard_after_forward that is a number divides the ranks of a copy. Ours: PyTorch fails."""
    if facts.runs_upstream and facts.trainer.strategy != "fsdp2":
        return
    for model in facts.models:
        ranks = model.gpus if model.fsdp.fsdp_size < 1 else min(model.gpus, model.fsdp.fsdp_size)
        wanted = model.fsdp.reshard_after_forward
        if not isinstance(wanted, bool) and ranks % wanted != 0:
            yield in_config(
                f"trainer.{model.name}.fsdp_config.reshard_after_forward",
                ErrorCode.NOT_DIVISIBLE,
                f"{wanted} ranks do not divide the {ranks} ranks that a copy of {model.owner} parameters is "
                f"sharded over; use true, false or a divisor of {ranks}",
            )


def _divisor_near(number: int, wanted: int) -> int:
    """The greatest divisor of `number` up to `wanted`."""
    return max(
        divisor
        for small in range(1, math.isqrt(number) + 1)
        if number % small == 0
        for divisor in (small, number // small)
        if divisor <= wanted
    )


RULES: tuple[Rule, ...] = (
    reference_shares_the_policys_gpus,
    resharding_divides_the_shards,
    sequence_parallel_divides_the_gpus,
    shard_groups_divide_the_gpus,
)
SKYRL_RULES: tuple[Rule, ...] = (
    engines_fill_the_policys_gpus,
    reference_fills_the_policys_gpus,
    critic_fills_the_policys_gpus,
    colocated_engines_are_started_by_the_run,
    engine_processes_stay_on_one_node,
)
