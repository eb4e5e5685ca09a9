"""The job around a configuration: name, image, environment, secrets, volumes, and whose trainer runs."""

from __future__ import annotations

from typing import Any

import pytest

from rltrain_api.convert import Conversion, Kind, Level, Options, convert
from rltrain_api.convert.environment import read_environment
from rltrain_api.convert.launch import Setting
from rltrain_api.convert.paths import place_paths
from rltrain_api.convert.report import Report

LAUNCH = "python -m skyrl.train.entrypoints.main_base"


def converted(*overrides: str, **options: Any) -> Conversion:
    return convert("\n".join(overrides), Kind.OVERRIDES, Options(**{"image": "x/y:1", "name": "a", **options}))


def texts(conversion: Conversion, level: Level) -> list[str]:
    return [note.text for note in conversion.notes if note.level is level]


NAMES = {
    "gsm8k_test": "gsm8k-test",
    "Qwen2.5-7B/GRPO": "qwen2-5-7b-grpo",
    "20250101": "run-20250101",
    "--x--": "x",
    "x" * 60: "x" * 45,
    "a" * 44 + "-b": "a" * 44,
    "日本": "stem",
}


@pytest.mark.parametrize("run_name", NAMES)
def test_the_runs_name_is_made_a_name_that_kubernetes_takes(run_name: str) -> None:
    conversion = converted(f"trainer.run_name='\"{run_name}\"'", name="", source="dir/run_stem.sh")
    assert conversion.document["metadata"]["name"] == NAMES[run_name]
    assert not conversion.errors


def test_without_a_run_name_the_file_or_the_project_gives_the_name() -> None:
    assert converted("trainer.epochs=1", name="", source="x/run_dapo.sh").document["metadata"]["name"] == "dapo"
    project = converted("trainer.project_name=proj", name="", source="<stdin>")
    assert project.document["metadata"]["name"] == "proj"
    neither = converted("trainer.epochs=1", name="", source="<stdin>")
    assert neither.document["metadata"]["name"] == "skyrl-run"


def test_a_name_that_was_asked_for_is_not_changed_but_judged() -> None:
    conversion = converted("trainer.epochs=1", name="Not A Name")
    assert conversion.document["metadata"]["name"] == "Not A Name"
    assert [error.path for error in conversion.errors] == ["metadata.name"]


def test_without_an_image_the_conversion_is_not_complete() -> None:
    conversion = converted("trainer.epochs=1", image="")
    assert not conversion.is_complete
    assert not conversion.errors
    assert texts(conversion, Level.MISSING) == [
        "spec.runtime.image is a placeholder: give --image, or write the image that holds SkyRL, with your code"
    ]


BUILTIN = (
    "trainer.placement.colocate_all=false",
    "trainer.logger=console",
    "trainer.algorithm.use_kl_loss=false",
    "generator.inference_engine.backend=builtin",
)


def test_the_builtin_trainer_runs_what_it_can_and_upstreams_the_rest() -> None:
    assert converted(*BUILTIN).document["spec"]["runtime"]["trainer"] == "builtin"
    upstream = converted("trainer.strategy=megatron", "trainer.logger=console")
    assert upstream.document["spec"]["runtime"]["trainer"] == "skyrl"
    reason = next(text for text in texts(upstream, Level.CHECK) if text.startswith("runtime.trainer"))
    assert "because the builtin trainer does not do what is asked for in" in reason
    assert "trainer.strategy" in reason or "more" in reason


def test_a_trainer_that_was_asked_for_is_taken_and_what_it_cannot_do_is_an_error() -> None:
    conversion = converted("trainer.strategy=megatron", trainer="builtin")
    assert conversion.document["spec"]["runtime"]["trainer"] == "builtin"
    assert "spec.config.trainer.strategy" in [error.path for error in conversion.errors]
    assert converted(*BUILTIN[:3], trainer="skyrl").document["spec"]["runtime"]["trainer"] == "skyrl"


def test_a_slip_in_one_field_does_not_decide_about_the_trainer() -> None:
    conversion = converted("trainer.strategy=megatron", "trainer.epochs=none", "data.train_data=[1]")
    assert conversion.document["spec"]["runtime"]["trainer"] == "skyrl"
    assert [error.path for error in conversion.errors] == [
        "spec.config.data.train_data[0]",
        "spec.config.trainer.epochs",
    ]


def test_the_trackers_key_comes_from_a_secret() -> None:
    runtime = converted("trainer.logger=wandb").document["spec"]["runtime"]
    assert runtime["envFrom"] == [{"secretRef": {"name": "a-secrets"}}]
    assert "envFrom" not in converted("trainer.logger=console").document["spec"]["runtime"]
    command = next(text for text in texts(converted("trainer.logger=wandb"), Level.CHECK) if "kubectl" in text)
    assert command == (
        "secrets come from the Secret a-secrets: kubectl create secret generic a-secrets "
        '--from-literal=WANDB_API_KEY="$WANDB_API_KEY"'
    )


def test_secrets_are_named_and_never_shown() -> None:
    script = f"export HF_TOKEN=hf_abcdefghijklmnopqrst\nexport OTHER=sk-abcdefghijklmnopqrstuv\n{LAUNCH} trainer.seed=1"
    conversion = convert(script, options=Options(image="x/y:1"))
    assert "env" not in conversion.document["spec"]["runtime"]
    everything = str(conversion)
    assert "hf_abc" not in everything
    assert "sk-abc" not in everything
    assert '--from-literal=HF_TOKEN="$HF_TOKEN" --from-literal=OTHER="$OTHER"' in everything


ENVIRONMENT: dict[str, tuple[Setting, dict[str, str], list[str]]] = {
    "a plain variable": (Setting("NCCL_DEBUG", "INFO", 3), {"NCCL_DEBUG": "INFO"}, []),
    "one that Kubernetes would expand": (Setting("A", "$(B)", 3), {"A": "$$(B)"}, []),
    "which GPUs": (
        Setting("CUDA_VISIBLE_DEVICES", "0,1", 3),
        {},
        [
            "note: CUDA_VISIBLE_DEVICES is left out: it is set by the device plugin and Ray for each process, and "
            "another value would hide its GPUs or claim others"
        ],
    ),
    "your machine": (Setting("PATH", "/x", 3), {}, ["note: PATH is left out: it describes your machine"]),
    "your packages": (
        Setting("UV_CACHE_DIR", "/x", 3),
        {},
        ["note: UV_CACHE_DIR is left out: packages come with the image"],
    ),
    "Slurm": (Setting("SLURM_JOB_ID", "1", 3), {}, ["note: SLURM_JOB_ID is left out: it describes a Slurm job"]),
    "a process": (
        Setting("MASTER_ADDR", "x", 3),
        {},
        ["note: MASTER_ADDR is left out: the trainer sets it for each of its processes"],
    ),
    "one that is not known": (
        Setting("A", None, 3, "B is not set in the script"),
        {},
        ["missing: A is not carried over: B is not set in the script"],
    ),
    "paths of libraries": (
        Setting("PYTHONPATH", "/code", 3),
        {"PYTHONPATH": "/code"},
        ["check: PYTHONPATH is carried over: its paths must exist in the image"],
    ),
    "a home directory": (
        Setting("MY_CACHE", "~/x", 3),
        {"MY_CACHE": "~/x"},
        ["check: MY_CACHE is in a home directory, which pods neither share nor keep"],
    ),
}


@pytest.mark.parametrize("case", ENVIRONMENT)
def test_exports_become_the_environment_of_pods(case: str) -> None:
    setting, values, notes = ENVIRONMENT[case]
    report = Report()
    environment = read_environment([setting], report)
    assert environment.values == values
    assert [f"{note.level}: {note.text}" for note in report.in_order()] == notes


def test_a_variable_that_nobody_reads_is_worth_a_look() -> None:
    report = Report()
    assert read_environment([Setting("NCCL_TIMEOUT", "60", 3)], report).values == {"NCCL_TIMEOUT": "60"}
    assert [(note.level, note.text.startswith("NCCL_TIMEOUT")) for note in report.in_order()] == [(Level.CHECK, True)]


def test_the_last_setting_of_a_variable_counts() -> None:
    settings = [Setting("A", "1", 1), Setting("A", "2", 2)]
    assert read_environment(settings, Report()).values == {"A": "2"}


# Paths as they are set -> as they come out, where the volume of checkpoints is, and the other volumes.
PATHS: dict[str, tuple[dict[str, Any], dict[str, Any], str, dict[str, str]]] = {
    "nothing is set": (
        {},
        {
            "ckpt_path": "/checkpoints",
            "train": ["/data/gsm8k/train.parquet"],
            "val": ["/data/gsm8k/validation.parquet"],
        },
        "/checkpoints",
        {"/data": "data"},
    ),
    "homes": (
        {"ckpt_path": "~/ckpts/run1", "train": ["~/data/x/a.parquet"], "val": ["~/b.json"], "model": "~/models/qwen"},
        {
            "ckpt_path": "/checkpoints/run1",
            "train": ["/data/x/a.parquet"],
            "val": ["/data/b.json"],
            "model": "/models/qwen",
        },
        "/checkpoints",
        {"/data": "data", "/models": "models"},
    ),
    "relative paths": (
        {"ckpt_path": "ckpts", "train": ["data/a.parquet"], "val": ["../b.parquet"], "model": "./m"},
        {"ckpt_path": "/checkpoints", "train": ["/data/a.parquet"], "val": ["/data/b.parquet"], "model": "/models/m"},
        "/checkpoints",
        {"/data": "data", "/models": "models"},
    ),
    "a shared file system": (
        {"ckpt_path": "/mnt/nfs/ckpts/x", "train": ["/mnt/nfs/data/a.parquet"], "val": ["/mnt/nfs/data/b.json"]},
        {"ckpt_path": "/mnt/nfs/ckpts/x", "train": ["/mnt/nfs/data/a.parquet"], "val": ["/mnt/nfs/data/b.json"]},
        "/mnt/nfs",
        {},
    ),
    "several places": (
        {"ckpt_path": "/ckpts", "train": ["/datasets/x/a.parquet"], "val": ["/other/b.parquet"], "model": "/opt/m/x"},
        {"ckpt_path": "/ckpts", "train": ["/datasets/x/a.parquet"], "val": ["/other/b.parquet"], "model": "/opt/m/x"},
        "/ckpts",
        {"/datasets": "data", "/other": "data-2", "/opt/m": "models"},
    ),
    "somebody's home as an absolute path": (
        {"ckpt_path": "/home/rltrain/ckpts/x", "train": ["/srv/data/a.parquet"], "val": ["/srv/data/b.parquet"]},
        {"ckpt_path": "/home/rltrain/ckpts/x", "train": ["/srv/data/a.parquet"], "val": ["/srv/data/b.parquet"]},
        "/home/rltrain/ckpts",
        {"/srv/data": "data"},
    ),
    "names and addresses": (
        {"ckpt_path": "s3://b/x", "train": ["openai/gsm8k"], "val": ["s3://b/v.parquet"], "model": "Qwen/Qwen2.5-7B"},
        {"ckpt_path": "s3://b/x", "train": ["openai/gsm8k"], "val": ["s3://b/v.parquet"], "model": "Qwen/Qwen2.5-7B"},
        "/checkpoints",
        {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", PATHS)
def test_paths_come_to_lie_on_volumes(case: str) -> None:
    given, expected, checkpoints, volumes = PATHS[case]
    placement = place_paths(tree_with(given), {}, Report())
    trainer, data = placement.tree["trainer"], placement.tree["data"]
    found = {"ckpt_path": trainer["ckpt_path"], "train": data["train_data"], "val": data["val_data"]}
    if "model" in given:
        found["model"] = trainer["policy"]["model"]["path"]
    assert (found, placement.checkpoints, placement.volumes) == (expected, checkpoints, volumes)


def tree_with(paths: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    if "ckpt_path" in paths:
        tree.setdefault("trainer", {})["ckpt_path"] = paths["ckpt_path"]
    if "model" in paths:
        tree.setdefault("trainer", {})["policy"] = {"model": {"path": paths["model"]}}
    for name in ("train", "val"):
        if name in paths:
            tree.setdefault("data", {})[f"{name}_data"] = paths[name]
    return tree


def test_outputs_go_beside_the_checkpoints() -> None:
    conversion = converted(
        "trainer.export_path=~/exports/x",
        "trainer.log_path=/tmp/my-logs",
        "trainer.resume_mode=from_path",
        "trainer.resume_path=~/ckpts/a/global_step_3",
        "trainer.ckpt_path=~/ckpts/a",
    )
    trainer = conversion.document["spec"]["config"]["trainer"]
    assert trainer["export_path"] == "/checkpoints/exports/x"
    assert trainer["log_path"] == "/checkpoints/logs"
    assert trainer["ckpt_path"] == "/checkpoints/a"
    assert trainer["resume_path"] == "/checkpoints/a/global_step_3"
    assert not conversion.errors


def test_an_output_that_nobody_set_is_moved_only_where_the_run_writes_it() -> None:
    assert "export_path" not in converted("trainer.epochs=1").document["spec"]["config"]["trainer"]
    exporting = converted("trainer.hf_save_interval=5")
    assert exporting.document["spec"]["config"]["trainer"]["export_path"] == "/checkpoints/exports"
    assert not exporting.errors


def test_a_home_directory_in_any_other_field_is_worth_a_look() -> None:
    conversion = converted("generator.inference_engine.engine_init_kwargs.chat_template=~/t.jinja")
    assert (
        "generator.inference_engine.engine_init_kwargs.chat_template is in a home directory, which pods do not have: "
        "~/t.jinja" in texts(conversion, Level.CHECK)
    )


DIRECTIVES: dict[str, tuple[str, list[str]]] = {
    "nodes that are placed": ("--nodes=1", ["note: #SBATCH --nodes 1 is trainer.placement.policy_num_nodes 1"]),
    "GPUs that are not": (
        "--gpus-per-node=8",
        [
            "check: #SBATCH --gpus-per-node 8 is left out: pods and GPUs follow from the configuration, where "
            "trainer.placement.policy_num_gpus_per_node is 1"
        ],
    ),
    "GPUs by type": (
        "--gres=gpu:a100:1",
        ["note: #SBATCH --gres gpu:a100:1 is trainer.placement.policy_num_gpus_per_node 1"],
    ),
    "time": ("--time=24:00:00", ["missing: #SBATCH --time 24:00:00 is not carried over: the job has no limit of time"]),
    "a short name": (
        "-p gpu",
        ["missing: #SBATCH --partition gpu is not carried over: set nodeSelector and tolerations in spec.pools"],
    ),
    "output": ("--output=%x.log", ["note: #SBATCH --output is left out: `kubectl logs` has the output of the pods"]),
    "all memory": ("--mem=0", ["missing: #SBATCH --mem 0 is not carried over: set resources.memory in spec.pools"]),
    "something else": (
        "--reservation=x",
        ["missing: #SBATCH --reservation x is not carried over: it has no counterpart"],
    ),
}


@pytest.mark.parametrize("case", DIRECTIVES)
def test_what_slurm_was_asked_for_is_compared_with_the_job(case: str) -> None:
    directive, expected = DIRECTIVES[case]
    script = f"#!/bin/bash\n#SBATCH {directive}\n{LAUNCH} trainer.seed=1"
    notes = convert(script, options=Options(image="x/y:1")).notes
    assert [f"{note.level}: {note.text}" for note in notes if note.line == 2] == expected


def test_slurms_resources_are_those_of_the_trainers_pods() -> None:
    script = f"#!/bin/bash\n#SBATCH -J my_run --cpus-per-task=32 --mem=256G\n{LAUNCH} trainer.seed=1"
    document = convert(script, options=Options(image="x/y:1", source="<stdin>")).document
    assert document["metadata"]["name"] == "my-run"
    assert document["spec"]["pools"] == {"trainer": {"resources": {"cpu": "32", "memory": "256Gi"}}}


PROGRAMS = {
    "skyrl.train.entrypoints.main_base": "",
    "skyrl_train.entrypoints.main_base": "",
    "skyrl.train.entrypoints.main_generate": "the program only evaluates",
    "examples.train.fully_async.main_fully_async": "the fully asynchronous trainer is not carried over",
    "examples.train.async.main_async": "the one-step-off trainer is not carried over",
    "examples.train.algorithms.dapo.main_dapo": "DAPO's own trainer is not carried over",
    "my_company.train": "my_company.train is a program of your own",
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_what_of_a_program_is_not_carried_over_is_said(program: str) -> None:
    conversion = convert(f"python -m {program} trainer.seed=1", options=Options(image="x/y:1"))
    missing = texts(conversion, Level.MISSING)
    if not PROGRAMS[program]:
        assert missing == []
    else:
        assert len(missing) == 1
        assert PROGRAMS[program] in missing[0]
        assert conversion.document["spec"]["config"]["trainer"]["seed"] == 1
