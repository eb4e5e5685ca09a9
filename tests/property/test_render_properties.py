"""Whatever a job's configuration holds, every rendering of it says the same, to upstream's parser and to shells."""

from __future__ import annotations

import ast
import shlex
import subprocess
from collections.abc import Callable
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import upstream_skyrl
from drawn_configs import chosen, leaves, nested
from rltrain_api.convert import Kind, Options, convert
from rltrain_api.job import RLTrainingJob
from rltrain_api.parse import parse_job
from rltrain_api.render import Rendered, job_for_skyrl, overrides_for_skyrl, render_command, render_slurm
from rltrain_api.render.modal import TooLargeForModal, render_modal
from rltrain_api.render.upstream import ENTRYPOINT
from rltrain_api.resolve import resolve
from rltrain_operator.plan.rayjob import render_ray_job
from skyrl_jobs import skyrl_document, skyrl_job
from upstream_skyrl import as_upstream, comparable

FEWER = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
# Values of variables: text of several lines, without further control characters.
VALUES = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"], include_characters="\n\t"), max_size=20)


@st.composite
def jobs(draw: st.DrawFn) -> RLTrainingJob:
    """Jobs with any fields of the configuration and any values of variables; not all of them make sense."""
    document = skyrl_document()
    document["spec"]["config"] = nested(draw(chosen(leaves())))
    document["spec"]["runtime"]["trainer"] = draw(st.sampled_from(["builtin", "skyrl"]))
    values = draw(st.lists(VALUES, max_size=3))
    document["spec"]["runtime"]["env"] = [{"name": f"V{index}", "value": text} for index, text in enumerate(values)]
    job = parse_job(document)
    assert isinstance(job, RLTrainingJob), job
    return job


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(jobs())
def test_upstream_makes_our_resolved_tree_of_any_job(job: RLTrainingJob) -> None:
    overrides = overrides_for_skyrl(job)
    tree: dict[str, Any] = resolve(job_for_skyrl(job).spec.config).model_dump(mode="json")
    assert comparable(upstream_skyrl.resolved(overrides)) == comparable(as_upstream(tree, overrides))


@FEWER
@given(jobs())
def test_bash_reads_the_command_as_it_is_meant(job: RLTrainingJob) -> None:
    script = render_command(job).text.replace("exec python", "env --null; printf '%s\\0' python")
    script = "".join(line for line in script.splitlines(keepends=True) if not line.startswith(": "))  # no secrets here
    done = subprocess.run(["bash", "-c", script], capture_output=True, env={"PATH": "/usr/bin:/bin"}, check=True)
    words = done.stdout.decode().split("\0")[:-1]
    expected = ["python", "-m", ENTRYPOINT, *overrides_for_skyrl(job)]
    assert words[-len(expected) :] == expected
    variables = set(words[: -len(expected)])
    hidden = job_secrets(job)
    for variable in job.spec.runtime.env:
        assert (f"{variable.name}={variable.value}" in variables) != (variable.name in hidden)


def job_secrets(job: RLTrainingJob) -> set[str]:
    """Names that the script asks for in place of writing their values."""
    lines = [line for line in render_command(job).text.splitlines() if line.startswith(': "${')]
    return {line.removeprefix(': "${').partition(":")[0] for line in lines}


# Fields whose values a conversion may move onto a volume; the job that is converted has them on volumes already.
PATHS = {"train_data", "val_data", "path", "db_path", "name_or_path", "lora_sync_path"}
PATHS |= {"ckpt_path", "resume_path", "export_path", "log_path"}
NO_PATHS = {path: schema for path, schema in leaves().items() if path[-1] not in PATHS}


@FEWER
@given(chosen(NO_PATHS), VALUES, st.sampled_from([render_command, render_slurm]))
def test_converting_a_script_back_gives_what_upstream_was_told(
    drawn: dict[tuple[str, ...], Any], value: str, render: Callable[[RLTrainingJob], Rendered]
) -> None:
    job = skyrl_job(config=nested(drawn), runtime={"env": [{"name": "V", "value": value}]})
    converted = convert(render(job).text, Kind.SCRIPT, Options(trainer="skyrl")).document["spec"]
    told = job_for_skyrl(job).spec.config.model_dump(mode="json", exclude_unset=True)
    assert comparable(converted["config"]) == comparable(told)
    values = {variable["name"]: variable["value"] for variable in converted["runtime"]["env"]}
    assert values.get("V") == (None if "V" in job_secrets(job) else value)


@FEWER
@given(jobs())
def test_bash_can_read_the_slurm_script(job: RLTrainingJob) -> None:
    done = subprocess.run(["bash", "-n"], input=render_slurm(job).text, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@FEWER
@given(jobs())
def test_python_reads_the_modal_app_as_it_is_meant(job: RLTrainingJob) -> None:
    try:
        text = render_modal(job).text
    except TooLargeForModal:
        return
    module = ast.parse(text)
    commands = [node.value for node in module.body if isinstance(node, ast.Assign) and is_named(node, "COMMAND")]
    assert [ast.literal_eval(command) for command in commands] == [
        ["python", "-m", ENTRYPOINT, *overrides_for_skyrl(job)]
    ]


def is_named(node: ast.Assign, name: str) -> bool:
    return isinstance(node.targets[0], ast.Name) and node.targets[0].id == name


@FEWER
@given(jobs())
def test_yaml_and_the_shell_read_the_ray_job_as_it_is_meant(job: RLTrainingJob) -> None:
    *_, document = yaml.safe_load_all(render_ray_job(job).text)
    words = shlex.split(document["spec"]["entrypoint"])
    assert words[words.index("python") :] == ["python", "-m", ENTRYPOINT, *overrides_for_skyrl(job)]
    workers = document["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]
    values = {entry["name"]: entry.get("value") for entry in workers["env"]}
    hidden = job_secrets(job)
    for variable in job.spec.runtime.env:
        assert values[variable.name] == (None if variable.name in hidden else variable.value)
