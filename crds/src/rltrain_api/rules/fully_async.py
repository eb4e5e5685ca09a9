"""Fully asynchronous training: generation workers that run ahead of the trainer, bounded by staleness.

SkyRL 0.1 has no field that turns it on: another entry point does. What says so here is `trainer.fully_async`: a value
in it that differs from SkyRL's default. The defaults themselves say nothing, because a resolved configuration of a
synchronous run holds them too. All of it concerns upstream's trainer.
"""

from __future__ import annotations

from collections.abc import Iterator

from rltrain_api.config import FullyAsyncConfig, SkyRLTrainConfig
from rltrain_api.errors import ErrorCode, FieldError
from rltrain_api.rules.facts import Facts, Rule, in_config
from rltrain_api.rules.wording import told

_WORKERS = "trainer.fully_async.num_parallel_generation_workers"
_SYNCHRONOUS = FullyAsyncConfig()


def asks_for_fully_async(config: SkyRLTrainConfig) -> bool:
    """Whether a fully asynchronous run is meant: something in trainer.fully_async differs from SkyRL's default."""
    return config.trainer.fully_async != _SYNCHRONOUS


def workers_fit_the_window(facts: Facts) -> Iterator[FieldError]:
    """Workers are at least a mini-batch of prompts and at most max_staleness_steps plus 1 of them.

    SkyRL: 2.7, the constructor of its fully asynchronous trainer.
    """
    if not asks_for_fully_async(facts.config):
        return
    section, mini = facts.trainer.fully_async, facts.trainer.policy_mini_batch_size
    workers, most = section.num_parallel_generation_workers, mini * (section.max_staleness_steps + 1)
    if workers < mini:
        yield in_config(
            _WORKERS,
            ErrorCode.OUT_OF_RANGE,
            f"{workers} workers cannot keep up with mini-batches of policy_mini_batch_size {mini} prompts; use {mini} "
            f"to {most}",
        )
    elif workers > most:
        yield in_config(
            _WORKERS,
            ErrorCode.OUT_OF_RANGE,
            f"{workers} workers are more than policy_mini_batch_size {mini} times (max_staleness_steps "
            f"{section.max_staleness_steps} + 1) = {most} groups that may be under way; use {mini} to {most}, or allow "
            "more staleness",
        )


def every_batch_is_one_step(facts: Facts) -> Iterator[FieldError]:
    """train_batch_size equals policy_mini_batch_size. SkyRL: 2.7, its fully asynchronous trainer."""
    trainer = facts.trainer
    train, mini = trainer.train_batch_size, trainer.policy_mini_batch_size
    # One that is no multiple is another rule's business.
    if asks_for_fully_async(facts.config) and train != mini and train % mini == 0:
        yield in_config(
            "trainer.train_batch_size",
            ErrorCode.CONFLICT,
            f"{train} differs from policy_mini_batch_size {mini}, and fully asynchronous training, which "
            f"trainer.fully_async asks for, takes one optimiser step per batch; set it to {mini}",
        )


def groups_come_one_by_one(facts: Facts) -> Iterator[FieldError]:
    """No colocate_all, batched, offline engines or dynamic sampling. SkyRL: 2.7, its fully asynchronous trainer."""
    if not asks_for_fully_async(facts.config):
        return
    generator, engine, sampling = facts.generator, facts.engine, facts.algorithm.dynamic_sampling
    for path, section, clashes, remedy in (
        ("trainer.placement.colocate_all", facts.placement, facts.placement.colocate_all, "false"),
        ("generator.batched", generator, generator.batched, "false"),
        # An offline engine that takes no batches is another rule's business.
        (
            "generator.inference_engine.async_engine",
            engine,
            not engine.async_engine and generator.batched,
            "true",
        ),
        ("trainer.algorithm.dynamic_sampling.type", sampling, sampling.type is not None, "null"),
    ):
        if clashes:
            yield in_config(
                path,
                ErrorCode.CONFLICT,
                f"{told(section, path.rpartition('.')[2])}, which is not to be had with fully asynchronous training, "
                f"and trainer.fully_async asks for that; set it to {remedy}, or remove trainer.fully_async",
            )


RULES: tuple[Rule, ...] = ()
SKYRL_RULES: tuple[Rule, ...] = (workers_fit_the_window, every_batch_is_one_step, groups_come_one_by_one)
