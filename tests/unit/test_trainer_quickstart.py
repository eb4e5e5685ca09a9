"""The quickstart's material: true and disjoint problems, an exact tokenizer, a warm-up that ends where it says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import skyrl_gym  # type: ignore[import-untyped]  # it ships no types
import torch
from pyarrow import parquet  # type: ignore[import-untyped]  # it ships no types
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from rltrain_trainer.quickstart.demonstrations import demonstrate
from rltrain_trainer.quickstart.model import MAX_POSITIONS, build_model
from rltrain_trainer.quickstart.problems import LARGEST_OPERAND, Problem, draw_splits, every_word, is_correct
from rltrain_trainer.quickstart.recipe import MARKER, WORKSPACE, Recipe, draw_material, prepare, recipe_digest
from rltrain_trainer.quickstart.tokenizer import build_tokenizer, render_prompt
from rltrain_trainer.quickstart.warmup import (
    IGNORED,
    WarmUpSettings,
    encode_demonstrations,
    learning_rate_at,
    shuffled_batches,
)

SPLITS = draw_splits(3, {"train": 500, "validation": 100, "held_out": 100})
PROBLEMS = [problem for split in SPLITS.values() for problem in split]
TOKENIZER = build_tokenizer(every_word(), MAX_POSITIONS)
# Reached at the first check whatever the weights: it is the machinery that runs here, not the learning.
TINY = Recipe(
    seed=5,
    train_rows=16,
    validation_rows=4,
    held_out_rows=4,
    demonstration_rounds=1,
    hidden_size=32,
    layers=1,
    warm_up=WarmUpSettings(target_accuracy=0.0, check_every=2, batch_size=4, max_new_tokens=4),
)


def lines_of(output: Path, recipe: Recipe) -> list[str]:
    lines: list[str] = []
    prepare(output, recipe, lines.append)
    return lines


def contents(output: Path) -> dict[str, bytes]:
    return {str(path.relative_to(output)): path.read_bytes() for path in sorted(output.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("quickstart")
    assert prepare(output, TINY, lambda line: None)
    return output


def answer_from_words(question: str) -> int:
    """The answer read off the question by a person's rules: which words mean adding and which mean taking away."""
    first, second = (int(number) for number in re.findall(r"\d+", question))
    taken = any(phrase in question for phrase in ("left?", "How many more has"))
    added = any(phrase in question for phrase in (" more. How many now?", "together?", " adds "))
    assert taken != added, question
    return first - second if taken else first + second


def test_answers_follow_from_the_words() -> None:
    assert len(PROBLEMS) == 700
    for problem in PROBLEMS:
        assert problem.answer == answer_from_words(problem.question), problem.question
        assert 0 <= problem.answer <= 2 * LARGEST_OPERAND


def test_no_question_is_in_two_splits_or_twice_in_one() -> None:
    assert {name: len(split) for name, split in SPLITS.items()} == {"train": 500, "validation": 100, "held_out": 100}
    assert len({problem.question for problem in PROBLEMS}) == 700


def test_equal_seeds_draw_equal_problems_and_others_differ() -> None:
    assert draw_splits(3, {"train": 500})["train"] == SPLITS["train"]
    assert draw_splits(4, {"train": 500})["train"] != SPLITS["train"]


def test_the_environment_rewards_the_worked_solution_alone() -> None:
    for problem in PROBLEMS[:50]:
        for response, reward in ((problem.solution, 1.0), (f"#### {problem.answer + 1}", 0.0)):
            extras = {"reward_spec": {"method": "rule", "ground_truth": str(problem.answer)}}
            environment = skyrl_gym.make("gsm8k", env_config={}, extras=extras)
            assert environment.step(response)["reward"] == reward


RESPONSES = {
    "worked": ("3 + 4 = 7 #### 7", "7"),
    "only the answer": ("#### 7", "7"),
    "the first match counts": ("#### 8 #### 7", "7"),
    "commas go": ("#### 1,007", "1007"),
    "a full stop is part of it": ("#### 7.", "7"),
    "no space": ("####7", "7"),
    "negative": ("#### -7", "-7"),
    "nothing": ("", "7"),
}


@pytest.mark.parametrize(("response", "truth"), RESPONSES.values(), ids=RESPONSES)
def test_the_stopping_rule_judges_as_the_environment_does(response: str, truth: str) -> None:
    extras = {"reward_spec": {"method": "rule", "ground_truth": truth}}
    environment = skyrl_gym.make("gsm8k", env_config={}, extras=extras)
    assert is_correct(response, truth) == (environment.step(response)["reward"] == 1.0)


def test_demonstrations_are_worked_and_right_or_guessed_and_wrong() -> None:
    shown = demonstrate(SPLITS["train"], seed=1, rounds=4, worked_share=0.35)
    truths = {problem.question: problem for problem in SPLITS["train"]}
    worked = [item for item in shown if item.response == truths[item.question].solution]
    guessed = [item for item in shown if re.fullmatch(r"#### \d+", item.response)]
    assert len(worked) + len(guessed) == len(shown) == 2000
    assert 0.3 < len(worked) / len(shown) < 0.4
    right = [item for item in guessed if is_correct(item.response, str(truths[item.question].answer))]
    assert all(truths[item.question].answer == 0 for item in right)


TEXTS = {
    "a worked line": "12 + 7 = 19 #### 19",
    "other words": "Zebras, naïve — 東京 🎈\n\n\ttab  two spaces",
    "numbers": " 1,000.50 -3",
}


@pytest.mark.parametrize("text", [*TEXTS.values(), PROBLEMS[0].question], ids=[*TEXTS, "a question"])
def test_any_text_comes_back_from_the_tokenizer(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER(text)["input_ids"]) == text


def test_words_and_digits_are_single_tokens_and_prompts_are_short() -> None:
    assert TOKENIZER.convert_ids_to_tokens(TOKENIZER("Baker has 10 apples #### 10")["input_ids"]) == (
        ["Baker", "Ġhas", "Ġ", "1", "0", "Ġapples", "Ġ####", "Ġ", "1", "0"]
    )
    lengths = [len(TOKENIZER(render_prompt(TOKENIZER, problem.question))["input_ids"]) for problem in PROBLEMS]
    assert max(lengths) <= 40
    assert max(len(TOKENIZER(problem.solution)["input_ids"]) for problem in PROBLEMS) <= 16


def test_the_chat_template_ends_messages_with_the_end_of_response() -> None:
    rendered = render_prompt(TOKENIZER, "How many?")
    assert rendered == "<|im_start|>user\nHow many?<|im_end|>\n<|im_start|>assistant\n"
    assert TOKENIZER.eos_token == "<|im_end|>"
    assert TOKENIZER(rendered)["input_ids"].count(TOKENIZER.eos_token_id) == 1
    assert TOKENIZER.pad_token_id != TOKENIZER.eos_token_id


def test_labels_are_the_response_and_its_end() -> None:
    shown = demonstrate(SPLITS["train"][:6], seed=1, rounds=1, worked_share=0.5)
    encoded = encode_demonstrations(TOKENIZER, shown)
    for row, item in enumerate(shown):
        labels = encoded.labels[row][encoded.labels[row] != IGNORED]
        assert TOKENIZER.decode(labels) == item.response + "<|im_end|>"
        whole = encoded.tokens[row][encoded.attention_mask[row] == 1]
        assert TOKENIZER.decode(whole) == render_prompt(TOKENIZER, item.question) + item.response + "<|im_end|>"


def test_an_epoch_shows_each_row_once_and_the_next_in_another_order() -> None:
    batches = shuffled_batches(8, 4, seed=1)
    first, second = (torch.cat([next(batches), next(batches)]).tolist() for _ in range(2))
    assert sorted(first) == sorted(second) == list(range(8))
    assert first != second


def test_the_learning_rate_rises_then_falls() -> None:
    settings = WarmUpSettings(learning_rate=1.0, ramp_steps=10, flat_steps=100)
    assert [learning_rate_at(step, settings) for step in (1, 10, 100, 400)] == [0.1, 1.0, 1.0, 0.5]


def test_the_data_has_the_row_format(prepared: Path) -> None:
    for split, name, count in (("train", "train.parquet", 16), ("validation", "validation.parquet", 4)):
        rows = parquet.read_table(prepared / name).to_pylist()
        assert len(rows) == count
        for index, row in enumerate(rows):
            (message,) = row["prompt"]
            assert message["role"] == "user"
            assert row["env_class"] == "gsm8k"
            truth = str(answer_from_words(message["content"]))
            assert row["reward_spec"] == {"method": "rule", "ground_truth": truth}
            assert row["extra_info"]["index"] == index
            assert row["extra_info"]["split"] == split
            assert row["extra_info"]["answer"].endswith(f"#### {truth}")


def test_every_loader_reads_the_same_tokenizer(prepared: Path) -> None:
    text = render_prompt(TOKENIZER, PROBLEMS[0].question) + PROBLEMS[0].solution
    for loader in (AutoTokenizer, PreTrainedTokenizerFast):
        loaded = loader.from_pretrained(prepared / "model")
        assert loaded(text)["input_ids"] == TOKENIZER(text)["input_ids"]
        assert loaded.eos_token_id == TOKENIZER.eos_token_id
        assert loaded.pad_token_id == TOKENIZER.pad_token_id
        message = [{"role": "user", "content": "How many?"}]
        assert loaded.apply_chat_template(message, add_generation_prompt=True, tokenize=False) == render_prompt(
            TOKENIZER, "How many?"
        )


def test_the_saved_model_is_a_trained_qwen2_in_safetensors(prepared: Path) -> None:
    assert (prepared / "model" / "model.safetensors").is_file()
    model = AutoModelForCausalLM.from_pretrained(prepared / "model")
    assert model.config.model_type == "qwen2"
    assert model.dtype == torch.float32
    assert model.generation_config.eos_token_id == TOKENIZER.eos_token_id
    untrained = build_model(TOKENIZER, TINY.seed, TINY.hidden_size, TINY.layers)
    assert any(
        not torch.equal(trained, fresh)
        for trained, fresh in zip(model.parameters(), untrained.parameters(), strict=True)
    )


def test_every_file_can_be_read_by_other_users(prepared: Path) -> None:
    modes = {path.name: path.stat().st_mode & 0o444 for path in prepared.rglob("*") if path.is_file()}
    assert "model.safetensors" in modes
    assert set(modes.values()) == {0o444}, modes


def test_the_model_of_the_recipe_has_heads_that_engines_accept() -> None:
    recipe = Recipe()
    config = build_model(TOKENIZER, recipe.seed, recipe.hidden_size, recipe.layers).config
    assert config.hidden_size // config.num_attention_heads in (32, 64)


def test_a_complete_output_is_left_alone(prepared: Path) -> None:
    before = contents(prepared)
    assert not prepare(prepared, TINY, lambda line: None)
    assert contents(prepared) == before
    assert not (prepared / WORKSPACE).exists()


def test_an_output_without_marker_is_made_again_and_comes_out_equal(prepared: Path, tmp_path: Path) -> None:
    (tmp_path / WORKSPACE / "model").mkdir(parents=True)  # as a run leaves it that was killed
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "leftover.bin").write_bytes(b"half")
    assert prepare(tmp_path, TINY, lambda line: None)
    assert contents(tmp_path) == contents(prepared)


def test_another_seed_replaces_the_output(tmp_path: Path) -> None:
    lines_of(tmp_path, TINY)
    first = json.loads((tmp_path / MARKER).read_text())
    other = Recipe(**{**vars(TINY), "seed": 6})
    lines = lines_of(tmp_path, other)
    second = json.loads((tmp_path / MARKER).read_text())
    assert first["digest"] != second["digest"] == recipe_digest(other, draw_material(other))
    assert any(line.startswith("warm-up step 2: loss ") for line in lines)


LIMITS = {
    "steps": (WarmUpSettings(target_accuracy=1.1, max_steps=2, check_every=1, batch_size=4), "limit of 2 steps"),
    "seconds": (WarmUpSettings(target_accuracy=1.1, max_seconds=0, check_every=1, batch_size=4), "limit of 0 s"),
}


@pytest.mark.parametrize(("settings", "limit"), LIMITS.values(), ids=LIMITS)
def test_a_warm_up_that_does_not_arrive_is_an_error_and_leaves_no_marker(
    settings: WarmUpSettings, limit: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=limit):
        prepare(tmp_path, Recipe(**{**vars(TINY), "warm_up": settings}), lambda line: None)
    assert not (tmp_path / MARKER).exists()


def test_solutions_are_written_as_the_reward_reads_them() -> None:
    assert Problem("", 3, "+", 4).solution == "3 + 4 = 7 #### 7"
    assert Problem("", 10, "-", 4).solution == "10 - 4 = 6 #### 6"
