"""The bash scripts: valid, quoted so that every word arrives as it is, and without secrets.

The scripts run here with stand-ins for the programs of a Slurm cluster, which write down how they were called: what is
tested is what bash makes of the text.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rltrain_api.job import RLTrainingJob
from rltrain_api.render import Rendered, overrides_for_skyrl, render_command, render_slurm
from rltrain_api.render.upstream import ENTRYPOINT
from skyrl_jobs import skyrl_job

# Joins "calls" with the program's name, its arguments and the variables that a test looks at, one call in each line.
STAND_IN = """#!{python}
import json, os, sys
with open({calls!r}, "a") as file:
    seen = {{name: value for name, value in os.environ.items() if name not in {known!r}}}
    file.write(json.dumps([{program!r}, sys.argv[1:], seen]) + "\\n")
{then}
"""
RUN_THE_REST = """
words = sys.argv[1:]
while words and words[0].startswith("-"):
    words.pop(0)
os.execvp(words[0], words)
"""
RUN_UNTIL_STOPPED = 'import time; time.sleep(60 if "--block" in sys.argv else 0)'
WAIT_FOR_WORKERS = """
import time
for _ in range(300):
    calls = open(os.environ["HOME"] + "/calls").read()
    if '["ray", ["start", "--address=' in calls and '["ray", ["start", "--head' in calls:
        sys.exit()
    time.sleep(0.1)
sys.exit("head and workers have not started")
"""
PRINT_HOSTS = 'print("\\n".join(f"node{index}" for index in range(int(os.environ["SLURM_JOB_NUM_NODES"]))))'
PROGRAMS = {
    "srun": RUN_THE_REST,
    "scontrol": PRINT_HOSTS,
    "hostname": 'print("fd00::1 10.0.0.7 192.168.0.7 ")',
    "ray": RUN_UNTIL_STOPPED,
    "python": "",
}
AWKWARD = [
    "it's",
    'a "b" c',
    "$HOME `id` $(id)",
    "a\nb\tc",
    "!x *",
    "\\n \\",
    "é 日本",
    "",
    "-n",
    "'",
    "#",
    "~/x",
    "&;|<>",
]
RENDERERS: dict[str, Callable[[RLTrainingJob], Rendered]] = {"command": render_command, "slurm": render_slurm}


def run(
    rendered: Rendered, tmp_path: Path, stand_ins: dict[str, str] = PROGRAMS, **environment: str
) -> tuple[subprocess.CompletedProcess[str], list[Any]]:
    """Run a script with nothing but stand-ins on its path (and tr and grep); its result and the calls it made."""
    programs, calls = tmp_path / "bin", tmp_path / "calls"
    programs.mkdir()
    plain = {"HOME": str(tmp_path), "PATH": f"{programs}:/usr/bin:/bin", **environment}
    known = [*plain, "PWD", "SHLVL", "_", "LC_CTYPE", "OLDPWD"]
    for program, then in stand_ins.items():
        path = programs / program
        path.write_text(
            STAND_IN.format(python=sys.executable, calls=str(calls), known=known, program=program, then=then)
        )
        path.chmod(0o755)
    script = tmp_path / "script.sh"
    script.write_text(rendered.text)
    done = subprocess.run(
        ["bash", str(script)], env=plain, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    return done, [json.loads(line) for line in calls.read_text().splitlines()] if calls.exists() else []


def slurm(nodes: int) -> dict[str, str]:
    return {
        "SLURM_JOB_NODELIST": "node[0-9]",
        "SLURM_JOB_NUM_NODES": str(nodes),
        "SLURM_JOB_ID": "10042",
        "SLURM_CPUS_PER_TASK": "5",
    }


def awkward_job(**runtime: Any) -> RLTrainingJob:
    return skyrl_job(
        config={
            "trainer": {"run_name": "it's $HOME", "resume_path": "/checkpoints/a b"},
            "generator": {
                "sampling_params": {"stop": [text for text in AWKWARD if text]},
                "inference_engine": {"engine_init_kwargs": {f"key {text}": text for text in AWKWARD}},
            },
        },
        runtime={
            "env": [{"name": f"AWKWARD_{index}", "value": text} for index, text in enumerate(AWKWARD)],
            **runtime,
        },
    )


@pytest.mark.parametrize("renderer", RENDERERS)
def test_every_word_and_variable_arrives_as_it_is(renderer: str, tmp_path: Path) -> None:
    job = awkward_job()
    rendered = RENDERERS[renderer](job)
    done, calls = run(rendered, tmp_path, RAY_RUNTIME_ENV_HOOK="x.y", **slurm(1))
    assert (done.returncode, done.stderr) == (0, "")
    [(arguments, variables)] = [call[1:] for call in calls if call[0] == "python"]
    assert arguments == ["-m", ENTRYPOINT, *overrides_for_skyrl(job)]
    assert {name: value for name, value in variables.items() if name.startswith("AWKWARD_")} == {
        f"AWKWARD_{index}": text for index, text in enumerate(AWKWARD)
    }
    assert "RAY_RUNTIME_ENV_HOOK" not in variables


def test_slurm_starts_ray_on_every_node_and_the_driver_on_the_first(tmp_path: Path) -> None:
    job = skyrl_job(
        config={
            "trainer": {"placement": {"policy_num_nodes": 3, "ref_num_nodes": 3}},
            "generator": {"inference_engine": {"num_engines": 12}},
        }
    )
    rendered = render_slurm(job)
    settings = dict(
        line.removeprefix("#SBATCH --").split("=", 1)
        for line in rendered.text.splitlines()
        if line.startswith("#SBATCH --") and "=" in line
    )
    assert settings == {
        "job-name": "words",
        "output": "%x-%j.log",
        "nodes": "3",
        "ntasks-per-node": "1",
        "gpus-per-node": "4",
        "cpus-per-task": "5",
        "mem": "0",
    }
    done, calls = run(rendered, tmp_path, {**PROGRAMS, "python": WAIT_FOR_WORKERS}, **slurm(3))
    assert (done.returncode, done.stderr) == (0, "")
    ray = [arguments for program, arguments, _ in calls if program == "ray"]
    size = ["--num-gpus=4", "--num-cpus=5", "--disable-usage-stats", "--block"]
    assert ["start", "--head", "--node-ip-address=10.0.0.7", "--port=20042", *size] in ray
    assert ["start", "--address=10.0.0.7:20042", *size] in ray
    steps = [arguments for program, arguments, _ in calls if program == "srun"]
    assert sum("--nodelist=node1,node2" in step and "--ntasks=2" in step for step in steps) == 1
    [(driver, variables)] = [(step, seen) for program, step, seen in calls if program == "srun" and "python" in step]
    assert driver[:4] == ["--overlap", "--nodes=1", "--ntasks=1", "--nodelist=node0"]
    assert (variables["RAY_ADDRESS"], variables["SRUN_CPUS_PER_TASK"]) == ("10.0.0.7:20042", "5")


def test_slurm_does_not_wait_for_a_head_that_has_ended(tmp_path: Path) -> None:
    broken = {**PROGRAMS, "ray": "sys.exit(1)"}
    done, calls = run(render_slurm(skyrl_job()), tmp_path, broken, **slurm(1))
    assert done.returncode == 1
    assert "Ray's head on node0 has ended" in done.stderr
    assert not [call for call in calls if call[0] == "python"]


MEMORY: dict[str, tuple[dict[str, Any], str]] = {
    "nothing said": ({}, "--mem=0"),
    "said": ({"trainer": {"resources": {"memory": "1Gi"}}}, "--mem=1024M"),
    "of a pool that is not used, because engines are on the trainer's GPUs": (
        {"inference": {"resources": {"memory": "1Gi"}}},
        "--mem=0",
    ),
}


@pytest.mark.parametrize(("pools", "line"), MEMORY.values(), ids=MEMORY.keys())
def test_slurm_asks_for_the_memory_that_the_job_names(pools: dict[str, Any], line: str) -> None:
    assert f"#SBATCH {line}\n" in render_slurm(skyrl_job(pools=pools)).text


RETRIES = {"none": (0, False), "some": (2, True)}


@pytest.mark.parametrize(("limit", "requeued"), RETRIES.values(), ids=RETRIES.keys())
def test_slurm_starts_again_where_the_job_says_so(limit: int, requeued: bool) -> None:
    rendered = render_slurm(skyrl_job(failurePolicy={"backoffLimit": limit}))
    assert ("#SBATCH --requeue\n" in rendered.text) == requeued
    assert any("spec.failurePolicy" in note for note in rendered.notes) == requeued


DEADLINES = {"none": (None, 0, None), "90 s, once": (90, 0, "2"), "an hour, several times": (3600, 1, "60")}


@pytest.mark.parametrize(("deadline", "retries", "minutes"), DEADLINES.values(), ids=DEADLINES.keys())
def test_slurm_has_the_jobs_deadline(deadline: int | None, retries: int, minutes: str | None) -> None:
    spec: dict[str, Any] = {} if deadline is None else {"activeDeadlineSeconds": deadline}
    rendered = render_slurm(skyrl_job(failurePolicy={"backoffLimit": retries}, **spec))
    assert ("#SBATCH --time=" in rendered.text) == (minutes is not None)
    assert minutes is None or f"#SBATCH --time={minutes}\n" in rendered.text
    assert any("counts anew" in note for note in rendered.notes) == (deadline is not None and retries > 0)


SECRET = "hf_" + "a" * 30
ENV_OF_SECRETS = {"env": [{"name": "HF_TOKEN", "value": SECRET}], "envFrom": [{"secretRef": {"name": "keys"}}]}


@pytest.mark.parametrize("renderer", RENDERERS)
def test_a_secret_is_asked_for_and_not_written(renderer: str, tmp_path: Path) -> None:
    rendered = RENDERERS[renderer](skyrl_job(config={"trainer": {"logger": "wandb"}}, runtime=ENV_OF_SECRETS))
    assert SECRET not in rendered.text + "".join(rendered.notes)
    assert any("HF_TOKEN looks like a secret" in note for note in rendered.notes)
    assert "Secret keys" in rendered.text
    without, calls = run(rendered, tmp_path, **slurm(1))
    assert without.returncode != 0
    assert "HF_TOKEN: export it" in without.stderr
    assert calls == []


def test_the_tracker_key_is_asked_for(tmp_path: Path) -> None:
    rendered = render_command(skyrl_job(config={"trainer": {"logger": "wandb"}}))
    (tmp_path / "without").mkdir()
    (tmp_path / "with").mkdir()
    without, _ = run(rendered, tmp_path / "without")
    assert "WANDB_API_KEY: export it" in without.stderr
    done, calls = run(rendered, tmp_path / "with", WANDB_API_KEY="x")
    assert done.returncode == 0
    assert [call[0] for call in calls] == ["python"]


NOTES: dict[str, tuple[dict[str, Any], str]] = {
    "a volume": ({}, "spec.storage.data[0] (data): the run reads below /data"),
    "the volume of checkpoints": ({}, "spec.storage.checkpoints: the run writes below /checkpoints"),
    "an initializer": (
        {"storage": {"initializers": [{"name": "fill", "command": ["sh", "-c"], "args": ["make 'a b'"]}]}},
        "spec.storage.initializers[0] (fill): before the first run, run: sh -c 'make '\"'\"'a b'\"'\"''",
    ),
    "a model to fetch": (
        {"storage": {"initializers": [{"name": "qwen", "model": {"from": "hf://Qwen/Qwen3-8B", "to": "/data/model"}}]}},
        "spec.storage.initializers[0] (qwen): before the first run, fetch hf://Qwen/Qwen3-8B into /data/model",
    ),
    "a program to run": (
        {
            "storage": {
                "initializers": [{"name": "own", "script": {"configMap": "tools", "key": "make.py"}, "args": ["a b"]}]
            }
        },
        "before the first run, run what the ConfigMap tools holds: make.py 'a b'",
    ),
    "the cache": (
        {"storage": {"cache": {"claimName": "models"}}},
        "spec.storage.cache: downloads are kept below /cache",
    ),
    "a checkpoint of another job": (
        {"storage": {"checkpoints": {"resumeFrom": {"job": "first", "step": 40}}}},
        "spec.storage.checkpoints.resumeFrom: left out; copy global_step_40 of first",
    ),
    "what only the operator can do": (
        {"failurePolicy": {"stalledAfterSteps": 5}, "updatePolicy": "Reject"},
        "spec.updatePolicy: left out",
    ),
    "what only Kubernetes can do": (
        {"queueName": "research", "pools": {"head": {"resources": {"cpu": "2"}}}},
        "spec.pools.head, spec.queueName: left out",
    ),
    "a ConfigMap": ({"runtime": {"envFrom": [{"configMapRef": {"name": "switches"}}]}}, "the ConfigMap switches"),
    "a name that no shell exports": ({"runtime": {"env": [{"name": "A-B", "value": "1"}]}}, "A-B is left out"),
    "a reference to another variable": (
        {"runtime": {"env": [{"name": "A", "value": "$(HOME)/x"}]}},
        "A holds $(…), which only Kubernetes replaces",
    ),
}


@pytest.mark.parametrize("renderer", RENDERERS)
@pytest.mark.parametrize(("spec", "said"), NOTES.values(), ids=NOTES.keys())
def test_what_is_lost_is_said(renderer: str, spec: dict[str, Any], said: str) -> None:
    notes = RENDERERS[renderer](skyrl_job(**spec)).notes
    assert any(said in note for note in notes), notes


@pytest.mark.parametrize("renderer", RENDERERS)
def test_no_note_about_what_nobody_has_set(renderer: str) -> None:
    notes = RENDERERS[renderer](skyrl_job()).notes
    assert not [note for note in notes if "Kubernetes" in note or "envFrom" in note]
