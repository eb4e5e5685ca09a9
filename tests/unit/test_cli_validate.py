"""`kubectl rltrain validate` from files to its report and exit code, with the mistakes that people make."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rltrain_operator.cli.__main__ import main

EXAMPLES = Path(__file__).parents[2] / "examples"
QUICKSTART = (EXAMPLES / "quickstart.yaml").read_text(encoding="utf-8")
CONFIG_MAP = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: rewards\n"


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, list[str]]:
    """Exit code and lines of a command; nothing may be on stderr."""
    code = main(["validate", *words])
    output = capsys.readouterr()
    assert output.err == ""
    return code, output.out.splitlines()


def changed(*replacements: tuple[str, str]) -> str:
    """The quickstart with texts replaced, each of which must be there once."""
    text = QUICKSTART
    for old, new in replacements:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def line_of(text: str, part: str) -> int:
    """The number of the one line that holds `part`."""
    (number,) = [number for number, line in enumerate(text.splitlines(), start=1) if part in line]
    return number


def write(directory: Path, text: str | bytes, name: str = "job.yaml") -> str:
    """The path of a new file."""
    path = directory / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def test_a_valid_job(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, str(EXAMPLES / "quickstart.yaml")) == (0, ["quickstart is valid"])


def test_several_valid_jobs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    second = changed(("name: quickstart\nspec", "name: second\nspec"))
    assert run(capsys, write(tmp_path, f"{QUICKSTART}---\n{second}")) == (0, ["all 2 jobs are valid"])


def test_every_error_has_its_line_and_they_are_in_the_order_of_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = changed(
        ("train_batch_size: 32", "train_batch_size: 30"),
        ("ckpt_path: /checkpoints/quickstart", "ckpt_path: /elsewhere"),
        ("num_warmup_steps: 5", "num_warmup_steps: 5  # fine"),
    )
    path = write(tmp_path, text)
    code, lines = run(capsys, path)
    config = "spec.config.trainer"
    assert code == 1
    assert lines[0].startswith(f"{path}:{line_of(text, 'train_batch_size: 30')}: {config}.train_batch_size: 30 prompts")
    assert lines[1].startswith(f"{path}:{line_of(text, 'ckpt_path')}: {config}.ckpt_path: '/elsewhere'")
    assert lines[2:] == ["", "2 errors in quickstart"]


def test_errors_of_form_and_between_fields_come_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = changed(("lr: 3.0e-4", "lr: fast"), ("train_batch_size: 32", "train_batch_size: 30"))
    code, lines = run(capsys, write(tmp_path, text))
    assert code == 1
    assert "optimizer_config.lr: must be a number; got 'fast'" in lines[0]
    assert "train_batch_size: 30 prompts are not a multiple" in lines[1]
    assert lines[2:] == ["", "2 errors in quickstart"]


def test_what_depends_on_a_field_of_the_wrong_form_is_said_to_come_later(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = changed(("policy_mini_batch_size: 16", "policy_mini_batch_size: some"))
    code, lines = run(capsys, write(tmp_path, text))
    assert code == 1
    assert len(lines) == 4
    assert "policy_mini_batch_size: must be an integer" in lines[0]
    assert lines[2] == "1 error in quickstart"
    assert "could not be told yet" in lines[3]


def test_errors_of_several_jobs_are_grouped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = changed(("train_batch_size: 32", "train_batch_size: 30"), ("name: quickstart\nspec", "name: second\nspec"))
    text = f"{CONFIG_MAP}---\n{QUICKSTART}---\n{bad}"
    path = write(tmp_path, text)
    code, lines = run(capsys, path)
    assert code == 1
    assert lines == [
        f"{path}:1: skipped ConfigMap/rewards",
        "",
        "second: 1 error",
        lines[3],
        "",
        "1 error in 1 of 2 jobs",
    ]
    assert lines[3].startswith(f"{path}:{line_of(text, 'train_batch_size: 30')}: ")


# What people hand in -> what the first error line says about it.
MISTAKES: dict[str, tuple[str, str]] = {
    "another case": (
        changed(("kind: RLTrainingJob\n", "kind: RLTrainingjob\n")),
        "kind: must be one of 'RLTrainingJob'; got 'RLTrainingjob'",
    ),
    "no kind": (changed(("kind: RLTrainingJob\n", "")), "kind: is required and missing; add kind: RLTrainingJob"),
    "no apiVersion": (
        changed(("apiVersion: rltrain.io/v1alpha1\n", "")),
        "apiVersion: is required and missing; add apiVersion: rltrain.io/v1alpha1",
    ),
    "another version": (
        changed(("apiVersion: rltrain.io/v1alpha1\n", "apiVersion: rltrain.io/v1\n")),
        "apiVersion: must be one of 'rltrain.io/v1alpha1'; got 'rltrain.io/v1'",
    ),
    "no name": (changed(("  name: quickstart\nspec", "  labels: {a: b}\nspec")), "metadata.name: is required"),
    "no spec": (QUICKSTART[: QUICKSTART.index("spec:")], "spec: is required and missing; add it"),
    "an empty spec": (QUICKSTART[: QUICKSTART.index("spec:")] + "spec:\n", "spec: must not be null"),
    "a field with a slip": (
        changed(("train_batch_size: 32", "train_batchsize: 32")),
        "spec.config.trainer.train_batchsize: there is no such field; did you mean 'train_batch_size'?",
    ),
    "SkyRL's sections in the spec": (
        changed(("  runtime:\n", "  data: {train_data: [/data/a.parquet]}\n  runtime:\n")),
        "spec.data: there is no such field here; it belongs below spec.config",
    ),
    "in a neighbouring section": (
        changed(("policy_num_gpus_per_node: 2", "policy_num_gpus_per_node: 2\n        num_engines: 3")),
        "spec.config.trainer.placement.num_engines: there is no such field here; it belongs below "
        "spec.config.generator.inference_engine",
    ),
    "too far to the right": (
        changed(
            ("  runtime:\n    image:", "    runtime:\n      image:"), ("    imagePullPolicy", "      imagePullPolicy")
        ),
        "spec.config.runtime: there is no such field here; it belongs below spec, indented accordingly",
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    text, expected = MISTAKES[case]
    path = write(tmp_path, text)
    code, lines = run(capsys, path)
    assert code == 1
    assert all(line.startswith(f"{path}:") for line in lines[: lines.index("")])
    assert any(f": {expected}" in line for line in lines), lines


# What is no job at all -> what the one line says.
UNUSABLE: dict[str, tuple[str | bytes, str]] = {
    "a SkyRL configuration": ("data:\n  train_data: [a]\ntrainer:\n  epochs: 1\n", "kubectl rltrain convert"),
    "a kustomization": ("resources:\n- job.yaml\n", "is a kustomization; render it first"),
    "a kustomization with its kind": (
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [job.yaml]\n",
        "is a kustomization",
    ),
    "another object": (CONFIG_MAP, "holds no RLTrainingJob, but ConfigMap/rewards"),
    "something": ("a: 1\n", "begin it with apiVersion: rltrain.io/v1alpha1 and kind: RLTrainingJob"),
    "a tab": (QUICKSTART.replace("  config:", "\tconfig:"), "is indented with a tab"),
    "an indentation": (QUICKSTART.replace("  runtime:", " runtime:"), "indent it like its neighbours"),
    "ten megabytes": (b"a: 1\n" * 2_097_152, "is too large: 10.0 MiB"),
    "junk": (bytes(range(128, 256)) * 8, "is not a text file"),
    "nothing": ("", "is empty"),
    "a template": ("apiVersion: rltrain.io/v1alpha1\nkind: {{ .Values.kind }}\n", "helm template"),
    "laughs": (
        "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in ("ab", "bc", "cd", "de", "ef")),
        "more than 100,000 values",
    ),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_what_cannot_be_used_gets_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    content, expected = UNUSABLE[case]
    path = write(tmp_path, content)
    code, lines = run(capsys, path)
    assert code == 2
    assert lines[0].startswith(f"{path}:")
    assert expected in lines[0]
    assert lines[1:] == ["", "1 file could not be used"]


def test_an_unusable_file_hides_neither_errors_nor_valid_jobs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = write(tmp_path, changed(("train_batch_size: 32", "train_batch_size: 30")))
    code, lines = run(capsys, str(tmp_path), str(tmp_path / "no.yaml"), str(EXAMPLES / "quickstart.yaml"), bad)
    assert code == 2
    assert lines[:3] == [
        f"{tmp_path}: is a directory; name the files in it, such as {tmp_path}/*.yaml",
        f"{tmp_path / 'no.yaml'}: cannot be read: No such file or directory",
        "",
    ]
    assert lines[3] == "quickstart: 1 error"
    assert lines[-1] == "1 error in 1 of 2 jobs; 2 files could not be used"


def test_standard_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    bad = changed(("train_batch_size: 32", "train_batch_size: 30"))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(bad.encode())))
    code, lines = run(capsys, "-")
    assert code == 1
    assert lines[0].startswith(f"<stdin>:{line_of(bad, 'train_batch_size: 30')}: ")


def test_what_the_api_server_answers_is_valid_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`kubectl get rltj -o json`: a List, with status and metadata that a person never writes."""
    import yaml

    job: dict[str, Any] = yaml.safe_load(QUICKSTART)
    job["metadata"] |= {
        "uid": "4a",
        "generation": 2,
        "creationTimestamp": "2026-05-01T12:00:00Z",
        "managedFields": [{"manager": "kubectl"}],
    }
    job["status"] = {"phase": "Running", "attempt": 1}
    path = write(tmp_path, json.dumps({"apiVersion": "v1", "kind": "List", "items": [job, job]}), "jobs.json")
    assert run(capsys, path) == (0, ["all 2 jobs are valid"])


def test_notes_are_about_what_this_release_will_not_carry_out(capsys: pytest.CaptureFixture[str]) -> None:
    path = EXAMPLES / "backends" / "fully-async.yaml"
    code, lines = run(capsys, str(path))
    assert code == 0
    number = line_of(path.read_text(encoding="utf-8"), "fully_async:")
    assert lines[0].startswith(f"{path}:{number}: note: spec.config.trainer.fully_async: asks for fully asynchronous")
    assert lines[1:] == ["", "fully-async is valid"]


def test_json_for_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = f"{CONFIG_MAP}---\n{changed(('train_batch_size: 32', 'train_batch_size: 30'))}"
    path = write(tmp_path, text)
    code, lines = run(capsys, "-o", "json", path, str(tmp_path))
    report = json.loads("\n".join(lines))
    assert code == 2
    (job,) = report["jobs"]
    assert (job["source"], job["name"], job["notes"]) == (path, "quickstart", [])
    (error,) = job["errors"]
    assert error == {
        "line": line_of(text, "train_batch_size: 30"),
        "path": "spec.config.trainer.train_batch_size",
        "code": "NotDivisible",
        "message": error["message"],
    }
    assert report["skipped"] == [{"source": path, "line": 1, "what": "ConfigMap/rewards"}]
    assert [(entry["source"], entry["line"]) for entry in report["unusable"]] == [(str(tmp_path), None)]


def test_no_escape_sequence_reaches_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = changed(("logger: console", 'logger: "\\e[2J\\e]0;x"'))
    _, lines = run(capsys, write(tmp_path, text))
    assert all(line.isprintable() for line in lines)


# Heavy libraries cost the command its speed; the cluster's client and the operator's own are not needed offline.
UNWANTED = ("torch", "ray", "kopf", "kubernetes", "aiohttp", "transformers", "numpy", "omegaconf", "matplotlib")


@pytest.mark.parametrize("verb", ["validate", "plan"])
def test_the_command_imports_nothing_heavy(verb: str) -> None:
    program = (
        "import sys; from rltrain_operator.cli.__main__ import main; "
        f"code = main([{verb!r}, sys.argv[1]]); "
        f"print([name for name in {UNWANTED!r} if name in sys.modules], file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(EXAMPLES / "quickstart.yaml")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr.strip()) == (0, "[]")
