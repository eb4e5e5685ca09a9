"""How batch sizes must fit each other and the GPUs: SkyRL's `validate_batch_sizes`, for FSDP.

With T = train_batch_size, B = policy_mini_batch_size (both in prompts), n = n_samples_per_prompt, m =
micro_train_batch_size_per_gpu (in sequences) and D = data-parallel GPUs of the policy: T is a multiple of B, every GPU
gets the same number of sequences of a mini-batch, and m divides that number. SkyRL rounds down where sequences do not
divide among GPUs and fails later; here that is an error.
"""

from __future__ import annotations

from collections.abc import Iterator

from rltrain_api.errors import ErrorCode, FieldError
from rltrain_api.job import RLTrainingJob

_TRAINER = "spec.config.trainer"


def check_batch_sizes(job: RLTrainingJob) -> Iterator[FieldError]:
    """Errors of batch sizes; a later one is not reported where an earlier one is its cause."""
    yield from _prompts(job)
    yield from _sequences(job)


def _prompts(job: RLTrainingJob) -> Iterator[FieldError]:
    trainer = job.spec.config.trainer
    train, mini = trainer.train_batch_size, trainer.policy_mini_batch_size
    if train % mini == 0:
        return
    if train < mini:
        remedy = f"raise it to {mini}, or lower policy_mini_batch_size"
        yield FieldError(
            f"{_TRAINER}.train_batch_size",
            ErrorCode.OUT_OF_RANGE,
            f"{train} prompts are fewer than the {mini} of policy_mini_batch_size; {remedy}",
        )
        return
    lower = train // mini * mini
    yield FieldError(
        f"{_TRAINER}.train_batch_size",
        ErrorCode.NOT_DIVISIBLE,
        f"{train} prompts are not a multiple of policy_mini_batch_size {mini}; use {lower} or {lower + mini}",
    )


def _sequences(job: RLTrainingJob) -> Iterator[FieldError]:
    trainer, samples = job.spec.config.trainer, job.spec.config.generator.n_samples_per_prompt
    gpus = trainer.placement.policy_num_nodes * trainer.placement.policy_num_gpus_per_node
    sequence_parallel = trainer.policy.sequence_parallel_size
    if gpus % sequence_parallel != 0:
        yield FieldError(
            f"{_TRAINER}.policy.sequence_parallel_size",
            ErrorCode.NOT_DIVISIBLE,
            f"{sequence_parallel} GPUs for each sequence do not divide the policy's {gpus} GPUs; use a divisor of "
            f"{gpus}",
        )
        return
    data_parallel = gpus // sequence_parallel
    mini = trainer.policy_mini_batch_size
    sequences = mini * samples
    what = f"a mini-batch of {mini} prompts with {samples} responses each has {sequences} sequences"
    if sequences % data_parallel != 0:
        yield FieldError(
            f"{_TRAINER}.policy_mini_batch_size",
            ErrorCode.NOT_DIVISIBLE,
            f"{what}, which do not divide among {data_parallel} data-parallel GPUs; make policy_mini_batch_size times "
            f"generator.n_samples_per_prompt a multiple of {data_parallel}",
        )
        return
    share, micro = sequences // data_parallel, trainer.micro_train_batch_size_per_gpu
    if share % micro != 0:
        yield FieldError(
            f"{_TRAINER}.micro_train_batch_size_per_gpu",
            ErrorCode.NOT_DIVISIBLE,
            f"{micro} sequences do not divide a GPU's share: {what}, {share} on each of {data_parallel} data-parallel "
            f"GPUs; use a divisor of {share}",
        )
