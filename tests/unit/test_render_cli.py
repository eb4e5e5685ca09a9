"""`kubectl rltrain render`: the file on standard output, everything else on standard error, and how it exits."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest

from rltrain_api.yaml_text import yaml_text
from rltrain_operator.cli.__main__ import main
from skyrl_jobs import skyrl_document

PLACES = ["skyrl", "slurm", "modal", "rayjob"]
QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart.yaml"
Captured = pytest.CaptureFixture[str]


def written(directory: Path, *documents: dict[str, Any]) -> str:
    path = directory / "job.yaml"
    path.write_text("---\n".join(yaml_text(document) for document in documents))
    return str(path)


@pytest.mark.parametrize("place", PLACES)
def test_a_builtin_job_is_rendered_with_notes_about_what_changes(place: str, capsys: Captured) -> None:
    assert main(["render", str(QUICKSTART), "--to", place]) == 0
    shown = capsys.readouterr()
    assert "skyrl.train.entrypoints.main_base" in shown.out
    assert "trainer.epochs=2" in shown.out
    assert "inference_engine.backend" not in shown.out
    assert "note: spec.config.generator.inference_engine.backend: builtin is left out" in shown.err
    assert all(line.startswith("note: ") for line in shown.err.splitlines())


def test_standard_input_is_read(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    text = io.TextIOWrapper(io.BytesIO(QUICKSTART.read_bytes()))
    monkeypatch.setattr(sys, "stdin", text)
    assert main(["render", "-", "--to", "skyrl"]) == 0
    assert "trainer.epochs=2" in capsys.readouterr().out


def test_text_beyond_the_terminals_encoding_is_written_as_it_is(tmp_path: Path, capsys: Captured) -> None:
    document = skyrl_document(config={"trainer": {"run_name": "日本\tx"}})
    assert main(["render", written(tmp_path, document), "--to", "modal"]) == 0
    assert "日本" in capsys.readouterr().out


# Name -> (what is changed in the spec, place, a line on standard error).
REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "a job that is not valid": (
        {"config": {"trainer": {"train_batch_size": 7}}},
        "skyrl",
        "spec.config.trainer.train_batch_size: 7 prompts",
    ),
    "a job of the wrong form": ({"config": {"trainer": {"epoch": 7}}}, "slurm", "spec.config.trainer.epoch: "),
    "a text that upstream would replace": (
        {"config": {"trainer": {"run_name": "run-${USER}"}}},
        "skyrl",
        "words cannot run with upstream SkyRL's trainer; nothing is rendered",
    ),
    "a model that Modal has no container for": (
        {
            "config": {
                "trainer": {"placement": {"policy_num_gpus_per_node": 16, "ref_num_gpus_per_node": 16}},
                "generator": {"inference_engine": {"num_engines": 16}},
            }
        },
        "modal",
        "words cannot run on Modal: a model has 16 GPUs on each node",
    ),
}


@pytest.mark.parametrize(("spec", "place", "line"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_rendered_is_said_and_nothing_is_written(
    spec: dict[str, Any], place: str, line: str, tmp_path: Path, capsys: Captured
) -> None:
    assert main(["render", written(tmp_path, skyrl_document(**spec)), "--to", place]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert line in shown.err


def test_an_error_has_the_line_of_its_field(tmp_path: Path, capsys: Captured) -> None:
    path = written(tmp_path, skyrl_document(config={"trainer": {"train_batch_size": 7}}))
    line = 1 + next(
        index for index, text in enumerate(Path(path).read_text().splitlines()) if "train_batch_size" in text
    )
    assert main(["render", path, "--to", "skyrl"]) == 1
    assert f"{path}:{line}: spec.config.trainer.train_batch_size: " in capsys.readouterr().err


def test_two_jobs_are_one_too_many(tmp_path: Path, capsys: Captured) -> None:
    assert main(["render", written(tmp_path, skyrl_document(), skyrl_document()), "--to", "skyrl"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "holds 2 jobs (words, words)" in shown.err


def test_other_documents_beside_the_job_do_not_matter(tmp_path: Path, capsys: Captured) -> None:
    other = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}}
    assert main(["render", written(tmp_path, other, skyrl_document()), "--to", "skyrl"]) == 0
    assert "trainer.policy.model.path=/data/model" in capsys.readouterr().out


UNUSABLE = {"an empty file": b"", "no job": b"kind: Pod\napiVersion: v1\n", "no text": b"\x00\x01\x02"}


@pytest.mark.parametrize("content", UNUSABLE.values(), ids=UNUSABLE.keys())
def test_a_file_that_cannot_be_used_is_one_line(content: bytes, tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(content)
    assert main(["render", str(path), "--to", "skyrl"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert len(shown.err.splitlines()) == 1
    assert str(path) in shown.err


@pytest.mark.parametrize("words", [["render", "x.yaml"], ["render", "x.yaml", "--to", "nomad"], ["render"]])
def test_bad_arguments_are_usage(words: list[str], capsys: Captured) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert "usage: kubectl rltrain render" in capsys.readouterr().err
