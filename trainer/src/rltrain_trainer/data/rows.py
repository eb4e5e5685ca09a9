"""Prompts: reading datasets in SkyRL's row format, and handing them out in batches that survive a restart.

A row has `prompt` (a list of {role, content}), optionally `env_class`, and anything else, which goes to the environment
as it is. Every complaint names the file and the row's index in it, from 0. It must not know of models or environments.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]  # ships no types
import pyarrow.parquet as pq  # type: ignore[import-untyped]  # ships no types
import torch
from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PromptRow:
    """One prompt with what its environment needs to score a response."""

    uid: str  # the row's index over all files in the order given
    messages: tuple[dict[str, str], ...]  # {"role": …, "content": …}
    env_class: str
    extras: dict[str, Any]


def load_rows(paths: Iterable[str], *, default_env_class: str) -> list[PromptRow]:
    """All rows of all files (parquet, json or jsonl) in order.

    Raises ValueError for a missing, unreadable or empty file, and for the first row that is not in SkyRL's format.
    """
    rows: list[PromptRow] = []
    for name in paths:
        path = Path(name).expanduser()
        records = _read(path)
        if not records:
            raise ValueError(f"{path}: the dataset has no rows")
        first = len(rows)
        for index, record in enumerate(records):
            where = f"{path}: row {index}"
            rows.append(_row(record, uid=str(first + index), where=where, default_env_class=default_env_class))
    return rows


def filter_by_length(
    rows: Sequence[PromptRow], tokenizer: PreTrainedTokenizerBase, max_prompt_length: int
) -> list[PromptRow]:
    """The rows whose prompt, with the chat template and the generation prompt, has at most max_prompt_length tokens."""
    kept = [row for row in rows if _prompt_length(row, tokenizer) <= max_prompt_length]
    if len(kept) < len(rows):
        log.warning(
            "%d of %d prompts have more than %d tokens: left out", len(rows) - len(kept), len(rows), max_prompt_length
        )
    return kept


class PromptLoader:
    """Shuffled batches of rows, epoch after epoch; the order is a function of (seed, epoch, number of rows) alone.

    A tail that does not fill a batch is dropped, another one in each epoch. Its state is the epoch and the number of
    rows handed out in it, so a resumed run goes on with exactly the rows not yet seen, in the same order.
    """

    def __init__(self, rows: Sequence[PromptRow], batch_size: int, seed: int) -> None:
        if len(rows) < batch_size:
            raise ValueError(
                f"{len(rows)} prompts cannot fill one batch of {batch_size}; add rows or lower the batch size"
            )
        self._rows = list(rows)
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = 0
        self._position = 0
        self._order = self._shuffled(0)

    @property
    def epoch(self) -> int:
        """The epoch, from 0, that the newest batch belongs to."""
        return self._epoch

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in one epoch."""
        return len(self._rows) // self._batch_size

    def next_batch(self) -> list[PromptRow]:
        """The next batch_size rows; begins a new epoch when the current one cannot fill a batch any more."""
        if self._position + self._batch_size > len(self._rows):
            self._epoch += 1
            self._position = 0
            self._order = self._shuffled(self._epoch)
        chosen = self._order[self._position : self._position + self._batch_size]
        self._position += self._batch_size
        return [self._rows[index] for index in chosen]

    def state_dict(self) -> dict[str, int]:
        """What a resume needs, as JSON numbers."""
        return {"epoch": self._epoch, "position": self._position, "seed": self._seed, "rows": len(self._rows)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where `state` was taken. Raises ValueError when it was taken over other rows or with another seed."""
        for name, mine in (("seed", self._seed), ("rows", len(self._rows))):
            if state[name] != mine:
                raise ValueError(
                    f"the checkpoint's data order was made with {name} = {state[name]}, this run has {mine}; use the "
                    "same data and seed, or start afresh with trainer.resume_mode none"
                )
        self._epoch, self._position = state["epoch"], state["position"]
        self._order = self._shuffled(self._epoch)

    def _shuffled(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(self._seed + epoch)
        order: list[int] = torch.randperm(len(self._rows), generator=generator).tolist()
        return order


def _read(path: Path) -> list[Any]:
    if not path.is_file():
        raise ValueError(
            f"{path}: no such dataset file; check data.train_data and data.val_data and the volume's mount"
        )
    readers = {".parquet": _read_parquet, ".json": _read_json, ".jsonl": _read_jsonl}
    reader = readers.get(path.suffix)
    if reader is None:
        raise ValueError(f"{path}: unknown kind of dataset; a name must end in {', '.join(readers)}")
    return reader(path)


def _read_parquet(path: Path) -> list[Any]:
    try:
        records: list[Any] = pq.read_table(path).to_pylist()
    except pa.ArrowException as error:
        raise ValueError(f"{path}: not a readable parquet file ({error}); write it again") from error
    return records


def _read_json(path: Path) -> list[Any]:
    try:
        records = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(records, list):
        raise ValueError(f"{path}: a .json dataset is one list of rows; for one row per line name it .jsonl")
    return records


def _read_jsonl(path: Path) -> list[Any]:
    records = []
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                records.append(json.loads(line))
            except ValueError as error:
                raise ValueError(f"{path}: row {len(records)} (line {number}): not valid JSON ({error})") from error
    return records


def _row(record: Any, *, uid: str, where: str, default_env_class: str) -> PromptRow:
    if not isinstance(record, dict):
        raise ValueError(f"{where}: a row is an object with the key prompt, not {type(record).__name__}")
    prompt = record.get("prompt")
    if not isinstance(prompt, list) or not prompt:
        raise ValueError(f"{where}: prompt must be a list of messages with role and content, not {_shown(prompt)}")
    for index, message in enumerate(prompt):
        if not isinstance(message, dict) or not all(isinstance(message.get(key), str) for key in ("role", "content")):
            raise ValueError(f"{where}: prompt[{index}] must have text for role and content, not {_shown(message)}")
    env_class = record.get("env_class")
    if env_class is not None and not isinstance(env_class, str):
        raise ValueError(f"{where}: env_class must be text, not {_shown(env_class)}")
    return PromptRow(
        uid=uid,
        messages=tuple({"role": message["role"], "content": message["content"]} for message in prompt),
        env_class=env_class or default_env_class,
        extras={key: value for key, value in record.items() if key not in ("prompt", "env_class")},
    )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _prompt_length(row: PromptRow, tokenizer: PreTrainedTokenizerBase) -> int:
    tokens = tokenizer.apply_chat_template(
        [dict(message) for message in row.messages], add_generation_prompt=True, tokenize=True, return_dict=False
    )
    return len(tokens)
