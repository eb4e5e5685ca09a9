"""Dumps below trainer.export_path, for people and their scripts: what was trained on, and what evaluations got.

    <export_path>/dumped_data/global_step_N_training_input.safetensors     every tensor of the batch of step N
    <export_path>/dumped_evals/global_step_N_evals/<data source>.jsonl     one line per answer
    <export_path>/dumped_evals/global_step_N_evals/aggregated_results.jsonl   one line, the metrics

A dump that cannot be written is said and counted, and training goes on. It must not know the loop.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import safetensors.torch
from torch import Tensor

from rltrain_trainer.checkpoint.places import normal, place_of
from rltrain_trainer.data.batch import TrainBatch
from rltrain_trainer.data.rows import PromptRow
from rltrain_trainer.rollout.metrics import source_of
from rltrain_trainer.rollout.trajectory import Trajectory

log = logging.getLogger(__name__)

Decode = Callable[[Sequence[int]], str]


class Dumps:
    """Writes dumps; `failures` counts those that could not be written."""

    def __init__(self, export_path: str, decode: Decode) -> None:
        """decode: tokens as text, special tokens and all."""
        self._root = export_path
        self._decode = decode
        self.failures = 0

    async def batch(self, step: int, batch: TrainBatch) -> None:
        """Every tensor of a training batch, under the names of its fields."""
        found = {field.name: getattr(batch, field.name) for field in fields(batch)}
        # Estimators may give one tensor as advantages and returns; a file holds each by itself.
        tensors = {name: value.contiguous().clone() for name, value in found.items() if isinstance(value, Tensor)}
        content = safetensors.torch.save(tensors, {"step": str(step)})
        await self._write({f"dumped_data/global_step_{step}_training_input.safetensors": content})

    async def evaluation(
        self, step: int, rows: Sequence[PromptRow], trajectories: Sequence[Trajectory], metrics: Mapping[str, float]
    ) -> None:
        """The answers of one evaluation, by data source, and its metrics."""
        by_uid = {row.uid: row for row in rows}
        lines: dict[str, list[str]] = {}
        for trajectory in trajectories:
            row = by_uid[trajectory.group_id]
            lines.setdefault(source_of(row), []).append(_line(self._answer(row, trajectory)))
        directory = f"dumped_evals/global_step_{step}_evals"
        files = {f"{directory}/{source}.jsonl": "".join(of_source) for source, of_source in lines.items()}
        files[f"{directory}/aggregated_results.jsonl"] = _line(dict(metrics))
        await self._write({name: text.encode() for name, text in files.items()})

    def _answer(self, row: PromptRow, trajectory: Trajectory) -> dict[str, Any]:
        return {
            "input_prompt": self._decode(trajectory.prompt_ids),
            "output_response": self._decode(trajectory.response_ids),
            "score": trajectory.reward,
            "stop_reason": trajectory.stop_reason,
            "env_class": row.env_class,
            "env_extras": row.extras,
            "data_source": source_of(row),
            "uid": row.uid,
            "sample": trajectory.sample,
            "is_last_step": trajectory.is_last_step,
        }

    async def _write(self, files: Mapping[str, bytes]) -> None:
        try:
            await asyncio.to_thread(self._write_now, files)
        except (OSError, ValueError) as error:
            self.failures += 1
            if self.failures == 1:
                log.warning("nothing can be dumped below trainer.export_path (%s); training goes on without", error)

    def _write_now(self, files: Mapping[str, bytes]) -> None:
        root = normal(self._root)
        place = place_of(root)
        for name, content in files.items():
            place.replace(f"{root}/{name}", content)


def _line(values: Mapping[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False, default=str) + "\n"
