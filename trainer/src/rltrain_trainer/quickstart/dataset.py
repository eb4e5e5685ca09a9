"""Problems as parquet in SkyRL's dataset row format, for the environment "gsm8k" of skyrl-gym.

Columns: `prompt` (a list of messages), `env_class`, `reward_spec` (`method`, `ground_truth`), `data_source` and
`extra_info`. It must not know how the problems are drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]  # pyarrow ships no types
from pyarrow import parquet

from rltrain_trainer.quickstart.problems import Problem

ENVIRONMENT = "gsm8k"
DATA_SOURCE = "rltrain/arithmetic-word-problems"

SCHEMA = pa.schema(
    [
        ("data_source", pa.string()),
        ("prompt", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        ("env_class", pa.string()),
        ("reward_spec", pa.struct([("method", pa.string()), ("ground_truth", pa.string())])),
        (
            "extra_info",
            pa.struct(
                [("split", pa.string()), ("index", pa.int64()), ("question", pa.string()), ("answer", pa.string())]
            ),
        ),
    ]
)


def dataset_row(problem: Problem, split: str, index: int) -> dict[str, Any]:
    """One row; `answer` in `extra_info` is the worked solution, as in GSM8K, for people who look at the data."""
    return {
        "data_source": DATA_SOURCE,
        "prompt": [{"role": "user", "content": problem.question}],
        "env_class": ENVIRONMENT,
        "reward_spec": {"method": "rule", "ground_truth": str(problem.answer)},
        "extra_info": {"split": split, "index": index, "question": problem.question, "answer": problem.solution},
    }


def write_dataset(problems: Sequence[Problem], split: str, path: Path) -> None:
    """Write one split as parquet."""
    rows = [dataset_row(problem, split, index) for index, problem in enumerate(problems)]
    parquet.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path)
