"""Prompts: records in SkyRL's row format, and which of them are short enough.

A row has `prompt` (a list of {role, content}), optionally `env_class`, and anything else, which goes to the environment
as it is. Every complaint names the file and the row's index in it, from 0. It must not know of models or environments.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rltrain_trainer.data.sources import read_source

log = logging.getLogger(__name__)

Message = dict[str, str]


@dataclass(frozen=True)
class PromptRow:
    """One prompt with what its environment needs to score a response."""

    uid: str  # the row's index over all files in the order given
    messages: tuple[Message, ...]  # {"role": …, "content": …}
    env_class: str
    extras: dict[str, Any]


def load_rows(paths: Iterable[str], *, default_env_class: str) -> list[PromptRow]:
    """All rows of all files (parquet, json or jsonl) and hub datasets (`owner/name:split`) in order.

    Raises ValueError for a missing, unreadable or empty file, and for the first row that is not in SkyRL's format.
    """
    rows: list[PromptRow] = []
    for name in paths:
        for path, records in read_source(name):
            first = len(rows)
            for index, record in enumerate(records):
                where = f"{path}: row {index}"
                rows.append(_row(record, uid=str(first + index), where=where, default_env_class=default_env_class))
    return rows


def filter_by_length(
    rows: Sequence[PromptRow], tokens_of: Callable[[Sequence[Message]], list[int]], max_prompt_length: int
) -> list[PromptRow]:
    """The rows whose prompt has at most max_prompt_length tokens; `tokens_of` renders a conversation for the model."""
    kept = [row for row in rows if len(tokens_of(row.messages)) <= max_prompt_length]
    if len(kept) < len(rows):
        log.warning(
            "%d of %d prompts have more than %d tokens: left out", len(rows) - len(kept), len(rows), max_prompt_length
        )
    return kept


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
