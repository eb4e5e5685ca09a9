"""What upstream SkyRL is told of a job: the overrides of its command line, and what it cannot be told.

Upstream is SkyRL 0.1.0, the version whose tree `spec.config` has. Only what somebody has set is written, so that SkyRL
goes on deriving the rest. What it does not know is left out with a note; what it takes but does differently from
RLTrain's own trainer gets a note. This module must not know any place that the command could run in.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rltrain_api.errors import ErrorCode, FieldError
from rltrain_api.job import RLTrainingJob
from rltrain_api.overrides import Override, OverrideError, apply_overrides, flatten, write_override
from rltrain_api.parse import parse_job
from rltrain_api.rules.facts import Facts
from rltrain_api.validate import validate

VERSION = "0.1.0"
ENTRYPOINT = "skyrl.train.entrypoints.main_base"
# What SkyRL 0.1.0 pins; a driver cannot join a Ray cluster of another version.
RAY_VERSION = "2.51.1"


@dataclass(frozen=True, slots=True)
class _Unknown:
    """A field that upstream does not have, or has but not with every value: it is left out.

    Args:
        path: The field's path in `spec.config`.
        known: The values that upstream honours and that are therefore written.
        why: What upstream does instead; `{value}` stands for the job's value.
    """

    path: tuple[str, ...]
    known: tuple[object, ...]
    why: str


_ENGINE = ("generator", "inference_engine")
_UNKNOWN = (
    _Unknown(
        (*_ENGINE, "backend"),
        ("vllm",),
        f"{{value}} is left out: SkyRL {VERSION} has vLLM only, which takes its place",
    ),
    _Unknown(
        (*_ENGINE, "weight_sync_backend"),
        ("nccl",),
        "{value} is left out: SkyRL's weights go from GPU to GPU, so nccl takes its place",
    ),
    _Unknown(
        (*_ENGINE, "distributed_executor_backend"),
        (),
        f"{{value}} is left out: SkyRL {VERSION} has no such field; it spreads an engine over several GPUs with Ray",
    ),
)


def overrides_for_skyrl(job: RLTrainingJob) -> list[str]:
    """`key.path=value` for every field of the job's configuration that is set and that upstream knows.

    In the order of the tree, not quoted for a shell. SkyRL's own parser makes the same tree of them as `resolve` makes
    of the job, but for the fields that `notes_for_skyrl` names.
    """
    return [write_override(item.path, item.value) for item in _written(job)]


def notes_for_skyrl(job: RLTrainingJob) -> list[str]:
    """What upstream is not told, and what it does differently from RLTrain's own trainer with what it is told."""
    notes = [
        f"spec.config.{item.key}: {unknown.why.format(value=item.value)}"
        for item in _set_values(job)
        if (unknown := _unknown(item)) is not None
    ]
    return [*notes, *_differences(Facts(job))]


def job_for_skyrl(job: RLTrainingJob) -> RLTrainingJob:
    """The same job with upstream's trainer and with the configuration that upstream is told."""
    document = job.model_dump(mode="json", by_alias=True, exclude_unset=True)
    spec = document["spec"]
    spec.pop("overrides", None)  # the configuration has them already
    spec["config"] = apply_overrides({}, _written(job))
    spec["runtime"]["trainer"] = "skyrl"
    upstream = parse_job(document)
    assert isinstance(upstream, RLTrainingJob), "every field is one that the job had"
    return upstream


def refusals_for_skyrl(job: RLTrainingJob) -> list[FieldError]:
    """What keeps a job that is valid as it stands from running with upstream's trainer; sorted by path.

    Where this is not empty, nothing else in `rltrain_api.render` takes the job.
    """
    unwritable = []
    for item in _written(job):
        try:
            write_override(item.path, item.value)
        except OverrideError as error:
            unwritable.append(FieldError(f"spec.config.{item.key}", ErrorCode.INVALID, str(error)))
    return sorted(unwritable) or validate(job_for_skyrl(job))


def _set_values(job: RLTrainingJob) -> list[Override]:
    return flatten(job.spec.config.model_dump(mode="json", exclude_unset=True))


def _written(job: RLTrainingJob) -> list[Override]:
    return [item for item in _set_values(job) if _unknown(item) is None]


def _unknown(item: Override) -> _Unknown | None:
    return next(
        (unknown for unknown in _UNKNOWN if unknown.path == item.path and item.value not in unknown.known), None
    )


def _differences(facts: Facts) -> Iterator[str]:
    algorithm = "spec.config.trainer.algorithm"
    if facts.algorithm.use_kl_loss and facts.algorithm.kl_loss_coef > 0:
        yield (
            f"{algorithm}.use_kl_loss: SkyRL {VERSION} computes the KL term without a gradient, so it shows in the "
            "reported loss and does not hold the policy back (mended in SkyRL 0.2.0)"
        )
    if not facts.runs_upstream and facts.algorithm.loss_reduction == "token_mean":
        yield (
            f"{algorithm}.loss_reduction: SkyRL {VERSION} takes token_mean over each micro-batch and then the mean of "
            "those, RLTrain over the whole mini-batch; they differ where responses have different lengths"
        )
    if facts.trainer.fully_async.model_fields_set:
        yield (
            f"spec.config.trainer.fully_async: {ENTRYPOINT} does not read it; SkyRL's fully asynchronous trainer is "
            "examples.train.fully_async.main_fully_async of its repository, which takes the same overrides"
        )
