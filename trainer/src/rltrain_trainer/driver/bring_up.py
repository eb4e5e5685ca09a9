"""From a run document to a loop that can start: ranks, engines, data, checkpoint, weight group.

Engines and ranks start side by side: both load a model, and neither needs the other until the first weights.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from rltrain_api.config import SamplingParams, SkyRLTrainConfig
from rltrain_api.wire import RunDocument
from rltrain_trainer.data.rows import PromptLoader, PromptRow, filter_by_length, load_rows
from rltrain_trainer.driver.checkpoints import Resume, RunCheckpoints
from rltrain_trainer.driver.engine_hosts import start_engines
from rltrain_trainer.driver.failures import DriverFailureError
from rltrain_trainer.driver.ranks import RankGroup
from rltrain_trainer.driver.training import TrainingLoop
from rltrain_trainer.engines.fleet import Fleet
from rltrain_trainer.engines.http_engine import HttpEngine
from rltrain_trainer.engines.sync import admit_during, sync_weights
from rltrain_trainer.models.load import load_tokenizer
from rltrain_trainer.rollout.agent_loop import RolloutGenerator
from rltrain_trainer.rollout.trajectory import Trajectory
from rltrain_trainer.tracking.run_state import RunState

log = logging.getLogger(__name__)

PLACEMENT_SECONDS = 180.0
ENGINE_START_SECONDS = 600.0


@dataclass
class Run:
    """A loop that is ready to start, and what must be closed after it."""

    loop: TrainingLoop
    fleet: Fleet
    engine_hosts: Sequence[Any]

    async def train(self) -> None:
        """Run the loop while engines are probed, then stop them; ranks end with the driver's Ray job."""
        self.fleet.start()
        try:
            await self.loop.run()
        finally:
            await self.fleet.close()
        stops = await asyncio.gather(*(host.stop.remote() for host in self.engine_hosts), return_exceptions=True)
        for error in stops:
            if isinstance(error, BaseException):
                log.warning("an engine could not be stopped, its pod is gone: %s", error)


@dataclass(frozen=True)
class AdmittingGenerator:
    """Rollouts during which engines that come back are let in."""

    generator: RolloutGenerator
    fleet: Fleet
    ranks: RankGroup

    async def generate(
        self, rows: Sequence[PromptRow], *, sampling: SamplingParams, samples_per_prompt: int
    ) -> list[Trajectory]:
        """See `training.Generator`."""
        rollouts = self.generator.generate(rows, sampling=sampling, samples_per_prompt=samples_per_prompt)
        return await admit_during(self.fleet, self.ranks, rollouts)


@dataclass(frozen=True)
class Data:
    """The rows of a run."""

    training: PromptLoader
    evaluation: list[PromptRow]


def load_data(config: SkyRLTrainConfig, tokenizer: Any) -> Data:
    """Read, check and filter the datasets; raises ValueError naming file and row."""
    trainer = config.trainer
    default = config.environment.env_class
    training = filter_by_length(
        load_rows(config.data.train_data, default_env_class=default), tokenizer, trainer.max_prompt_length
    )
    if len(training) < trainer.train_batch_size:
        raise ValueError(
            f"data.train_data: {len(training)} prompts of at most {trainer.max_prompt_length} tokens are fewer than "
            f"trainer.train_batch_size = {trainer.train_batch_size}; add rows, raise trainer.max_prompt_length or "
            "lower the batch size"
        )
    evaluation = load_rows(config.data.val_data, default_env_class=default)
    return Data(
        training=PromptLoader(training, trainer.train_batch_size, trainer.seed),
        evaluation=filter_by_length(evaluation, tokenizer, trainer.max_prompt_length),
    )


async def wait_for_resources(config: SkyRLTrainConfig) -> None:
    """Wait until Ray offers what the ranks and engines will take."""
    placement = config.trainer.placement
    engine = config.generator.inference_engine
    per_engine = engine.tensor_parallel_size * engine.pipeline_parallel_size * engine.data_parallel_size
    wanted = {
        "trainer": placement.policy_num_nodes * placement.policy_num_gpus_per_node,
        "inference": engine.num_engines * per_engine,
    }
    offered: dict[str, float] = {}
    try:
        async with asyncio.timeout(PLACEMENT_SECONDS):
            while True:
                offered = await asyncio.to_thread(ray.cluster_resources)
                if all(offered.get(name, 0) >= count for name, count in wanted.items()):
                    return
                await asyncio.sleep(1)
    except TimeoutError as error:
        raise DriverFailureError(
            "NotEnoughGPUs",
            f"waited {PLACEMENT_SECONDS:.0f} s for GPUs by pool: wanted {wanted}, Ray offers "
            f"{ {name: offered.get(name, 0) for name in wanted} }",
            remedy="check that all trainer and inference pods are Ready",
        ) from error


async def bring_up(document: RunDocument, config: SkyRLTrainConfig, state: RunState) -> Run:
    """Start everything that the loop needs, in parallel where nothing forbids it."""
    state.message = "reading data"
    model_path = config.trainer.policy.model.path
    assert model_path is not None, "validate() demands a model"
    tokenizer = await asyncio.to_thread(load_tokenizer, model_path)
    data = await asyncio.to_thread(load_data, config, tokenizer)
    state.total_steps = data.training.steps_per_epoch * config.trainer.epochs
    checkpoints = RunCheckpoints(config, document)
    resume = await asyncio.to_thread(checkpoints.find_resume)

    state.message = "waiting for Ray's nodes"
    await wait_for_resources(config)
    state.message = "starting ranks and engines"
    group, (hosts, urls) = await asyncio.gather(
        start_ranks(config, state.total_steps, resume),
        start_engines(config, deadline_seconds=ENGINE_START_SECONDS),
    )
    if resume is not None:
        data.training.load_state_dict(resume.loader)
        state.restore(resume.history, step=resume.checkpoint.step)
        state.checkpoint = resume.checkpoint
        state.epoch = data.training.epoch
        log.info("resuming from step %d (%s)", resume.checkpoint.step, resume.checkpoint.path)
    fleet = Fleet([HttpEngine(f"engine-{index}", url) for index, url in enumerate(urls)])
    state.watch_engines(fleet.engine_statuses)

    async def publish_weights(version: int) -> None:
        report = await sync_weights(fleet, group, version)
        state.metrics.update(report.metrics())

    loop = TrainingLoop(
        config=config,
        state=state,
        policy=group,
        generator=AdmittingGenerator(RolloutGenerator(fleet, tokenizer, config), fleet, group),
        publish_weights=publish_weights,
        loader=data.training,
        evaluation_rows=data.evaluation,
        checkpoints=checkpoints,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Run(loop=loop, fleet=fleet, engine_hosts=hosts)


async def start_ranks(config: SkyRLTrainConfig, total_steps: int, resume: Resume | None) -> RankGroup:
    """Place the ranks and load model and checkpoint into them."""
    group = await RankGroup.start(config, deadline_seconds=PLACEMENT_SECONDS)
    await group.load(total_steps, None if resume is None else Path(resume.checkpoint.path))
    return group
