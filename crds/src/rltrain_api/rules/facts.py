"""What the rules ask of a job again and again, worked out once: which trainer, which models, how many GPUs.

Numbers follow SkyRL's own arithmetic (`validate_batch_sizes`). This module judges nothing: where a number cannot be
had, it is None, and the rule that names the cause is another one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

from rltrain_api.config import (
    AlgorithmConfig,
    FSDPConfig,
    GeneratorConfig,
    InferenceEngineConfig,
    MegatronConfig,
    PlacementConfig,
    SkyRLTrainConfig,
    TrainerConfig,
)
from rltrain_api.env import pod_environment
from rltrain_api.errors import ErrorCode, FieldError
from rltrain_api.job import RLTrainingJob, Spec


@dataclass(frozen=True, slots=True)
class Model:
    """One of the models that are spread over GPUs, by the name of its section in `trainer`."""

    name: str
    gpus: int
    sequence_parallel_size: int
    fsdp: FSDPConfig
    megatron: MegatronConfig | None  # the critic has no Megatron form

    @property
    def owner(self) -> str:
        """Whose GPUs they are, in words."""
        return {"policy": "the policy's", "ref": "the reference model's", "critic": "the critic's"}[self.name]


@dataclass(frozen=True)
class Facts:
    """One job and what follows from it."""

    job: RLTrainingJob

    @property
    def spec(self) -> Spec:
        """The job's spec."""
        return self.job.spec

    @property
    def config(self) -> SkyRLTrainConfig:
        """SkyRL's tree, overrides applied."""
        return self.job.spec.config

    @property
    def trainer(self) -> TrainerConfig:
        """The trainer section."""
        return self.job.spec.config.trainer

    @property
    def algorithm(self) -> AlgorithmConfig:
        """The algorithm section."""
        return self.job.spec.config.trainer.algorithm

    @property
    def placement(self) -> PlacementConfig:
        """The placement section."""
        return self.job.spec.config.trainer.placement

    @property
    def generator(self) -> GeneratorConfig:
        """The generator section."""
        return self.job.spec.config.generator

    @property
    def engine(self) -> InferenceEngineConfig:
        """The inference_engine section."""
        return self.job.spec.config.generator.inference_engine

    @property
    def runs_upstream(self) -> bool:
        """Whether upstream SkyRL's trainer runs, not RLTrain's own."""
        return self.job.spec.runtime.trainer == "skyrl"

    @property
    def megatron(self) -> bool:
        """Whether upstream's trainer spreads models with Megatron."""
        return self.runs_upstream and self.trainer.strategy == "megatron"

    @property
    def needs_reference(self) -> bool:
        """Whether a reference model is loaded."""
        return self.algorithm.use_kl_loss or self.algorithm.use_kl_in_reward

    @property
    def has_critic(self) -> bool:
        """Whether a critic is loaded."""
        return bool(self.trainer.critic.model.path)

    @property
    def in_one_pod(self) -> bool:
        """Whether ranks and engines are all in a single pod: everything colocated, on one node."""
        return self.placement.colocate_all and self.placement.policy_num_nodes == 1

    @property
    def gpus_per_engine(self) -> int:
        """GPUs of one engine: tensor times pipeline times data parallel."""
        engine = self.engine
        return engine.tensor_parallel_size * engine.pipeline_parallel_size * engine.data_parallel_size

    @cached_property
    def policy(self) -> Model:
        """The model that is trained."""
        policy, placement = self.trainer.policy, self.placement
        return Model(
            "policy",
            placement.policy_num_nodes * placement.policy_num_gpus_per_node,
            policy.sequence_parallel_size,
            policy.fsdp_config,
            policy.megatron_config,
        )

    @cached_property
    def reference(self) -> Model | None:
        """The reference model, where one is loaded."""
        if not self.needs_reference:
            return None
        reference, placement = self.trainer.ref, self.placement
        return Model(
            "ref",
            placement.ref_num_nodes * placement.ref_num_gpus_per_node,
            reference.sequence_parallel_size,
            reference.fsdp_config,
            reference.megatron_config,
        )

    @cached_property
    def critic(self) -> Model | None:
        """The critic, where one is loaded."""
        if not self.has_critic:
            return None
        critic, placement = self.trainer.critic, self.placement
        return Model(
            "critic",
            placement.critic_num_nodes * placement.critic_num_gpus_per_node,
            critic.sequence_parallel_size,
            critic.fsdp_config,
            None,
        )

    @cached_property
    def models(self) -> tuple[Model, ...]:
        """All models that are spread over GPUs."""
        return tuple(model for model in (self.policy, self.reference, self.critic) if model is not None)

    def gpus_per_copy(self, model: Model) -> int:
        """GPUs that together work on one sequence."""
        if self.megatron and model.megatron is not None:
            megatron = model.megatron
            return (
                megatron.tensor_model_parallel_size
                * megatron.pipeline_model_parallel_size
                * megatron.context_parallel_size
            )
        return model.sequence_parallel_size

    def data_parallel(self, model: Model) -> int | None:
        """Number of groups of GPUs that get different sequences; None where the GPUs cannot be dealt out evenly."""
        gpus = self.gpus_per_copy(model)
        return model.gpus // gpus if model.gpus % gpus == 0 else None

    @cached_property
    def environment(self) -> dict[str, str]:
        """The variables of every pod as far as the job says them: preset, derived ones, runtime.env."""
        return dict(pod_environment(self.job))

    def variable(self, name: str) -> str:
        """The value of a variable in every pod; empty where the job sets none, or lets it come from envFrom."""
        return self.environment.get(name, "")


Rule = Callable[[Facts], Iterator[FieldError]]


def in_config(path: str, code: ErrorCode, message: str) -> FieldError:
    """An error at a field of SkyRL's tree, `path` being the field's own dotted path in it."""
    return FieldError(f"spec.config.{path}", code, message)
