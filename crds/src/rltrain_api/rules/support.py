"""What SkyRL can and this release cannot: each value is refused by name, with what to set instead.

A line leaves the table when the trainer does what the value asks for. The values themselves are SkyRL's (and ours: the
backend builtin), so their spelling has been checked before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from rltrain_api.errors import ErrorCode, FieldError
from rltrain_api.job import RLTrainingJob


@dataclass(frozen=True, slots=True)
class Support:
    """One field, the values of it that this release honours, and what the reader has to know."""

    path: str
    supported: tuple[object, ...]
    why: str


SUPPORTED_VALUES = (
    Support("trainer.strategy", ("fsdp2",), "the trainer shards models with FSDP2 only"),
    Support("trainer.placement.colocate_all", (False,), "engines run in pods of their own"),
    Support("trainer.placement.colocate_policy_ref", (True,), "the reference model shares the policy's GPUs"),
    Support("trainer.policy.sequence_parallel_size", (1,), "every sequence stays on one GPU"),
    Support("trainer.algorithm.advantage_estimator", ("grpo",), "other estimators are still to come"),
    Support("trainer.algorithm.policy_loss_type", ("regular", "dual_clip"), "other losses are still to come"),
    Support("trainer.logger", ("console",), "metrics go to the driver's log and /metrics"),
    Support("generator.inference_engine.backend", ("builtin",), "vLLM and SGLang are still to come"),
    Support("generator.inference_engine.tensor_parallel_size", (1,), "an engine has one GPU"),
    Support("generator.inference_engine.pipeline_parallel_size", (1,), "an engine has one GPU"),
    Support("generator.inference_engine.expert_parallel_size", (1,), "an engine has one GPU"),
    Support("generator.inference_engine.data_parallel_size", (1,), "an engine has one GPU"),
    Support("generator.sampling_params.additional_kwargs", (None, {}), "the builtin engine knows no others"),
    Support("generator.eval_sampling_params.additional_kwargs", (None, {}), "the builtin engine knows no others"),
)


def check_support(job: RLTrainingJob) -> Iterator[FieldError]:
    """Errors for values that this release does not honour, SkyRL's own defaults among them."""
    for support in SUPPORTED_VALUES:
        value, is_set = _value_at(job.spec.config, support.path.split("."))
        if value in support.supported:
            continue
        origin = "is" if is_set else "is unset, and SkyRL's default is"
        wanted = " or ".join(_written(value) for value in support.supported)
        yield FieldError(
            f"spec.config.{support.path}",
            ErrorCode.NOT_YET_SUPPORTED,
            f"{origin} {_written(value)}, which this release does not support yet ({support.why}); set it to {wanted}",
        )


def _value_at(section: BaseModel, path: list[str]) -> tuple[Any, bool]:
    """The value at a path, and whether a person set it; an absent section in the way counts as None."""
    is_set = True
    value: Any = section
    for name in path:
        if value is None:
            return None, False
        is_set = is_set and name in value.model_fields_set
        value = getattr(value, name)
    return value, is_set


def _written(value: object) -> str:
    """A value as it is written in YAML."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
