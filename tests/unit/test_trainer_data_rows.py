from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest

from file_server import Files, serving
from rltrain_trainer.data import sources
from rltrain_trainer.data.loader import PromptLoader
from rltrain_trainer.data.rows import Message, PromptRow, filter_by_length, load_rows
from rltrain_trainer.fetch import hub

RECORDS: list[dict[str, Any]] = [
    {
        "prompt": [{"role": "user", "content": f"What is {n} + 1?"}],
        "env_class": "gsm8k",
        "reward_spec": {"method": "rule", "ground_truth": str(n + 1)},
        "extra_info": {"index": n},
    }
    for n in range(3)
]


def write(path: Path, records: list[Any]) -> str:
    match path.suffix:
        case ".parquet":
            pq.write_table(pa.Table.from_pylist(records), path)
        case ".json":
            path.write_text(json.dumps(records))
        case ".jsonl":
            path.write_text("\n".join(json.dumps(record) for record in records) + "\n\n")
    return str(path)


@pytest.mark.proves("data.train_data", "data.val_data")
@pytest.mark.parametrize("suffix", [".parquet", ".json", ".jsonl"])
def test_the_three_formats_say_the_same(tmp_path: Path, suffix: str) -> None:
    rows = load_rows([write(tmp_path / f"train{suffix}", RECORDS)], default_env_class="other")
    assert rows[1] == PromptRow(
        uid="1",
        messages=({"role": "user", "content": "What is 1 + 1?"},),
        env_class="gsm8k",
        extras={"reward_spec": {"method": "rule", "ground_truth": "2"}, "extra_info": {"index": 1}},
    )
    assert len(rows) == 3


def test_uids_run_over_all_files_and_env_class_has_a_default(tmp_path: Path) -> None:
    bare = [{"prompt": record["prompt"], "env_class": None} for record in RECORDS]
    paths = [write(tmp_path / "a.jsonl", RECORDS), write(tmp_path / "b.json", bare)]
    rows = load_rows(paths, default_env_class="other")
    assert [row.uid for row in rows] == ["0", "1", "2", "3", "4", "5"]
    assert [row.env_class for row in rows] == ["gsm8k"] * 3 + ["other"] * 3


MESSAGE = {"role": "user", "content": "x"}
BAD: dict[str, tuple[str, str, str]] = {
    "missing prompt": (
        "a.json",
        json.dumps([{"prompt": [MESSAGE]}, {"question": "x"}]),
        r"a\.json: row 1: prompt must",
    ),
    "prompt is text": ("a.json", json.dumps([{"prompt": "x"}]), r"a\.json: row 0: prompt must be a list"),
    "no messages": ("a.json", json.dumps([{"prompt": []}]), r"row 0: prompt must be a list"),
    "no content": (
        "a.json",
        json.dumps([{"prompt": [MESSAGE, {"role": "user"}]}]),
        r"row 0: prompt\[1\] must have text",
    ),
    "env_class": ("a.json", json.dumps([{"prompt": [MESSAGE], "env_class": 3}]), r"row 0: env_class must be text"),
    "row is a list": ("a.json", "[[]]", r"row 0: a row is an object"),
    "not a list": ("a.json", "{}", r"a \.json dataset is one list"),
    "torn json": ("a.json", "[{", r"a\.json: not valid JSON"),
    "torn line": ("a.jsonl", json.dumps({"prompt": [MESSAGE]}) + "\n\n{", r"a\.jsonl: row 1 \(line 3\)"),
    "torn parquet": ("a.parquet", "PAR1", r"a\.parquet: not a readable parquet file"),
    "unknown kind": ("a.csv", "x", r"a\.csv: unknown kind of dataset"),
    "empty": ("a.jsonl", "", r"a\.jsonl: the dataset has no rows"),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD)
def test_a_bad_row_is_named_by_file_and_index(tmp_path: Path, case: tuple[str, str, str]) -> None:
    name, content, message = case
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        load_rows([str(tmp_path / name)], default_env_class="gsm8k")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"gone\.parquet: no such dataset file"):
        load_rows([str(tmp_path / "gone.parquet")], default_env_class="gsm8k")


def parquet_of(records: list[Any]) -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(records), stream)
    return stream.getvalue()


ON_THE_HUB = {
    "data/train-00000-of-00002.parquet": parquet_of(RECORDS[:2]),
    "data/train-00001-of-00002.parquet": parquet_of(RECORDS[2:]),
    "data/test-00000-of-00001.parquet": parquet_of(RECORDS[:1]),
    "one/validation.jsonl": b"{}",
    "two/validation.jsonl": b"{}",
    "training.jsonl": b"{}",  # no split of the name train
    "README.md": b"# train",
}


@pytest.fixture
def a_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Files]:
    """A hub on this machine that has the dataset owner/name, and an empty cache."""
    files = Files(dict(ON_THE_HUB))
    monkeypatch.setenv(sources.CACHE_VARIABLE, str(tmp_path / "cache"))
    with serving(files) as address:
        monkeypatch.setattr(hub, "ENDPOINT", address)
        yield files


SPLITS = {"owner/name": ["0", "1", "2"], "owner/name:train": ["0", "1", "2"], "owner/name:test": ["0"]}


@pytest.mark.parametrize(("name", "uids"), SPLITS.items(), ids=SPLITS)
def test_a_dataset_of_a_hub_is_read_by_its_name_and_split(a_hub: Files, name: str, uids: list[str]) -> None:
    rows = load_rows([name], default_env_class="other")
    assert [row.uid for row in rows] == uids
    assert rows[-1].extras["extra_info"] == {"index": len(uids) - 1}
    asked = len(a_hub.requests)
    load_rows([name], default_env_class="other")
    assert not any("/resolve/" in path for _, path, _ in a_hub.requests[asked:])  # from the cache


NOT_ON_THE_HUB = {
    "no such split": ("owner/name:dev", "none of its files is named after the split 'dev'|has no files"),
    "a split in two folders": ("owner/name:validation", r"in several folders \(one, two\)"),
    "no such dataset": ("owner/other", "owner/other: the dataset cannot be had from the hub .* by an initializer"),
}


@pytest.mark.parametrize(("name", "message"), NOT_ON_THE_HUB.values(), ids=NOT_ON_THE_HUB)
def test_what_a_hub_has_not_is_said(a_hub: Files, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_rows([name], default_env_class="other")


def test_without_a_network_a_dataset_of_a_hub_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(sources.CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setattr(hub, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ValueError, match="owner/name:test: the dataset cannot be had from the hub"):
        load_rows(["owner/name:test"], default_env_class="other")


def words_of(messages: Sequence[Message]) -> list[int]:
    """One token per word of all messages, and one for the generation prompt."""
    return [0] * (1 + sum(len(message["content"].split()) for message in messages))


def rows_of(count: int) -> list[PromptRow]:
    return [PromptRow(str(n), ({"role": "user", "content": "w " * n},), "gsm8k", {}) for n in range(count)]


def test_long_prompts_are_left_out() -> None:
    kept = filter_by_length(rows_of(6), words_of, 4)
    assert [row.uid for row in kept] == ["0", "1", "2", "3"]


def uids(loader: PromptLoader, batches: int) -> list[list[str]]:
    return [[row.uid for row in loader.next_batch()] for _ in range(batches)]


def test_an_epoch_hands_out_each_row_once_in_an_order_of_its_own() -> None:
    loader = PromptLoader(rows_of(10), 3, seed=1)
    assert loader.steps_per_epoch == 3
    first, second = uids(loader, 3), uids(loader, 3)
    for epoch in (first, second):
        seen = [uid for batch in epoch for uid in batch]
        assert len(set(seen)) == 9
    assert first != second
    assert loader.epoch == 1
    assert uids(PromptLoader(rows_of(10), 3, seed=1), 3) == first
    assert uids(PromptLoader(rows_of(10), 3, seed=2), 3) != first


@pytest.mark.parametrize("done", range(8))
def test_a_resumed_loader_goes_on_with_the_rows_not_yet_seen(done: int) -> None:
    loader = PromptLoader(rows_of(10), 3, seed=5)
    uids(loader, done)
    state = json.loads(json.dumps(loader.state_dict()))
    rest = uids(loader, 7)
    resumed = PromptLoader(rows_of(10), 3, seed=5)
    resumed.load_state_dict(state)
    assert uids(resumed, 7) == rest
    assert resumed.epoch == loader.epoch


def test_a_resumed_loader_may_have_another_batch_size() -> None:
    loader = PromptLoader(rows_of(10), 3, seed=5)
    seen = {uid for batch in uids(loader, 2) for uid in batch}
    resumed = PromptLoader(rows_of(10), 2, seed=5)
    resumed.load_state_dict(loader.state_dict())
    assert seen.isdisjoint({uid for batch in uids(resumed, 2) for uid in batch})
    assert resumed.epoch == 0


@pytest.mark.parametrize(("rows", "seed", "message"), [(9, 5, "rows = 10"), (10, 6, "seed = 5")])
def test_a_state_over_other_data_is_refused(rows: int, seed: int, message: str) -> None:
    state = PromptLoader(rows_of(10), 3, seed=5).state_dict()
    with pytest.raises(ValueError, match=message):
        PromptLoader(rows_of(rows), 3, seed=seed).load_state_dict(state)


def test_too_few_rows_for_one_batch_are_refused() -> None:
    with pytest.raises(ValueError, match="2 prompts cannot fill one batch of 3"):
        PromptLoader(rows_of(2), 3, seed=0)
