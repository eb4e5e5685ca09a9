"""`kubectl rltrain convert` from its arguments to its exit code, with real files."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import yaml

from rltrain_operator.cli.__main__ import main

SCRIPT = """\
: "${NUM_GPUS:=2}"
python -m skyrl.train.entrypoints.main_base \\
  trainer.placement.policy_num_gpus_per_node=$NUM_GPUS \\
  trainer.placement.ref_num_gpus_per_node=$NUM_GPUS \\
  generator.inference_engine.num_engines=$NUM_GPUS \\
  trainer.run_name=mine
"""


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, list[str]]:
    code = main(["convert", *words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err.splitlines()


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("run_mine.sh").write_text(SCRIPT, encoding="utf-8")
    return "run_mine.sh"


def test_the_job_goes_to_standard_output_and_the_notes_with_their_lines_to_standard_error(
    script: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, script, "--image", "x/y:1")
    document = yaml.safe_load(out)
    assert code == 0
    assert document["kind"] == "RLTrainingJob"
    assert document["metadata"]["name"] == "mine"
    assert document["spec"]["config"]["trainer"]["placement"]["policy_num_gpus_per_node"] == 2
    assert err[0] == "run_mine.sh: note: trainer.ckpt_path is /checkpoints, SkyRL's default being in a home directory"
    assert err[-1] == "mine: everything was carried over, 4 to check, the job is valid"


def test_variables_and_names_can_be_given(script: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, script, "--image", "x/y:1", "--set", "NUM_GPUS=8", "--name", "other")
    document = yaml.safe_load(out)
    assert code == 0
    assert document["metadata"]["name"] == "other"
    assert document["spec"]["config"]["generator"]["inference_engine"]["num_engines"] == 8


def test_what_is_missing_is_counted_and_ends_with_1(script: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path(script).write_text(f"cp a b\n{SCRIPT}", encoding="utf-8")
    code, out, err = run(capsys, script)
    assert code == 1
    assert yaml.safe_load(out)["kind"] == "RLTrainingJob"
    assert err[0] == (
        "run_mine.sh:1: missing: `cp` is not carried over: it moves or fetches files; if the run needs it, let an "
        "initializer do it (spec.storage.initializers)"
    )
    assert err[-1] == "mine: 2 missing, 4 to check, the job is valid"


def test_a_job_that_is_not_valid_ends_with_1_and_says_why(script: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, script, "--image", "x/y:1", "--trainer", "builtin")
    assert code == 1
    invalid = [line for line in err if line.startswith("run_mine.sh: invalid: spec.config.")]
    assert any("generator.inference_engine.backend: is unset, and SkyRL's default is vllm" in line for line in invalid)
    assert err[-1].endswith(f"{len(invalid)} invalid")


def test_what_is_not_valid_is_told_with_the_line_that_set_it(script: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path(script).write_text(f"{SCRIPT.rstrip()} \\\n  trainer.epochs=0 data.train_data='[1]'\n", encoding="utf-8")
    code, _, err = run(capsys, script, "--image", "x/y:1")
    assert code == 1
    assert err[-3:-1] == [
        "run_mine.sh:7: invalid: spec.config.data.train_data[0]: must be a string; put it in quotes; got 1",
        "run_mine.sh:7: invalid: spec.config.trainer.epochs: must be at least 1; got 0",
    ]


def test_overrides_can_stand_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "trainer.epochs=3", "+generator.backend=vllm", "--image", "x/y:1")
    config = yaml.safe_load(out)["spec"]["config"]
    assert code == 0
    assert config["trainer"]["epochs"] == 3
    assert config["generator"]["inference_engine"]["backend"] == "vllm"
    assert err[0].startswith("<arguments>:2: note: +generator.backend: '+' is Hydra's prefix")


def test_standard_input_is_read(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(b"trainer:\n  seed: 7\n"))
    monkeypatch.setattr("sys.stdin", stream)
    code, out, err = run(capsys, "-", "--image", "x/y:1")
    assert code == 0
    assert yaml.safe_load(out)["spec"]["config"]["trainer"]["seed"] == 7
    assert err[0].startswith("<stdin>: note: ")


UNUSABLE: dict[str, tuple[bytes | None, str]] = {
    "missing": (None, "in: cannot be read: No such file or directory"),
    "empty": (b"", "in: is empty; give a SkyRL launch script, overrides or a configuration"),
    "binary": (b"\x89PNG\xff\xfe", "in: is not a text file: the byte 0x89 at offset 0 is no UTF-8"),
    "zero bytes": (b"trainer.seed=1\0", "in: is not a text file: it holds a zero byte"),
    "huge": (b"x" * (3 * 1024 * 1024 + 1), "in: is too large: 3.0 MiB"),
    "prose": (b"Dear all,\n", "in: looks like neither a launch script, nor overrides (key.path=value), nor a SkyRL "
    "configuration; say what it is with --from"),
    "a bomb": (
        b"trainer:\n  a: &a [x,x,x,x,x,x,x,x,x]\n"
        + b"".join(b"  %c: &%c [%s]\n" % (98 + i, 98 + i, b",".join([b"*%c" % (97 + i)] * 9)) for i in range(9)),
        "in:",
    ),
    "an open quote": (b"python -m skyrl.train.entrypoints.main_base 'a\n", "in:1: the quote ' is not closed"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNUSABLE)
def test_what_cannot_be_used_gets_one_line_and_ends_with_2(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    content, message = UNUSABLE[case]
    if content is not None:
        Path("in").write_bytes(content)
    code, out, err = run(capsys, "in")
    assert (code, out, len(err)) == (2, "", 1)
    assert err[0].startswith(f"kubectl rltrain convert: {message}")


def test_a_directory_and_several_files_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, str(tmp_path))
    assert code == 2
    assert len(err) == 1
    assert err[0].startswith(f"kubectl rltrain convert: {tmp_path}: is a directory; name the files in it")
    code, _, err = run(capsys, "a.sh", "b.sh")
    assert code == 2
    assert err[0].startswith("kubectl rltrain convert: 2 inputs are given. Convert one file at a time")


def test_arguments_are_checked(capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in (
        (["x", "--set", "A"], "'A' is not NAME=VALUE"),
        (["x", "--set", "1=2"], "'1=2' is not NAME=VALUE"),
        (["x", "--from", "toml"], "invalid choice: 'toml'"),
        (["x", "--trainer", "own"], "invalid choice: 'own'"),
        ([], "the following arguments are required: FILE"),
    ):
        with pytest.raises(SystemExit) as caught:
            main(["convert", *words])
        assert caught.value.code == 2
        assert message in capsys.readouterr().err


def test_notes_cannot_steer_a_terminal(script: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path(script).write_text(f"$'\\x1b[2J' x\n'\x1b[2J'\n{SCRIPT}", encoding="utf-8")
    _, _, err = run(capsys, script)
    assert "\x1b" not in "".join(err)
