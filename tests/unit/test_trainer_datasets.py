"""What a run reads before it starts anything, and an environment that comes from a module of the user's own."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from skyrl_gym.envs.registration import deregister, registry
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from rltrain_api.config import SkyRLTrainConfig
from rltrain_api.resolve import resolve
from rltrain_trainer.data.rows import PromptRow
from rltrain_trainer.driver.datasets import load_datasets
from rltrain_trainer.driver.modules import import_modules
from rltrain_trainer.rollout.environments import Environment

EXAMPLE = Path(__file__).parents[2] / "examples" / "environments"


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> PreTrainedTokenizerBase:
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(tiny_model)
    return loaded


def rows_in(path: Path, contents: list[str], **columns: Any) -> str:
    lines = [{"prompt": [{"role": "user", "content": content}], **columns} for content in contents]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def config_of(train: str, validation: str, env_class: str = "gsm8k", **trainer: Any) -> SkyRLTrainConfig:
    document = {
        "data": {"train_data": [train], "val_data": [validation]},
        "trainer": {"train_batch_size": 2, "policy_mini_batch_size": 2, "max_prompt_length": 60, **trainer},
        "environment": {"env_class": env_class},
    }
    return resolve(SkyRLTrainConfig.model_validate(document))


@pytest.mark.proves("trainer.max_prompt_length", "trainer.train_batch_size")
def test_prompts_that_are_too_long_are_left_out_everywhere(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    train = rows_in(tmp_path / "train.jsonl", ["a", "b" * 99, "c", "d"])
    validation = rows_in(tmp_path / "validation.jsonl", ["e" * 99, "f"])
    data = load_datasets(config_of(train, validation), tokenizer)
    assert data.training.steps_per_epoch == 1
    assert [row.messages[0]["content"] for row in data.evaluation] == ["f"]
    longer = load_datasets(config_of(train, validation, max_prompt_length=200), tokenizer)
    assert (longer.training.steps_per_epoch, len(longer.evaluation)) == (2, 2)
    with pytest.raises(ValueError, match=r"data.train_data: 3 prompts of at most 60 tokens are fewer than .* = 4"):
        load_datasets(config_of(train, validation, train_batch_size=4), tokenizer)


@pytest.mark.proves("data.val_data")
def test_evaluation_rows_are_read_only_for_evaluations(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    train, gone = rows_in(tmp_path / "train.jsonl", ["a", "b"]), str(tmp_path / "gone.jsonl")
    never = load_datasets(config_of(train, gone, eval_before_train=False, eval_interval=-1), tokenizer)
    assert never.evaluation == []
    for settings in ({"eval_before_train": True, "eval_interval": -1}, {"eval_before_train": False}):
        with pytest.raises(ValueError, match=r"gone\.jsonl: no such dataset file"):
            load_datasets(config_of(train, gone, **settings), tokenizer)


@pytest.mark.proves("environment.env_class")
def test_rows_have_the_environment_that_they_name_or_the_job_s(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    train = rows_in(tmp_path / "train.jsonl", ["a", "b"])
    named = rows_in(tmp_path / "named.jsonl", ["a"], env_class="aime")
    data = load_datasets(config_of(train, named), tokenizer)
    assert {row.env_class for row in data.training.next_batch()} == {"gsm8k"}
    assert [row.env_class for row in data.evaluation] == ["aime"]
    with pytest.raises(ValueError, match="row 0: environment 'countdown' is registered by nobody"):
        load_datasets(config_of(train, named, env_class="countdown"), tokenizer)


@pytest.fixture
def letters(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(EXAMPLE)
    import_modules(["letters"])
    yield
    deregister("letters")
    sys.modules.pop("letters")


@pytest.mark.usefixtures("letters")
def test_the_example_s_module_registers_an_environment_that_scores(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    assert "letters" in registry
    train = rows_in(tmp_path / "train.jsonl", ["a", "b"], letter="e")
    data = load_datasets(config_of(train, train, env_class="letters"), tokenizer)
    assert len(data.evaluation) == 2
    environment = Environment(PromptRow("0", (), "letters", {"letter": "e"}), {}, 1)
    assert environment.step("eel!") == ([], 0.5, True)
    assert environment.end() == {"share": 0.5}
