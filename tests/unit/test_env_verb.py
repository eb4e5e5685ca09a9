"""`kubectl rltrain env` from its arguments to what it prints and its exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from rltrain_operator.cli.__main__ import main

EXAMPLE = Path(__file__).parents[2] / "examples" / "quickstart.yaml"
FORWARDED_PREFIXES = ("VLLM_", "HF_", "NCCL_", "CUDA_", "NVIDIA_", "NV_", "TORCH_", "PYTORCH_", "TOKENIZERS_")


@pytest.fixture(autouse=True)
def _plain_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell of which nothing would be forwarded."""
    for name in [name for name in os.environ if name.startswith(FORWARDED_PREFIXES) or name == "RLLM_EXCLUDE"]:
        monkeypatch.delenv(name)


def job_file(directory: Path, **runtime: Any) -> str:
    document = yaml.safe_load(EXAMPLE.read_text())
    document["spec"]["runtime"] |= runtime
    path = directory / "job.yaml"
    path.write_text(yaml.safe_dump(document))
    return str(path)


def columns(text: str) -> dict[str, list[str]]:
    """Variable -> the other cells of its row."""
    lines = text.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("VARIABLE"))
    rows: dict[str, list[str]] = {}
    for line in lines[start + 1 :]:
        if not line:
            break
        name, *cells = [cell.strip() for cell in line.split("  ") if cell.strip()]
        rows[name] = cells
    return rows


def test_the_quickstart_has_no_variables(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env", str(EXAMPLE)]) == 0
    assert capsys.readouterr().out == "quickstart: pods have no variables but those of RLTrain, KubeRay and Ray\n"


def test_each_value_is_shown_with_its_layer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NCCL_DEBUG", "INFO")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    path = job_file(
        tmp_path,
        envPreset="multinode",
        env=[{"name": "NCCL_IB_DISABLE", "value": "1"}],
        envFrom=[{"secretRef": {"name": "tokens"}}, {"configMapRef": {"name": "proxy"}}],
    )
    runtime_env = '{"env_vars": {"WANDB_MODE": "offline"}}'
    assert main(["env", path, "--forward", "--runtime-env-json", runtime_env]) == 0
    text = capsys.readouterr().out
    rows = columns(text)
    assert rows["NCCL_IB_DISABLE"] == ["1", "spec.runtime.env", "0 (preset multinode)"]
    assert rows["NCCL_DEBUG"] == ["INFO", "shell", "WARN (preset multinode)"]
    assert rows["HF_HUB_OFFLINE"] == ["1", "shell"]
    assert rows["WANDB_MODE"] == ["offline", "runtime_env"]
    assert rows["GLOO_SOCKET_IFNAME"] == ["eth0", "preset multinode"]
    assert list(rows) == sorted(rows)
    assert "  all of Secret tokens\n  all of ConfigMap proxy\n" in text


def test_what_pods_do_not_get_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    monkeypatch.setenv("HF_TOKEN", "hf_0123456789abcdefghij")
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "DEBUG")
    path = job_file(tmp_path, excludeEnv=["OMP*"])
    assert main(["env", path, "--preset", "production", "--forward", "--exclude", " VLLM*"]) == 0
    text = capsys.readouterr().out
    absent = text[text.index("Not in pods") : text.index("Worth a look")]
    assert "  OMP_NUM_THREADS is excluded by 'OMP*' [8 (preset production)]\n" in absent
    assert "  CUDA_VISIBLE_DEVICES is set by the device plugin" in absent
    assert "  HF_TOKEN is a secret" in absent
    assert "  VLLM_LOGGING_LEVEL is excluded by 'VLLM*'\n" in absent
    assert "hf_0123" not in text
    assert "the spaces around it are left out" in text[text.index("Worth a look") :]


def test_rllm_s_variable_excludes_where_no_list_is_given(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_A", "1")
    monkeypatch.setenv("RLLM_EXCLUDE", "VLLM*")
    main(["env", str(EXAMPLE), "--forward"])
    assert "VLLM_A is excluded by 'VLLM*'" in capsys.readouterr().out
    main(["env", str(EXAMPLE), "--forward", "--exclude", ""])
    assert columns(capsys.readouterr().out)["VLLM_A"] == ["1", "shell"]


def test_the_shell_is_not_looked_at_unless_asked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_A", "1")
    main(["env", str(EXAMPLE)])
    assert "VLLM_A" not in capsys.readouterr().out


AWKWARD = [
    {"name": "QUOTES", "value": 'it\'s "so"'},
    {"name": "LINES", "value": "a\nb"},
    {"name": "DOLLAR", "value": "$(QUOTES) $HOME"},
    {"name": "EMPTY", "value": ""},
    {"name": "MY_TOKEN", "value": "s3cr3t"},
]


def test_yaml_is_what_pods_have_without_secrets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_A", "$(QUOTES)")
    path = job_file(tmp_path, env=AWKWARD, envFrom=[{"secretRef": {"name": "tokens"}}])
    assert main(["env", path, "--forward", "-o", "yaml"]) == 0
    text = capsys.readouterr().out
    document = yaml.safe_load(text)
    # The shell's text is meant as it is; the job's $(NAME) is for Kubernetes to expand.
    assert document["env"] == [{"name": "VLLM_A", "value": "$$(QUOTES)"}, *AWKWARD[:-1]]
    assert document["envFrom"] == [{"secretRef": {"name": "tokens"}}]
    assert "s3cr3t" not in text
    assert "# MY_TOKEN is set too, and is secret" in text


def test_a_shell_can_be_set_up_likewise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = job_file(tmp_path, env=[entry for entry in AWKWARD if entry["name"] != "LINES"])
    assert main(["env", path, "--preset", "debug", "-o", "shell"]) == 0
    script = capsys.readouterr().out
    assert "s3cr3t" not in script
    assert "unset RAY_RUNTIME_ENV_HOOK\n" in script
    done = subprocess.run(
        [
            "sh",
            "-c",
            f'{script}\nprintf "%s|%s|%s|%s" "$QUOTES" "$DOLLAR" "$NCCL_DEBUG" "${{RAY_RUNTIME_ENV_HOOK-gone}}"',
        ],
        env={"PATH": os.environ["PATH"], "RAY_RUNTIME_ENV_HOOK": "a.b"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == 'it\'s "so"|$(QUOTES) $HOME|INFO|gone'


def test_every_job_of_a_file_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(job_file(tmp_path))
    second = path.read_text().replace("name: quickstart\n", "name: second\n", 1)
    path.write_text(f"{path.read_text()}---\n{second}")
    assert main(["env", str(path)]) == 0
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == ["quickstart", "second"]
    assert main(["env", str(path), "-o", "shell"]) == 0
    assert capsys.readouterr().out.splitlines() == ["# quickstart", "# second"]


def test_an_invalid_job_is_shown_with_its_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = job_file(
        tmp_path, env=[{"name": "CUDA_VISIBLE_DEVICES", "value": "0"}, {"name": "RLTRAIN_RUN", "value": "x"}]
    )
    assert main(["env", path]) == 1
    captured = capsys.readouterr()
    assert "CUDA_VISIBLE_DEVICES is set by the device plugin" in captured.out
    assert "spec.runtime.env[0].name: CUDA_VISIBLE_DEVICES is set by" in captured.err
    assert "spec.runtime.env[1].name: RLTRAIN_RUN is set by the operator" in captured.err


def test_a_job_of_a_wrong_form_has_errors_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env", job_file(tmp_path, envPreset="fast")]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "spec.runtime.envPreset" in captured.err


UNUSABLE = {
    "no file": ([], "no FILE given"),
    "a file that is not there": (["missing.yaml"], "missing.yaml: cannot be read"),
    "a list without forwarding": (["x.yaml", "--exclude", "VLLM*"], "--exclude is about --forward"),
    "a runtime_env of numbers": (["x.yaml", "--runtime-env-json", '{"env_vars": {"A": 1}}'], "env_vars.A must be text"),
    "an unknown variable": (["--explain", "NCL_DEBUG"], "Did you mean NCCL_DEBUG?"),
    "a variable like no other": (["--explain", "XYZ"], "XYZ is not in the catalogue"),
}


@pytest.mark.parametrize(("words", "message"), UNUSABLE.values(), ids=UNUSABLE.keys())
def test_what_cannot_be_used_is_said_in_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["env", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_a_variable_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env", "--explain", "NCCL_TIMEOUT"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "NCCL_TIMEOUT: Meant as the time a collective may take."
    assert "  read by  nobody" in lines
    assert "  presets  production 3600, multinode 3600" in lines


def test_all_of_a_prefix_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    main(["env", "--explain", "SGLANG_*"])
    headings = [line for line in capsys.readouterr().out.splitlines() if line and not line.startswith(" ")]
    assert [heading.split(":")[0] for heading in headings] == [
        "SGLANG_LOG_LEVEL",
        "SGLANG_DISABLE_FLASHINFER",
        "SGLANG_ENABLE_TORCH_COMPILE",
        "SGLANG_TORCH_COMPILE_MAX_BS",
    ]


def test_a_refused_variable_beyond_the_catalogue_is_explained_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env", "--explain", "RAY_PORT"]) == 0
    assert capsys.readouterr().out.startswith("RAY_PORT is set by KubeRay and Ray for each pod")


def test_the_catalogue_in_a_line_for_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env", "--explain"]) == 0
    text = capsys.readouterr().out
    assert "  NCCL_DEBUG " in text
    assert "Meant as the time a collective may take. [read by nobody]" in text


def test_it_loads_no_heavy_library() -> None:
    heavy = {"torch", "ray", "kopf", "kubernetes", "aiohttp"}
    code = f"import sys, rltrain_operator.cli.env; print(sorted({heavy} & sys.modules.keys()))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def values_file(directory: Path, text: str) -> str:
    path = directory / "values.yaml"
    path.write_text(text)
    return str(path)


def test_the_chart_s_variables_are_a_layer_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = values_file(tmp_path, 'replicas: 2\njobEnvironment: {NCCL_DEBUG: INFO, NCCL_IB_HCA: "$(A)", TZ: UTC}\n')
    path = job_file(tmp_path, envPreset="multinode", env=[{"name": "TZ", "value": "CET"}], excludeEnv=["NCCL_IB_HCA"])
    assert main(["env", path, "--chart-values", values]) == 0
    text = capsys.readouterr().out
    rows = columns(text)
    assert rows["NCCL_DEBUG"] == ["INFO", "chart", "WARN (preset multinode)"]
    assert rows["TZ"] == ["CET", "spec.runtime.env", "UTC (chart)"]
    assert "NCCL_IB_HCA is excluded" in text


def test_the_chart_s_variables_are_shown_as_pods_have_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = values_file(tmp_path, 'jobEnvironment: {WHERE: "$(HOME)"}\n')
    assert main(["env", job_file(tmp_path), "--chart-values", values, "-o", "yaml"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["env"] == [{"name": "WHERE", "value": "$$(HOME)"}]


UNUSABLE_VALUES = {
    "a number": ("jobEnvironment: {OMP_NUM_THREADS: 8}", "values.yaml:1: jobEnvironment must be a map"),
    "a list": ("a: 1\njobEnvironment: [A=1]", "values.yaml:2: jobEnvironment must be a map"),
    "a secret": ("jobEnvironment: {HF_TOKEN: hf_abcdefghijklmnopqrst}", "HF_TOKEN: looks like a secret"),
    "two documents": ("a: 1\n---\nb: 2", "holds 2 documents"),
    "nothing": ("null", "helm get values RELEASE --all"),
}


@pytest.mark.parametrize(("text", "message"), UNUSABLE_VALUES.values(), ids=UNUSABLE_VALUES.keys())
def test_values_that_no_operator_would_start_with_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    assert main(["env", job_file(tmp_path), "--chart-values", values_file(tmp_path, text)]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "hf_abc" not in said
