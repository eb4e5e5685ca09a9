"""`kubectl rltrain plan` from a job's file to its text, its objects as YAML, and its exit code."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
import yaml

from rltrain_api.reading import parse_documents
from rltrain_operator.cli.__main__ import main
from rltrain_operator.cli.errors import CommandError
from rltrain_operator.cli.model_files import count_rows, parse_count, read_model_shape
from rltrain_operator.cli.plan_objects import TOKEN_PLACEHOLDER, UID_PLACEHOLDER, yaml_lines

EXAMPLES = Path(__file__).parents[2] / "examples"
QUICKSTART = str(EXAMPLES / "quickstart.yaml")
MODEL = {
    "model_type": "qwen2",
    "vocab_size": 151_936,
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A directory with a model's config.json."""
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(MODEL))
    return str(directory)


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Exit code and text of a command; nothing may be on stderr."""
    code = main(["plan", *words])
    output = capsys.readouterr()
    assert output.err == ""
    return code, output.out


def sections(text: str) -> dict[str, list[str]]:
    """The lines below each title."""
    parts = [part.splitlines() for part in text.strip().split("\n\n")]
    return {lines[0].split(" (")[0]: lines[1:] for lines in parts}


def words_of(lines: list[str]) -> list[list[str]]:
    """A table as words."""
    return [line.split() for line in lines]


def test_pools_batches_and_objects_of_the_quickstart(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = run(capsys, QUICKSTART)
    assert code == 0
    assert text.startswith(f"quickstart: the plan ({QUICKSTART}:6)\n")
    found = sections(text)
    assert words_of(found["Pools"]) == [
        ["pool", "pods", "GPUs", "CPU", "memory"],
        ["head", "1", "0", "1", "x", "200m", "1", "x", "3Gi"],
        ["trainer", "1", "2", "1", "x", "400m", "1", "x", "4Gi"],
        ["inference", "2", "2", "2", "x", "200m", "2", "x", "2Gi"],
        ["in", "all", "4", "4", "1", "11.0", "GiB"],
    ]
    assert found["Batches of one training step"] == [
        "  32 prompts x 8 samples = 256 sequences of at most 88 tokens",
        "  policy: 2 optimiser steps on 16 prompts each; 64 sequences on each of 2 data-parallel ranks, in 1 "
        "micro-batch of 64",
        "  log-probabilities: 1 forward pass of 128 sequences on each data-parallel rank",
    ]
    assert found["Steps"] == ["  unknown: pass --rows with the number of training prompts; 32 make a step"]
    assert "--model-config" in " ".join(found["Memory"])
    assert [row[:2] for row in words_of(found["Objects that would be made"])] == [
        ["PersistentVolumeClaim", "quickstart-checkpoints"],
        ["PersistentVolumeClaim", "quickstart-data"],
        ["Secret", "quickstart-tokens"],
        ["ConfigMap", "quickstart-config-1"],
        ["Job", "quickstart-init-arithmetic"],
        ["PodDisruptionBudget", "quickstart"],
        ["RayCluster", "quickstart"],
        ["ConfigMap", "quickstart-history"],
    ]


def test_memory_from_a_models_config(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = run(capsys, QUICKSTART, "--model-config", model, "--gpu-memory", "80Gi")
    assert code == 0
    found = sections(text)
    assert found["Model"] == ["  qwen2, 1,543,714,304 parameters"]
    trains = found["Memory of a GPU that trains"]
    # float32: 4 bytes of 1.54e9 parameters on 2 GPUs are 2.9 GiB; the moments are twice that
    assert ["policy:", "weights", "2.9", "GiB"] in words_of(trains)
    assert ["policy:", "optimiser's", "moments", "5.8", "GiB"] in words_of(trains)
    assert trains[-1].startswith("  fits: ")
    generates = found["Memory of a GPU that generates"]
    assert "  a token takes 56.0 KiB of cache" in generates
    assert any(line.startswith("  the cache holds ") for line in generates)
    # The same from the file itself.
    assert run(capsys, QUICKSTART, "--model-config", f"{model}/config.json", "--gpu-memory", "80Gi") == (0, text)


def test_what_does_not_fit_says_what_to_do(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, text = run(capsys, QUICKSTART, "--model-config", model, "--gpu-memory", "16Gi")
    verdict = sections(text)["Memory of a GPU that trains"][-1]
    assert verdict.startswith("  DOES NOT FIT: ")
    assert "lower micro_train_batch_size_per_gpu" in verdict


def test_a_number_of_parameters_is_enough_for_states(capsys: pytest.CaptureFixture[str]) -> None:
    _, text = run(capsys, QUICKSTART, "--parameters", "7B")
    found = sections(text)
    assert found["Model"][0] == "  7,000,000,000 parameters"
    assert "pass --model-config" in found["Model"][1]
    assert any("policy: weights" in line for line in found["Memory of a GPU that trains"])
    assert "Memory of a GPU that generates" not in found


def test_the_policy_on_this_machine_needs_no_flag(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = tmp_path / "job.yaml"
    text = Path(QUICKSTART).read_text().replace("path: /data/model", f"path: {model}")
    job.write_text(text.replace("mountPath: /data\n", f"mountPath: {tmp_path}\n").replace("/data/", f"{tmp_path}/"))
    code, output = run(capsys, str(job))
    assert code == 0
    assert sections(output)["Model"] == ["  qwen2, 1,543,714,304 parameters"]


def test_steps_from_rows(capsys: pytest.CaptureFixture[str]) -> None:
    _, text = run(capsys, QUICKSTART, "--rows", "2_000")
    assert sections(text)["Steps"] == [
        "  2,000 rows / 32 = 62 steps an epoch (16 rows left out), x 2 epochs = 124 steps",
        "  17 evaluations, 8 checkpoints",
    ]
    _, text = run(capsys, QUICKSTART, "--rows", "31")
    assert sections(text)["Steps"][1] == "  no step at all: lower train_batch_size to 31 or less"


def test_engines_on_the_trainer_s_gpus_have_no_pods(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(EXAMPLES / "backends" / "vllm-colocated.yaml")
    code, text = run(capsys, path, "--model-config", model, "--gpu-memory", "80Gi")
    found = sections(text)
    assert code == 0
    assert [row[0] for row in words_of(found["Pools"])] == ["pool", "head", "trainer", "in"]
    assert "on the GPUs that train: engines sleep" in found["Memory of a GPU that generates"][-1]
    assert ["RayCluster", "vllm-colocated", "1", "head,", "1", "trainer"] in words_of(
        found["Objects that would be made"]
    )


def test_a_job_that_this_release_does_not_carry_out_gets_no_objects(capsys: pytest.CaptureFixture[str]) -> None:
    path = str(EXAMPLES / "backends" / "fully-async.yaml")
    code, text = run(capsys, path)
    assert code == 0
    assert "note: spec.config.trainer.fully_async" in text
    assert sections(text)["Objects that would be made"] == ["  none: see the note above"]
    code, text = run(capsys, path, "-o", "yaml")
    assert code == 0
    assert all(line.startswith("# ") for line in text.splitlines())


def test_an_invalid_job_shows_its_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(Path(QUICKSTART).read_text().replace("train_batch_size: 32", "train_batch_size: 30"))
    code, text = run(capsys, str(path))
    assert code == 1
    lines = text.splitlines()
    assert lines[0] == "quickstart is invalid, so there is no plan of it:"
    assert lines[1].startswith(f"{path}:37: spec.config.trainer.train_batch_size: 30 prompts")
    assert len(lines) == 2
    code, text = run(capsys, str(path), "-o", "yaml")
    assert code == 1
    assert all(line.startswith("# ") for line in text.splitlines())


def test_yaml_is_the_same_each_time_and_what_kubectl_reads(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = run(capsys, QUICKSTART, "-o", "yaml")
    assert code == 0
    assert run(capsys, QUICKSTART, "-o", "yaml") == (0, text)
    documents = [document.data for document in parse_documents(text, "plan.yaml")]
    assert [document["kind"] for document in documents] == [
        "PersistentVolumeClaim",
        "PersistentVolumeClaim",
        "Secret",
        "ConfigMap",
        "Job",
        "PodDisruptionBudget",
        "RayCluster",
        "ConfigMap",
    ]
    secret, config = documents[2], documents[3]
    assert set(secret["stringData"].values()) == {TOKEN_PLACEHOLDER}
    assert config["metadata"]["ownerReferences"][0]["uid"] == UID_PLACEHOLDER
    assert json.loads(config["data"]["config.json"])["trainer"]["train_batch_size"] == 32
    assert '      "train_batch_size": 32,' in text  # lines of their own, so that a diff shows one


def test_secrets_in_the_open_are_not_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "job.yaml"
    variables = "    env: [{name: WANDB_API_KEY, value: abc123}, {name: PLAIN, value: '1e-6'}]\n    image:"
    path.write_text(Path(QUICKSTART).read_text().replace("    image:", variables))
    code, text = run(capsys, str(path), "-o", "yaml")
    assert code == 0
    assert "abc123" not in text
    (cluster,) = (d.data for d in parse_documents(text, "plan.yaml") if d.data["kind"] == "RayCluster")
    (container,) = cluster["spec"]["headGroupSpec"]["template"]["spec"]["containers"]
    values = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert values["WANDB_API_KEY"] == "<secret>"
    assert values["PLAIN"] == "1e-6"


TEXTS = [
    "",
    "1e-6",
    "y",
    "No",
    "1:30",
    "017",
    ".inf",
    "null",
    "a: b",
    "a\nb\n",
    "a\n\tb",
    "é",
    "# a",
    " a ",
    "*a",
    "{a}",
]


def test_text_stays_text_for_every_reader() -> None:
    lines = yaml_lines([{"texts": TEXTS, **{f"key{index}": text for index, text in enumerate(TEXTS)}}])
    assert all(line.isprintable() and line.isascii() for line in lines)
    text = "\n".join(lines) + "\n"
    (document,) = parse_documents(text, "plan.yaml")
    assert document.data["texts"] == TEXTS
    assert yaml.safe_load(text)["texts"] == TEXTS


def test_several_jobs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = Path(QUICKSTART).read_text()
    path = tmp_path / "jobs.yaml"
    path.write_text(f"{text}---\n{text.replace('train_batch_size: 32', 'train_batch_size: 30')}")
    code, output = run(capsys, str(path))
    assert code == 1
    assert output.startswith("quickstart: the plan")
    assert "\n\nquickstart is invalid" in output


def test_standard_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(Path(QUICKSTART).read_bytes())))
    code, text = run(capsys, "-")
    assert code == 0
    assert text.startswith("quickstart: the plan (<stdin>:6)\n")


# Words after `plan QUICKSTART` -> what the one line on stderr says.
BAD_WORDS: dict[str, tuple[list[str], str]] = {
    "a size without a unit": (["--gpu-memory", "80"], "'80' is no size of a GPU's memory, such as 80Gi"),
    "a size beyond all GPUs": (["--gpu-memory", "1e999999999"], "is no size of a GPU's memory"),
    "no number": (["--gpu-memory", "nan"], "'nan' is no size of a GPU's memory"),
    "a unit of another kind": (["--gpu-memory", "80GB"], "'80GB' is no size of a GPU's memory"),
    "no number of parameters": (["--parameters", "big"], "'big' is no number of parameters, such as 7B"),
    "none": (["--parameters", "0"], "'0' is no number of parameters"),
    "no rows": (["--rows", "0"], "'0' is no number of rows"),
    "rows in words": (["--rows", "many"], "'many' is no number of rows"),
    "two models": (["--parameters", "7B", "--model-config", "x"], "not allowed with argument"),
}


@pytest.mark.parametrize("case", BAD_WORDS)
def test_bad_arguments(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    words, expected = BAD_WORDS[case]
    with pytest.raises(SystemExit) as refusal:
        main(["plan", QUICKSTART, *words])
    assert refusal.value.code == 2
    assert expected in capsys.readouterr().err


# Contents of config.json -> what is said about it.
BAD_CONFIGS: dict[str, tuple[bytes | None, str]] = {
    "missing": (None, "cannot be read: No such file or directory"),
    "no JSON": (b"a: 1", "is no JSON: Expecting value"),
    "no object": (b"[]", "holds no JSON object"),
    "another family": (b'{"model_type": "gpt2"}', "model_type 'gpt2' is none of"),
    "half": (b'{"model_type": "llama"}', "hidden_size is missing"),
    "bytes": (b"\xff\xfe\x00", "codec can't decode"),
    "deep": (b"[" * 100_000, "is no JSON: maximum recursion"),
    "large": (b" " * 1_048_577, "is larger than 1,048,576 bytes"),
}


@pytest.mark.parametrize("case", BAD_CONFIGS)
def test_bad_model_configs(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, expected = BAD_CONFIGS[case]
    path = tmp_path / "config.json"
    if content is not None:
        path.write_bytes(content)
    assert main(["plan", QUICKSTART, "--model-config", str(path)]) == 2
    output = capsys.readouterr()
    assert output.err.startswith(f"kubectl rltrain plan: {path}: ")
    assert expected in output.err
    assert output.err.count("\n") == 1


@pytest.mark.parametrize(("path", "expected"), [("no.yaml", "cannot be read"), (".", "is a directory")])
def test_unusable_files(path: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", path]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert expected in output.err


COUNTS: dict[str, int] = {
    "7B": 7_000_000_000,
    "1.5b": 1_500_000_000,
    "494M": 494_000_000,
    "70_000": 70_000,
    "494,032,768": 494_032_768,
    "1T": 10**12,
}


@pytest.mark.parametrize("text", COUNTS)
def test_numbers_of_parameters(text: str) -> None:
    assert parse_count(text) == COUNTS[text]


@pytest.mark.parametrize("text", ["", "B", "7X", "-7B", "7 B", "1e9", "999T", "0.0000000001B"])
def test_what_is_no_number_of_parameters(text: str) -> None:
    with pytest.raises(ValueError, match="is no number of parameters"):
        parse_count(text)


def test_rows_of_json_lines(tmp_path: Path) -> None:
    first, second = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    first.write_text('{"a": 1}\n{"a": 2}\n\n')
    second.write_text('{"a": 3}')
    assert count_rows([str(first), str(second)]) == 3
    assert count_rows([str(first), str(tmp_path / "c.jsonl")]) is None
    assert count_rows([str(first), "/data/train.parquet"]) is None


def test_a_models_directory_without_a_config(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"config\.json: cannot be read"):
        read_model_shape(tmp_path)
