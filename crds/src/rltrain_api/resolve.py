"""Defaults and derivations: from what a person set to what runs.

`resolve` does once, and visibly, what SkyRL does in its constructors: SkyRL derives a field from another where it is
unset (null), and everything else has a default. This module must not judge: `rltrain_api.validate` does.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from rltrain_api import names
from rltrain_api.config import GeneratorConfig, SamplingParams, SkyRLTrainConfig, TrainerConfig
from rltrain_api.env import pod_environment
from rltrain_api.job import RLTrainingJob

# Variables that stand for a field of trainer.fully_async where nobody has set it.
_COUNTS = {
    "SKYRL_ASYNC_MAX_STALENESS": "max_staleness_steps",
    "SKYRL_ASYNC_GENERATION_WORKERS": "num_parallel_generation_workers",
}


def resolve(config: SkyRLTrainConfig) -> SkyRLTrainConfig:
    """The configuration with every derived value filled in; the given one is left as it is.

    Derivations, all of SkyRL's `__post_init__` methods: generator.max_input_length from trainer.max_prompt_length;
    generator.rope_scaling and rope_theta from the trainer's; generator.eval_sampling_params from temperature 0 and the
    training length, other fields default; trainer.ref.model.path from trainer.policy.model.path;
    trainer.algorithm.temperature from generator.sampling_params.temperature; trainer.algorithm.max_seq_len from
    max_input_length plus max_generate_length. Resolving twice changes nothing.
    """
    generator = _resolve_generator(config.generator, config.trainer)
    trainer = _resolve_trainer(config.trainer, generator)
    return config.model_copy(update={"generator": generator, "trainer": trainer})


def resolved_document(job: RLTrainingJob) -> dict[str, Any]:
    """The resolved configuration as plain data, SkyRL's keys in declared order: what is recorded and what runs."""
    return resolve(_said_by_variables(job, _begun(job))).model_dump(mode="json")


def document_hash(document: dict[str, Any]) -> str:
    """SHA-256 of a resolved configuration, in hex; the order of keys plays no part."""
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def _begun(job: RLTrainingJob) -> SkyRLTrainConfig:
    """The configuration with the checkpoint of another job that storage.checkpoints.resumeFrom names, where it does."""
    config, origin = job.spec.config, job.spec.storage.checkpoints.resume_from
    if origin is None:
        return config
    directory = origin.url or f"{names.RESUME_MOUNT_PATH}/{origin.path or origin.job}"
    path = f"{directory.rstrip('/')}/global_step_{origin.step}"
    trainer = config.trainer.model_copy(update={"resume_mode": "from_path", "resume_path": path})
    return config.model_copy(update={"trainer": trainer})


def _said_by_variables(job: RLTrainingJob, config: SkyRLTrainConfig) -> SkyRLTrainConfig:
    """The configuration with what variables of SkyRL's environment say of fields that nobody has set.

    SKYRL_DISABLE_WANDB: trainer.logger; SKYRL_ASYNC_MAX_STALENESS and SKYRL_ASYNC_GENERATION_WORKERS: fields of
    trainer.fully_async. Values that cannot be used are left, and the environment's own check warns of them. Upstream's
    trainer does not read them, and gets the fields as they are.
    """
    if job.spec.runtime.trainer != "builtin":
        return config
    variables, trainer = dict(pod_environment(job)), config.trainer
    if variables.get("SKYRL_DISABLE_WANDB") == "1" and "logger" not in trainer.model_fields_set:
        trainer = trainer.model_copy(update={"logger": "console"})
    counts = {
        field: int(variables[name])
        for name, field in _COUNTS.items()
        if variables.get(name, "").isdecimal() and field not in trainer.fully_async.model_fields_set
    }
    if counts:
        trainer = trainer.model_copy(update={"fully_async": trainer.fully_async.model_copy(update=counts)})
    return config.model_copy(update={"trainer": trainer})


def _resolve_generator(generator: GeneratorConfig, trainer: TrainerConfig) -> GeneratorConfig:
    derived: dict[str, Any] = {}
    if generator.max_input_length is None:
        derived["max_input_length"] = trainer.max_prompt_length
    for name in ("rope_scaling", "rope_theta"):
        if getattr(generator, name) is None and getattr(trainer, name) is not None:
            derived[name] = getattr(trainer, name)
    if generator.eval_sampling_params is None:
        derived["eval_sampling_params"] = SamplingParams(
            temperature=0.0, max_generate_length=generator.sampling_params.max_generate_length
        )
    return generator.model_copy(update=derived)


def _resolve_trainer(trainer: TrainerConfig, generator: GeneratorConfig) -> TrainerConfig:
    derived: dict[str, Any] = {}
    if trainer.ref.model.path is None:
        model = trainer.ref.model.model_copy(update={"path": trainer.policy.model.path})
        derived["ref"] = trainer.ref.model_copy(update={"model": model})
    algorithm: dict[str, Any] = {}
    if trainer.algorithm.temperature is None:
        algorithm["temperature"] = generator.sampling_params.temperature
    if trainer.algorithm.max_seq_len is None:
        assert generator.max_input_length is not None, "the generator section is resolved first"
        algorithm["max_seq_len"] = generator.max_input_length + generator.sampling_params.max_generate_length
    derived["algorithm"] = trainer.algorithm.model_copy(update=algorithm)
    return trainer.model_copy(update=derived)
