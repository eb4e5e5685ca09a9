"""How many engines a job has, and whether that number can change while it runs.

An engine can come and go by itself where each has its own pods, RLTrain's own driver runs it, and nobody has given the
cluster a fixed size. Elsewhere another number of engines is another cluster.
"""

from __future__ import annotations

from rltrain_api.job import RLTrainingJob
from rltrain_api.rules.facts import Facts
from rltrain_api.sizing.pools import engines_have_pods
from rltrain_operator.plan.queueing import waits_for_kueue


def engines_of(job: RLTrainingJob) -> int:
    """The number of engines that the spec asks for."""
    return job.spec.config.generator.inference_engine.num_engines


def with_engines(job: RLTrainingJob, count: int) -> RLTrainingJob:
    """The same job with another number of engines."""
    generator = job.spec.config.generator
    engine = generator.inference_engine.model_copy(update={"num_engines": count})
    config = job.spec.config.model_copy(update={"generator": generator.model_copy(update={"inference_engine": engine})})
    return job.model_copy(update={"spec": job.spec.model_copy(update={"config": config})})


def fixed_engines(job: RLTrainingJob) -> str | None:
    """Why the number of a valid job's engines cannot change while it runs; None where it can."""
    facts = Facts(job)
    if facts.runs_upstream:
        return "SkyRL's trainer takes its engines once, at its start"
    if facts.placement.colocate_all:
        return "with trainer.placement.colocate_all the engines are on the GPUs that train"
    if not engines_have_pods(facts):
        return "the job's engines run elsewhere"
    if waits_for_kueue(job):
        return "Kueue has admitted the cluster in its present size, and would stop one that changes it"
    return None
