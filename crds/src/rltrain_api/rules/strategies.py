"""What one way of spreading models over GPUs cannot do: FSDP 1, FSDP's packing, and Megatron.

All but the last rule of schedules concern upstream's trainer; a message names the strategy that it is about.
"""

from __future__ import annotations

from collections.abc import Iterator

from rltrain_api.config import MegatronConfig
from rltrain_api.errors import ErrorCode, FieldError
from rltrain_api.rules.facts import Facts, Rule, in_config
from rltrain_api.rules.wording import counted, told, written

_WRAPPED_CLASSES = "transformer_layer_cls_to_wrap"
_POLYNOMIAL_END = 1e-7  # transformers: get_polynomial_decay_schedule_with_warmup(lr_end)


def fsdp1_keeps_parameters_on_gpus(facts: Facts) -> Iterator[FieldError]:
    """With strategy fsdp, cpu_offload is false for policy and critic. SkyRL: C5."""
    if facts.trainer.strategy != "fsdp":
        return
    for name, section in (("policy", facts.trainer.policy.fsdp_config), ("critic", facts.trainer.critic.fsdp_config)):
        if section.cpu_offload:
            yield in_config(
                f"trainer.{name}.fsdp_config.cpu_offload",
                ErrorCode.CONFLICT,
                "true is not to be had with strategy fsdp (FSDP 1); set it to false, or trainer.strategy to fsdp2",
            )


def packing_uses_flash_attention(facts: Facts) -> Iterator[FieldError]:
    """With FSDP, use_sample_packing comes with flash_attn. SkyRL: the constructor of its model."""
    trainer = facts.trainer
    if not facts.megatron and trainer.use_sample_packing and not trainer.flash_attn:
        yield in_config(
            "trainer.use_sample_packing",
            ErrorCode.CONFLICT,
            f"{told(trainer, 'use_sample_packing')}, which needs flash attention, and flash_attn is false; set it to "
            "false, or flash_attn to true",
        )


def sequence_parallel_packs(facts: Facts) -> Iterator[FieldError]:
    """With FSDP, sequence_parallel_size above 1 comes with use_sample_packing. SkyRL: the forward pass of its model."""
    if facts.megatron or facts.trainer.use_sample_packing:
        return
    for model in facts.models:
        if model.sequence_parallel_size > 1:
            yield in_config(
                f"trainer.{model.name}.sequence_parallel_size",
                ErrorCode.CONFLICT,
                f"{model.sequence_parallel_size} GPUs can share only packed sequences, and use_sample_packing is "
                "false; set it to 1, or use_sample_packing to true",
            )


def megatron_has_no_critic(facts: Facts) -> Iterator[FieldError]:
    """With strategy megatron, there is no critic. SkyRL: 2.5."""
    if facts.megatron and facts.trainer.critic.model.path is not None:
        yield in_config(
            "trainer.critic.model.path",
            ErrorCode.CONFLICT,
            "strategy megatron trains without a critic; set it to null and use an estimator that needs none, such as "
            "grpo, or set trainer.strategy to fsdp2",
        )


def megatron_has_its_own_sequence_parallelism(facts: Facts) -> Iterator[FieldError]:
    """With strategy megatron, sequence_parallel_size of policy and reference is 1. SkyRL: 2.5."""
    if not facts.megatron:
        return
    for name, size in (
        ("policy", facts.trainer.policy.sequence_parallel_size),
        ("ref", facts.trainer.ref.sequence_parallel_size),
    ):
        if size != 1:
            yield in_config(
                f"trainer.{name}.sequence_parallel_size",
                ErrorCode.CONFLICT,
                f"{size} is not to be had with strategy megatron, which has its own way; set it to 1, and "
                f"{name}.megatron_config.context_parallel_size to {size}",
            )


def _megatron_sections(facts: Facts) -> tuple[tuple[str, MegatronConfig], ...]:
    """(name, section) of policy and reference; none with another strategy."""
    if not facts.megatron:
        return ()
    return ("policy", facts.trainer.policy.megatron_config), ("ref", facts.trainer.ref.megatron_config)


def context_parallel_packs(facts: Facts) -> Iterator[FieldError]:
    """With strategy megatron, context_parallel_size above 1 comes with use_sample_packing. SkyRL: 2.5."""
    for name, section in _megatron_sections(facts):
        if section.context_parallel_size > 1 and not facts.trainer.use_sample_packing:
            yield in_config(
                f"trainer.{name}.megatron_config.context_parallel_size",
                ErrorCode.CONFLICT,
                f"{section.context_parallel_size} GPUs can share only packed sequences, and use_sample_packing is "
                "false; set it to 1, or use_sample_packing to true",
            )


def megatron_parallelism_divides_the_gpus(facts: Facts) -> Iterator[FieldError]:
    """With strategy megatron, tensor times pipeline times context parallel divides a model's GPUs. SkyRL: 2.6.2."""
    for model in facts.models if facts.megatron else ():
        if model.megatron is None or facts.data_parallel(model) is not None:
            continue
        section = model.megatron
        yield in_config(
            f"trainer.{model.name}.megatron_config.tensor_model_parallel_size",
            ErrorCode.NOT_DIVISIBLE,
            f"{section.tensor_model_parallel_size} times pipeline_model_parallel_size "
            f"{section.pipeline_model_parallel_size} times context_parallel_size {section.context_parallel_size} is "
            f"{facts.gpus_per_copy(model)}, which does not divide {model.owner} "
            f"{counted(model.gpus, 'GPU')}; change one of them, or placement.{model.name}_num_gpus_per_node",
        )


def experts_divide_the_gpus(facts: Facts) -> Iterator[FieldError]:
    """With strategy megatron, expert times expert-tensor times pipeline parallel divides a model's GPUs.

    Ours: Megatron forms no process groups otherwise. expert_tensor_parallel_size follows tensor_model_parallel_size.
    """
    for model in facts.models if facts.megatron else ():
        if model.megatron is None or facts.data_parallel(model) is None:
            continue
        section = model.megatron
        tensor = section.expert_tensor_parallel_size or section.tensor_model_parallel_size
        wanted = section.expert_model_parallel_size * tensor * section.pipeline_model_parallel_size
        if model.gpus % wanted != 0:
            yield in_config(
                f"trainer.{model.name}.megatron_config.expert_model_parallel_size",
                ErrorCode.NOT_DIVISIBLE,
                f"{section.expert_model_parallel_size} times expert_tensor_parallel_size {tensor} times "
                f"pipeline_model_parallel_size {section.pipeline_model_parallel_size} is {wanted}, which does not "
                f"divide {model.owner} {counted(model.gpus, 'GPU')}; lower one of them",
            )


def megatron_learning_rate_is_constant(facts: Facts) -> Iterator[FieldError]:
    """With strategy megatron, the policy's scheduler is constant_with_warmup. SkyRL: its Megatron optimiser."""
    scheduler = facts.trainer.policy.optimizer_config.scheduler
    if facts.megatron and scheduler != "constant_with_warmup":
        yield in_config(
            "trainer.policy.optimizer_config.scheduler",
            ErrorCode.CONFLICT,
            f"{scheduler} is not to be had with strategy megatron; set it to constant_with_warmup, or trainer.strategy "
            "to fsdp2",
        )


def polynomial_schedule_falls(facts: Facts) -> Iterator[FieldError]:
    """With scheduler polynomial, lr is above 1e-7. Ours: transformers ends the schedule there, and fails otherwise."""
    sections = [("policy", facts.trainer.policy.optimizer_config)]
    if facts.has_critic:
        sections.append(("critic", facts.trainer.critic.optimizer_config))
    for name, section in sections:
        if section.scheduler == "polynomial" and section.lr <= _POLYNOMIAL_END and not facts.megatron:
            yield in_config(
                f"trainer.{name}.optimizer_config.lr",
                ErrorCode.OUT_OF_RANGE,
                f"{section.lr:g} is not above 1e-7, where scheduler polynomial ends; raise it, or use another "
                "scheduler, such as linear",
            )


def megatron_profile_has_a_place(facts: Facts) -> Iterator[FieldError]:
    """With strategy megatron, torch_profiler_config.enable comes with ranks and save_path. Ours: SkyRL fails late."""
    for name, section in _megatron_sections(facts)[:1]:  # SkyRL profiles the policy only
        profiler = section.torch_profiler_config
        if not profiler.enable:
            continue
        where = f"trainer.{name}.megatron_config.torch_profiler_config"
        if not profiler.ranks:
            yield in_config(
                f"{where}.ranks", ErrorCode.REQUIRED, "is empty, so no rank would be profiled; name some, such as [0]"
            )
        if profiler.save_path is None:
            yield in_config(
                f"{where}.save_path",
                ErrorCode.REQUIRED,
                "is unset, so profiles have no place; set it to a directory on a volume",
            )


def fsdp2_wraps_classes(facts: Facts) -> Iterator[FieldError]:
    """With runtime.trainer builtin, wrap_policy names classes and nothing else. Ours: the rest means FSDP 1."""
    if facts.runs_upstream:
        return
    for model in facts.models:
        path = f"trainer.{model.name}.fsdp_config.wrap_policy"
        if others := sorted(set(model.fsdp.wrap_policy) - {_WRAPPED_CLASSES}):
            yield in_config(
                path,
                ErrorCode.CONFLICT,
                f"{', '.join(map(written, others))} is of FSDP 1 and means nothing to FSDP2; remove it, or name "
                f"classes in {_WRAPPED_CLASSES}",
            )
            continue
        classes = model.fsdp.wrap_policy.get(_WRAPPED_CLASSES)
        if not isinstance(classes, (str, list, type(None))) or not all(isinstance(name, str) for name in classes or ()):
            yield in_config(
                path, ErrorCode.CONFLICT, f'{_WRAPPED_CLASSES} is no list of names; write ["Qwen2DecoderLayer"], say'
            )


def engines_rotate_as_the_trainer_does(facts: Facts) -> Iterator[FieldError]:
    """With runtime.trainer builtin, rope settings of engines and trainer are the same. SkyRL: P4."""
    if facts.runs_upstream:
        return
    for name in ("rope_scaling", "rope_theta"):
        of_engines, of_trainer = getattr(facts.generator, name), getattr(facts.trainer, name)
        if of_engines is not None and of_engines != of_trainer:
            yield in_config(
                f"generator.{name}",
                ErrorCode.CONFLICT,
                f"differs from trainer.{name}, so that engines would sample from another model than the one that is "
                "trained; remove it, and set the trainer's",
            )


RULES: tuple[Rule, ...] = (polynomial_schedule_falls, fsdp2_wraps_classes, engines_rotate_as_the_trainer_does)
SKYRL_RULES: tuple[Rule, ...] = (
    fsdp1_keeps_parameters_on_gpus,
    packing_uses_flash_attention,
    sequence_parallel_packs,
    megatron_has_no_critic,
    megatron_has_its_own_sequence_parallelism,
    context_parallel_packs,
    megatron_parallelism_divides_the_gpus,
    experts_divide_the_gpus,
    megatron_learning_rate_is_constant,
    megatron_profile_has_a_place,
)
