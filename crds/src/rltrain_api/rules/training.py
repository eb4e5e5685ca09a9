"""Rules between fields of the configuration tree, batch sizes aside: lengths, algorithm, placement, checkpoints."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator

from rltrain_api.config import AlgorithmConfig, SkyRLTrainConfig
from rltrain_api.errors import ErrorCode, FieldError
from rltrain_api.job import RLTrainingJob

_TRAINER = "spec.config.trainer"
_ALGORITHM = "spec.config.trainer.algorithm"
_GENERATOR = "spec.config.generator"


def check_training(job: RLTrainingJob) -> Iterator[FieldError]:
    """Errors of the configuration tree that concern more than one field."""
    config = job.spec.config
    yield from _lengths(config)
    yield from _algorithm(config)
    yield from _reference_placement(config)
    yield from _resuming(config)
    if config.trainer.policy.model.path is None:
        yield FieldError(
            f"{_TRAINER}.policy.model.path",
            ErrorCode.REQUIRED,
            "is null, so there is no model to train; set it to a directory with a model, or a name on the Hub",
        )
    if config.trainer.max_ckpts_to_keep == 0:
        yield FieldError(
            f"{_TRAINER}.max_ckpts_to_keep",
            ErrorCode.OUT_OF_RANGE,
            "0 would keep no checkpoint; use -1 to keep all, or a number from 1",
        )


def _lengths(config: SkyRLTrainConfig) -> Iterator[FieldError]:
    given, prompt, turns = (
        config.generator.max_input_length,
        config.trainer.max_prompt_length,
        config.generator.max_turns,
    )
    if given is None:
        return
    if turns == 1 and given != prompt:
        yield FieldError(
            f"{_GENERATOR}.max_input_length",
            ErrorCode.CONFLICT,
            f"{given} differs from trainer.max_prompt_length {prompt}, and with max_turns 1 the prompt is all the "
            f"input; set it to {prompt} or leave it unset",
        )
    if turns > 1 and given < prompt:
        yield FieldError(
            f"{_GENERATOR}.max_input_length",
            ErrorCode.OUT_OF_RANGE,
            f"{given} tokens cannot hold a prompt of trainer.max_prompt_length {prompt}; set it to {prompt} or more",
        )


def _algorithm(config: SkyRLTrainConfig) -> Iterator[FieldError]:
    algorithm, generator = config.trainer.algorithm, config.generator
    if algorithm.advantage_estimator == "grpo" and generator.n_samples_per_prompt == 1:
        yield FieldError(
            f"{_GENERATOR}.n_samples_per_prompt",
            ErrorCode.OUT_OF_RANGE,
            "1 response has no group to be compared with, and advantage_estimator grpo compares within groups; use 2 "
            "or more",
        )
    if algorithm.policy_loss_type == "dual_clip" and algorithm.clip_ratio_c <= 1:
        yield FieldError(
            f"{_ALGORITHM}.clip_ratio_c",
            ErrorCode.OUT_OF_RANGE,
            f"{algorithm.clip_ratio_c:g} is not above 1, and policy_loss_type dual_clip needs that; 3 is usual",
        )
    yield from _temperature(algorithm, generator.sampling_params.temperature)


def _temperature(algorithm: AlgorithmConfig, sampling: float) -> Iterator[FieldError]:
    if sampling == 0:
        yield FieldError(
            f"{_GENERATOR}.sampling_params.temperature",
            ErrorCode.OUT_OF_RANGE,
            "0 makes all responses to a prompt the same, so there is nothing to learn from; use more than 0, such as 1",
        )
    if algorithm.temperature == 0:
        yield FieldError(
            f"{_ALGORITHM}.temperature",
            ErrorCode.OUT_OF_RANGE,
            f"logits cannot be divided by 0; leave it unset to use generator.sampling_params.temperature {sampling:g}",
        )


def _reference_placement(config: SkyRLTrainConfig) -> Iterator[FieldError]:
    placement = config.trainer.placement
    if not (placement.colocate_policy_ref and config.trainer.algorithm.use_kl_loss):
        return
    for policy_field, policy, ref_field, ref in (
        ("policy_num_nodes", placement.policy_num_nodes, "ref_num_nodes", placement.ref_num_nodes),
        (
            "policy_num_gpus_per_node",
            placement.policy_num_gpus_per_node,
            "ref_num_gpus_per_node",
            placement.ref_num_gpus_per_node,
        ),
    ):
        if policy != ref:
            yield FieldError(
                f"{_TRAINER}.placement.{ref_field}",
                ErrorCode.CONFLICT,
                f"{ref} differs from {policy_field} {policy}, and with use_kl_loss the reference model is on the "
                f"policy's GPUs; set it to {policy}, or set algorithm.use_kl_loss to false",
            )


def _resuming(config: SkyRLTrainConfig) -> Iterator[FieldError]:
    mode, path = config.trainer.resume_mode, config.trainer.resume_path
    where = f"{_TRAINER}.resume_path"
    if mode != "from_path":
        if path is not None:
            yield FieldError(
                where,
                ErrorCode.CONFLICT,
                f"{path!r} would be ignored, because resume_mode is {mode or 'null'}; set resume_mode to from_path, or "
                "remove resume_path",
            )
    elif path is None:
        yield FieldError(
            where, ErrorCode.REQUIRED, "is unset, and resume_mode is from_path; set it to a directory global_step_N"
        )
    elif "global_step_" not in posixpath.basename(path.rstrip("/")):
        yield FieldError(
            where, ErrorCode.INVALID, f"{path!r} is not the directory of one checkpoint; let it end in global_step_N"
        )
