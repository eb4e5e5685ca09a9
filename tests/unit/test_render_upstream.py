"""What upstream is told of a job, and that it understands it as the same configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import upstream_skyrl
from rltrain_api.job import RLTrainingJob
from rltrain_api.parse import parse_job
from rltrain_api.render import job_for_skyrl, notes_for_skyrl, overrides_for_skyrl, refusals_for_skyrl
from rltrain_api.render.upstream import VERSION
from rltrain_api.resolve import resolve
from rltrain_api.validate import validate
from skyrl_jobs import skyrl_job
from upstream_skyrl import as_upstream, comparable

EXAMPLES = Path(__file__).parents[2] / "examples"


def jobs_in(path: Path) -> list[RLTrainingJob]:
    found = []
    for document in yaml.safe_load_all(path.read_text()):
        job = parse_job(document) if document.get("kind") == "RLTrainingJob" else None
        if job is not None:
            assert isinstance(job, RLTrainingJob), job
            found.append(job)
    return found


def example_jobs() -> dict[str, RLTrainingJob]:
    return {f"{path.name} {job.metadata.name}": job for path in EXAMPLES.rglob("*.yaml") for job in jobs_in(path)}


def test_nothing_but_what_is_set_is_written_in_the_order_of_the_tree() -> None:
    job = skyrl_job(config={"trainer": {"epochs": 2, "resume_mode": None}}, overrides=["trainer.seed=7"])
    assert overrides_for_skyrl(job) == [
        "data.train_data=[/data/train.parquet]",
        "data.val_data=[/data/validation.parquet]",
        "trainer.placement.policy_num_gpus_per_node=4",
        "trainer.placement.ref_num_gpus_per_node=4",
        "trainer.policy.model.path=/data/model",
        "trainer.seed=7",
        "trainer.resume_mode=null",
        "trainer.ckpt_path=/checkpoints/run",
        "trainer.export_path=/checkpoints/exports",
        "trainer.epochs=2",
        "trainer.logger=console",
        "generator.inference_engine.num_engines=4",
    ]


# Name -> (settings of the engines, the field that is left out, what the note says of it; "" where it is written).
LEFT_OUT: dict[str, tuple[dict[str, Any], str, str]] = {
    "our own engine": ({"backend": "builtin"}, "backend", "vLLM only"),
    "an engine that SkyRL has given up": ({"backend": "sglang"}, "backend", "sglang is left out"),
    "vLLM": ({"backend": "vllm"}, "backend", ""),
    "weights between CPUs": ({"weight_sync_backend": "gloo"}, "weight_sync_backend", "nccl takes its place"),
    "weights between GPUs": ({"weight_sync_backend": "nccl"}, "weight_sync_backend", ""),
    "a newer field": ({"distributed_executor_backend": "mp"}, "distributed_executor_backend", "mp is left out"),
    "a newer field, as upstream does it": (
        {"distributed_executor_backend": "ray"},
        "distributed_executor_backend",
        "has no such field",
    ),
}


@pytest.mark.parametrize(("engine", "field", "said"), LEFT_OUT.values(), ids=LEFT_OUT.keys())
def test_what_upstream_has_not_is_left_out_with_a_note(engine: dict[str, Any], field: str, said: str) -> None:
    job = skyrl_job(config={"generator": {"inference_engine": engine}})
    path = f"generator.inference_engine.{field}"
    notes = [note for note in notes_for_skyrl(job) if note.startswith(f"spec.config.{path}: ")]
    written = [override for override in overrides_for_skyrl(job) if override.startswith(f"{path}=")]
    assert len(notes) + len(written) == 1
    assert said in "".join(notes)
    assert bool(said) == bool(notes)


DIFFERENCES: dict[str, tuple[dict[str, Any], str, str]] = {
    "a KL term without a gradient": ({}, "skyrl", "without a gradient"),
    "a KL term of no weight": ({"kl_loss_coef": 0}, "skyrl", ""),
    "a KL term in the reward": ({"use_kl_loss": False, "use_kl_in_reward": True}, "skyrl", ""),
    "another mean of tokens": ({"use_kl_loss": False}, "builtin", "micro-batch"),
    "the same mean of sequences": ({"use_kl_loss": False, "loss_reduction": "sequence_mean"}, "builtin", ""),
}


@pytest.mark.parametrize(("algorithm", "trainer", "said"), DIFFERENCES.values(), ids=DIFFERENCES.keys())
def test_what_upstream_does_differently_is_said(algorithm: dict[str, Any], trainer: str, said: str) -> None:
    job = skyrl_job(config={"trainer": {"algorithm": algorithm}}, runtime={"trainer": trainer})
    notes = [note for note in notes_for_skyrl(job) if "trainer.algorithm" in note]
    assert bool(notes) == bool(said)
    assert said in "".join(notes)


def test_the_entry_point_that_is_not_rendered_is_said() -> None:
    plain = skyrl_job()
    fully_async = skyrl_job(config={"trainer": {"fully_async": {"max_staleness_steps": 2}}})
    assert [any("main_fully_async" in note for note in notes_for_skyrl(job)) for job in (plain, fully_async)] == [
        False,
        True,
    ]


def test_the_job_for_upstream_has_what_upstream_is_told() -> None:
    job = skyrl_job(
        config={"generator": {"inference_engine": {"backend": "builtin"}}},
        runtime={"trainer": "builtin"},
        overrides=["trainer.epochs=3"],
    )
    upstream = job_for_skyrl(job)
    assert upstream.spec.runtime.trainer == "skyrl"
    assert upstream.spec.config.generator.inference_engine.backend == "vllm"
    assert upstream.spec.config.trainer.epochs == 3
    assert upstream.spec.storage == job.spec.storage
    assert overrides_for_skyrl(upstream) == overrides_for_skyrl(job)
    assert refusals_for_skyrl(job) == []


def test_what_upstream_would_refuse_is_an_error_before_anything_is_written() -> None:
    job = skyrl_job(config={"trainer": {"algorithm": {"use_kl_in_reward": True}}})
    assert any("use_kl_in_reward" in str(error) for error in refusals_for_skyrl(job))


def test_a_text_that_upstream_would_replace_is_an_error() -> None:
    job = skyrl_job(config={"trainer": {"run_name": "run-${USER}"}})
    refusals = refusals_for_skyrl(job)
    assert [error.path for error in refusals] == ["spec.config.trainer.run_name"]
    assert "interpolation" in refusals[0].message


@pytest.mark.parametrize("name", example_jobs())
def test_upstream_makes_our_resolved_tree_of_every_example(name: str) -> None:
    job = example_jobs()[name]
    overrides = overrides_for_skyrl(job)
    expected = as_upstream(resolve(job_for_skyrl(job).spec.config).model_dump(mode="json"), overrides)
    assert comparable(upstream_skyrl.resolved(overrides)) == comparable(expected)


# Modules of one's own are imported by the builtin trainer only.
FOR_EITHER_TRAINER = [
    name for name, job in example_jobs().items() if not validate(job) and not job.spec.runtime.modules
]


@pytest.mark.parametrize("name", FOR_EITHER_TRAINER)
def test_upstream_would_start_every_valid_example(name: str) -> None:
    job = example_jobs()[name]
    assert refusals_for_skyrl(job) == []
    overrides = overrides_for_skyrl(job)
    if job.spec.config.trainer.strategy == "megatron":
        overrides.append("trainer.flash_attn=false")  # upstream imports the package to look at its version
    variables = {variable.name: variable.value for variable in job.spec.runtime.env}
    assert upstream_skyrl.refusal(overrides, {"WANDB_API_KEY": "from a Secret", **variables}) is None


def test_the_reference_is_the_version_that_is_rendered_for() -> None:
    assert upstream_skyrl.VERSION == VERSION
