"""Evaluations: the validation rows answered with the current weights, in batches, scored by data source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rltrain_api.config import SkyRLTrainConfig
from rltrain_trainer.data.rows import PromptRow
from rltrain_trainer.driver.dumps import Dumps
from rltrain_trainer.driver.sampling import Generator
from rltrain_trainer.rollout.metrics import evaluation_metrics, source_of
from rltrain_trainer.rollout.seeds import derived_seed
from rltrain_trainer.rollout.trajectory import Trajectory
from rltrain_trainer.tracking.stopwatch import Stopwatch


@dataclass(frozen=True)
class Evaluation:
    """What is asked of the model, and how often."""

    config: SkyRLTrainConfig
    rows: Sequence[PromptRow]
    generator: Generator
    dumps: Dumps

    def is_due(self, step: int, *, last: bool) -> bool:
        """Whether there is an evaluation after so many steps."""
        interval = self.config.trainer.eval_interval
        return interval > 0 and (last or step % interval == 0)

    async def run(self, step: int, stopwatch: Stopwatch) -> dict[str, float]:
        """Answer all rows with the weights after `step` steps; `eval/*` by data source and over all."""
        trainer, generator = self.config.trainer, self.config.generator
        assert generator.eval_sampling_params is not None, "resolve() sets eval_sampling_params"
        samples = generator.eval_n_samples_per_prompt
        trajectories: list[Trajectory] = []
        with stopwatch.timed("eval"):
            for start in range(0, len(self.rows), trainer.eval_batch_size):
                rows = self.rows[start : start + trainer.eval_batch_size]
                trajectories += await self.generator.generate(
                    rows,
                    sampling=generator.eval_sampling_params,
                    samples_per_prompt=samples,
                    seed=derived_seed(trainer.seed, "eval", step),
                )
            sources = {row.uid: source_of(row) for row in self.rows}
            metrics = evaluation_metrics(trajectories, samples_per_prompt=samples, data_sources=sources)
        if trainer.dump_eval_results:
            with stopwatch.timed("dump_eval_results"):
                await self.dumps.evaluation(step, self.rows, trajectories, metrics)
        return metrics
