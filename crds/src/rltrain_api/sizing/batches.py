"""How a training batch is divided: prompts, sequences, mini-batches, GPUs, micro-batches; and how many steps there are.

Exact for a valid job: SkyRL's arithmetic (`validate_batch_sizes`) with every division even. Must not know memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from rltrain_api.rules.facts import Facts, Model


@dataclass(frozen=True, slots=True)
class UpdateBatches:
    """How one trained model works through a training batch."""

    model: str  # policy | critic
    data_parallel: int  # groups of GPUs that get different sequences
    mini_batch_prompts: int
    optimizer_steps: int  # of one training step
    sequences_per_mini_batch: int  # on each data-parallel group
    micro_batch_sequences: int
    micro_batches: int  # of one mini-batch, on each data-parallel group


@dataclass(frozen=True, slots=True)
class Batches:
    """One training step."""

    prompts: int
    samples: int  # responses to each prompt
    longest_sequence: int  # tokens, prompt and response
    updates: tuple[UpdateBatches, ...]
    forward_sequences: int  # in one forward pass without gradients on one GPU
    forward_passes: int  # of those on each of the policy's data-parallel groups

    @property
    def sequences(self) -> int:
        """Sequences of one training step."""
        return self.prompts * self.samples


@dataclass(frozen=True, slots=True)
class Steps:
    """The whole run."""

    rows: int
    per_epoch: int
    epochs: int
    evaluations: int
    checkpoints: int

    @property
    def total(self) -> int:
        """Training steps of the run."""
        return self.per_epoch * self.epochs


def longest_sequence(facts: Facts) -> int:
    """Tokens of the longest sequence that can come about: the longest input and one response of full length."""
    given = facts.generator.max_input_length
    longest_input = facts.trainer.max_prompt_length if given is None else given
    return longest_input + facts.generator.sampling_params.max_generate_length


def plan_batches(facts: Facts) -> Batches:
    """The batches of a valid job."""
    trainer = facts.trainer
    updates = [_update(facts, facts.policy, trainer.policy_mini_batch_size)]
    if facts.critic is not None:
        updates.append(_update(facts, facts.critic, trainer.critic_mini_batch_size))
    sequences = trainer.train_batch_size * facts.generator.n_samples_per_prompt
    return Batches(
        prompts=trainer.train_batch_size,
        samples=facts.generator.n_samples_per_prompt,
        longest_sequence=longest_sequence(facts),
        updates=tuple(updates),
        forward_sequences=trainer.micro_forward_batch_size_per_gpu,
        forward_passes=_divided(
            _divided(sequences, updates[0].data_parallel), trainer.micro_forward_batch_size_per_gpu
        ),
    )


def plan_steps(facts: Facts, rows: int) -> Steps:
    """The steps that `rows` prompts give: what does not fill a batch is left out, in each epoch another tail.

    Evaluations and checkpoints are those that are due by interval, and after the last step.
    """
    trainer = facts.trainer
    per_epoch = rows // trainer.train_batch_size
    total = per_epoch * trainer.epochs
    evaluations = int(trainer.eval_before_train)
    if trainer.eval_interval > 0:
        evaluations += _divided(total, trainer.eval_interval)
    checkpoints = _divided(total, trainer.ckpt_interval) if trainer.ckpt_interval > 0 else min(total, 1)
    return Steps(rows, per_epoch, trainer.epochs, evaluations, checkpoints)


def _update(facts: Facts, model: Model, mini_batch_prompts: int) -> UpdateBatches:
    data_parallel = facts.data_parallel(model)
    assert data_parallel is not None, "a valid job's GPUs can be dealt out"
    trainer = facts.trainer
    share = _divided(mini_batch_prompts * facts.generator.n_samples_per_prompt, data_parallel)
    return UpdateBatches(
        model=model.name,
        data_parallel=data_parallel,
        mini_batch_prompts=mini_batch_prompts,
        optimizer_steps=trainer.update_epochs_per_batch * _divided(trainer.train_batch_size, mini_batch_prompts),
        sequences_per_mini_batch=share,
        micro_batch_sequences=min(trainer.micro_train_batch_size_per_gpu, share),
        micro_batches=_divided(share, trainer.micro_train_batch_size_per_gpu),
    )


def _divided(number: int, by: int) -> int:
    """The quotient, rounded up."""
    return -(-number // by)
