"""How batch sizes must fit each other and the GPUs: SkyRL's `validate_batch_sizes`.

With T = train_batch_size, B = the mini-batch size (both in prompts), n = n_samples_per_prompt, m =
micro_train_batch_size_per_gpu (in sequences) and D = data-parallel groups of GPUs: T is a multiple of B, every group
gets the same number of sequences of a mini-batch, and m divides that number. SkyRL rounds down where sequences do not
divide among groups, and trains on other mini-batches than were asked for; here that is an error.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from rltrain_api.errors import ErrorCode, FieldError
from rltrain_api.rules.facts import Facts, Model, Rule, in_config
from rltrain_api.rules.wording import counted, said

_BATCH = "trainer.train_batch_size"


def policy_mini_batches_fill_the_batch(facts: Facts) -> Iterator[FieldError]:
    """train_batch_size is a multiple of policy_mini_batch_size. SkyRL: 2.6.1, 2.6.3."""
    yield from _mini_batches_fill_the_batch(facts, "policy", facts.trainer.policy_mini_batch_size)


def critic_mini_batches_fill_the_batch(facts: Facts) -> Iterator[FieldError]:
    """train_batch_size is a multiple of critic_mini_batch_size, where there is a critic. SkyRL: 2.6.1, 2.6.6."""
    if facts.critic is not None:
        yield from _mini_batches_fill_the_batch(facts, "critic", facts.trainer.critic_mini_batch_size)


def _mini_batches_fill_the_batch(facts: Facts, owner: str, mini: int) -> Iterator[FieldError]:
    train = facts.trainer.train_batch_size
    if train % mini == 0:
        return
    prompts = said(facts.trainer, "train_batch_size", "prompt")
    if train < mini:
        yield in_config(
            _BATCH,
            ErrorCode.OUT_OF_RANGE,
            f"{prompts} are fewer than the {mini} of {owner}_mini_batch_size; raise it to {mini}, or lower "
            f"{owner}_mini_batch_size",
        )
        return
    lower = train // mini * mini
    yield in_config(
        _BATCH,
        ErrorCode.NOT_DIVISIBLE,
        f"{prompts} are not a multiple of {owner}_mini_batch_size {mini}; use {lower} or {lower + mini}",
    )


def policy_mini_batch_divides_among_gpus(facts: Facts) -> Iterator[FieldError]:
    """The sequences of a policy mini-batch divide among the data-parallel groups. SkyRL: 2.6.4, 2.6.5, stricter."""
    yield from _mini_batch_divides(facts, facts.policy, facts.trainer.policy_mini_batch_size)


def critic_mini_batch_divides_among_gpus(facts: Facts) -> Iterator[FieldError]:
    """The sequences of a critic mini-batch divide among the data-parallel groups. SkyRL: 2.6.6, stricter."""
    if facts.critic is not None:
        yield from _mini_batch_divides(facts, facts.critic, facts.trainer.critic_mini_batch_size)


def _mini_batch_divides(facts: Facts, model: Model, mini: int) -> Iterator[FieldError]:
    groups, samples = facts.data_parallel(model), facts.generator.n_samples_per_prompt
    if groups is None or mini * samples % groups == 0:
        return
    step = groups // math.gcd(groups, samples)
    yield in_config(
        f"trainer.{model.name}_mini_batch_size",
        ErrorCode.NOT_DIVISIBLE,
        f"{_mini_batch(mini, samples, model)}, which do not divide among {_groups(facts, model, groups)}; use a "
        f"multiple of {step}, or change the number of GPUs or generator.n_samples_per_prompt",
    )


def policy_micro_batches_fill_a_share(facts: Facts) -> Iterator[FieldError]:
    """micro_train_batch_size_per_gpu divides a GPU's share of a policy mini-batch. SkyRL: 2.6.4."""
    yield from _micro_batches_fill_a_share(facts, facts.policy, facts.trainer.policy_mini_batch_size)


def critic_micro_batches_fill_a_share(facts: Facts) -> Iterator[FieldError]:
    """micro_train_batch_size_per_gpu divides a GPU's share of a critic mini-batch. SkyRL: 2.6.6."""
    if facts.critic is not None:
        yield from _micro_batches_fill_a_share(facts, facts.critic, facts.trainer.critic_mini_batch_size)


def _micro_batches_fill_a_share(facts: Facts, model: Model, mini: int) -> Iterator[FieldError]:
    groups, samples = facts.data_parallel(model), facts.generator.n_samples_per_prompt
    if groups is None or mini * samples % groups != 0:
        return
    share, micro = mini * samples // groups, facts.trainer.micro_train_batch_size_per_gpu
    if share % micro == 0:
        return
    yield in_config(
        "trainer.micro_train_batch_size_per_gpu",
        ErrorCode.NOT_DIVISIBLE,
        f"{micro} sequences do not divide a GPU's share: {_mini_batch(mini, samples, model)}, {share} on each of "
        f"{_groups(facts, model, groups)}; use a divisor of {share}",
    )


def batch_divides_among_all_models(facts: Facts) -> Iterator[FieldError]:
    """The sequences of a batch divide among policy and reference alike. SkyRL: 2.6.7, stricter.

    SkyRL asks for at least as many, and leaves out the prompts that do not divide.
    """
    policy, reference = facts.policy, facts.reference
    if reference is None:
        return
    groups, reference_groups = facts.data_parallel(policy), facts.data_parallel(reference)
    if groups is None or reference_groups is None:
        return
    samples, prompts = facts.generator.n_samples_per_prompt, facts.trainer.train_batch_size
    if prompts * samples % reference_groups == 0 or prompts * samples % groups != 0:
        return
    step = reference_groups // math.gcd(reference_groups, samples)
    yield in_config(
        _BATCH,
        ErrorCode.NOT_DIVISIBLE,
        f"{counted(prompts, 'prompt')} with {counted(samples, 'response')} each are {prompts * samples} sequences, "
        f"which do not divide among {_groups(facts, reference, reference_groups)} of the reference model; use a "
        f"multiple of {step}, or as many GPUs for the reference model as for the policy",
    )


def _mini_batch(mini: int, samples: int, model: Model) -> str:
    owner = " of the critic" if model.name == "critic" else ""
    prompts, responses = counted(mini, "prompt"), counted(samples, "response")
    return f"a mini-batch{owner} of {prompts} with {responses} each has {counted(mini * samples, 'sequence')}"


def _groups(facts: Facts, model: Model, groups: int) -> str:
    """The data-parallel groups in words; where a group is more than one GPU, with what they come from."""
    size = facts.gpus_per_copy(model)
    if size == 1:
        return counted(groups, "data-parallel GPU")
    return f"{counted(groups, 'data-parallel group')} ({model.gpus} GPUs, {size} for each sequence)"


RULES: tuple[Rule, ...] = (
    policy_mini_batches_fill_the_batch,
    policy_mini_batch_divides_among_gpus,
    policy_micro_batches_fill_a_share,
    critic_mini_batches_fill_the_batch,
    critic_mini_batch_divides_among_gpus,
    critic_micro_batches_fill_a_share,
)
SKYRL_RULES: tuple[Rule, ...] = (batch_divides_among_all_models,)
