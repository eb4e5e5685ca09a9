"""From a run document to a loop that can start: ranks, engines, data, checkpoint, weight group.

Engines and ranks start side by side: both load a model, and neither needs the other until the first weights.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import ray

from rltrain_api.config import SamplingParams, SkyRLTrainConfig
from rltrain_api.fetching import scheme_of
from rltrain_api.wire import RunDocument
from rltrain_trainer.algorithms.kl import KLController
from rltrain_trainer.data.rows import PromptRow
from rltrain_trainer.driver.checkpoints import Resume, RunCheckpoints
from rltrain_trainer.driver.datasets import load_datasets
from rltrain_trainer.driver.dumps import Dumps
from rltrain_trainer.driver.engine_hosts import start_engine, start_engines
from rltrain_trainer.driver.evaluation import Evaluation
from rltrain_trainer.driver.failures import DriverFailureError
from rltrain_trainer.driver.rank_pools import rank_pools
from rltrain_trainer.driver.ranks import RankGroup
from rltrain_trainer.driver.training import TrainingLoop
from rltrain_trainer.driver.variables import PLACEMENT, WEIGHT_SYNC, Variables
from rltrain_trainer.engines.fleet import Fleet
from rltrain_trainer.engines.http_engine import HttpEngine
from rltrain_trainer.engines.keeper import EngineKeeper
from rltrain_trainer.engines.sync import admit_during, sync_weights
from rltrain_trainer.models.load import load_tokenizer
from rltrain_trainer.rollout.agent_loop import RolloutGenerator
from rltrain_trainer.rollout.templates import named_template
from rltrain_trainer.rollout.trajectory import Trajectory
from rltrain_trainer.tracking.backends import RunDescription
from rltrain_trainer.tracking.run_state import RunState
from rltrain_trainer.tracking.trackers import Trackers

log = logging.getLogger(__name__)


@dataclass
class Run:
    """A loop that is ready to start, and what must be closed after it."""

    loop: TrainingLoop
    fleet: Fleet
    keeper: EngineKeeper

    async def train(self) -> None:
        """Run the loop while engines are probed and kept, then stop them; ranks end with the driver's Ray job."""
        self.fleet.start()
        keeping = asyncio.create_task(self.keeper.run(), name="engine keeper")
        try:
            await self.loop.run()
        finally:
            keeping.cancel()
            await asyncio.wait({keeping})
            await self.fleet.close()
        await self.keeper.close()


@dataclass(frozen=True)
class AdmittingGenerator:
    """Rollouts during which engines that come back are let in."""

    generator: RolloutGenerator
    fleet: Fleet
    ranks: RankGroup

    async def generate(
        self, rows: Sequence[PromptRow], *, sampling: SamplingParams, samples_per_prompt: int, seed: int
    ) -> list[Trajectory]:
        """See `sampling.Generator`."""
        rollouts = self.generator.generate(rows, sampling=sampling, samples_per_prompt=samples_per_prompt, seed=seed)
        return await admit_during(self.fleet, self.ranks, rollouts)


async def wait_for_resources(config: SkyRLTrainConfig, seconds: float) -> None:
    """Wait until Ray offers what the ranks and engines will take, `seconds` at most."""
    engine = config.generator.inference_engine
    per_engine = engine.tensor_parallel_size * engine.pipeline_parallel_size * engine.data_parallel_size
    wanted = {pool.resource: pool.ranks for pool in rank_pools(config)} | {"inference": engine.num_engines * per_engine}
    offered: dict[str, float] = {}
    try:
        async with asyncio.timeout(seconds):
            while True:
                offered = await asyncio.to_thread(ray.cluster_resources)
                if all(offered.get(name, 0) >= count for name, count in wanted.items()):
                    return
                await asyncio.sleep(1)
    except TimeoutError as error:
        raise DriverFailureError(
            "NotEnoughGPUs",
            f"waited {seconds:.0f} s ({PLACEMENT}) for GPUs by pool: wanted {wanted}, Ray offers "
            f"{ {name: offered.get(name, 0) for name in wanted} }",
            remedy="check that all trainer and inference pods are Ready",
        ) from error


async def bring_up(document: RunDocument, config: SkyRLTrainConfig, state: RunState, variables: Variables) -> Run:
    """Start everything that the loop needs, in parallel where nothing forbids it."""
    if state.engines_wanted is None:
        state.want_engines(config.generator.inference_engine.num_engines)
    state.message = "reading data"
    model_path = config.trainer.policy.model.path
    assert model_path is not None, "validate() demands a model"
    template = config.generator.chat_template
    own_template = None if named_template(template) else template
    tokenizer = await asyncio.to_thread(load_tokenizer, model_path, own_template)
    data = await asyncio.to_thread(load_datasets, config, tokenizer)
    state.total_steps = data.training.steps_per_epoch * config.trainer.epochs
    checkpoints = RunCheckpoints(config, document)
    resume = await asyncio.to_thread(checkpoints.find_resume)

    state.message = "waiting for Ray's nodes"
    await wait_for_resources(config, variables.placement_seconds)
    state.message = "starting ranks and engines"
    group, engines = await asyncio.gather(
        start_ranks(config, state.total_steps, resume, document.modules, variables.placement_seconds),
        start_engines(config, deadline_seconds=variables.engine_start_seconds),
    )
    fleet = Fleet([])
    keeper = EngineKeeper(
        fleet,
        engines,
        start=partial(start_engine, config, deadline_seconds=variables.engine_start_seconds),
        connect=HttpEngine,
    )
    state.watch_engines(keeper.statuses)
    state.keep_engines(keeper.want)

    async def publish_weights(version: int) -> dict[str, float]:
        try:
            async with asyncio.timeout(variables.weight_sync_seconds):
                return (await sync_weights(fleet, group, version)).metrics()
        except TimeoutError as error:
            raise TimeoutError(
                f"the weights of step {version} were not with the engines within {variables.weight_sync_seconds:g} s "
                f"({WEIGHT_SYNC})"
            ) from error

    generator = AdmittingGenerator(RolloutGenerator(fleet, tokenizer, config), fleet, group)
    dumps = Dumps(config.trainer.export_path, lambda ids: str(tokenizer.decode(list(ids))))
    loop = TrainingLoop(
        config=config,
        state=state,
        policy=group,
        generator=generator,
        publish_weights=publish_weights,
        loader=data.training,
        evaluation=Evaluation(config, data.evaluation, generator, dumps),
        checkpoints=checkpoints,
        trackers=start_trackers(document, config, resume),
        dumps=dumps,
        controller=KLController.of(config.trainer.algorithm),
        pad_token_id=tokenizer.pad_token_id,
    )
    if resume is not None:
        loop.resume(resume)
        log.info("resuming from step %d (%s)", resume.checkpoint.step, resume.checkpoint.path)
    return Run(loop=loop, fleet=fleet, keeper=keeper)


def start_trackers(document: RunDocument, config: SkyRLTrainConfig, resume: Resume | None) -> Trackers:
    """The trackers of trainer.logger; those that write files do it beside the checkpoints, or the logs."""
    ckpt_path = config.trainer.ckpt_path
    run = RunDescription(
        project=config.trainer.project_name,
        name=config.trainer.run_name,
        config=document.config,
        directory=Path(config.trainer.log_path if scheme_of(ckpt_path) else ckpt_path).expanduser() / "trackers",
    )
    return Trackers(config.trainer.loggers, run, run_ids=None if resume is None else resume.loop_state["trackers"])


async def start_ranks(
    config: SkyRLTrainConfig, total_steps: int, resume: Resume | None, modules: Sequence[str], seconds: float
) -> RankGroup:
    """Place the ranks and load model and checkpoint into them."""
    group = await RankGroup.start(config, deadline_seconds=seconds, modules=modules)
    await group.load(total_steps, None if resume is None else resume.content)
    return group
