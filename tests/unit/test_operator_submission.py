"""What one attempt starts on Ray, and which jobs with upstream's trainer are refused before anything starts."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

import upstream_skyrl
from rltrain_api import names
from rltrain_api.job import RLTrainingJob
from rltrain_api.parse import parse_job
from rltrain_api.render.upstream import ENTRYPOINT, RAY_VERSION
from rltrain_api.resolve import resolved_document
from rltrain_api.wire import BestSteps, JobReference, Retention, RunDocument
from rltrain_operator import plan
from rltrain_operator.plan.submission import ENTRYPOINT_LIMIT, upstream_entrypoint
from skyrl_jobs import skyrl_job

EXAMPLE = Path(__file__).parents[2] / "examples" / "quickstart.yaml"
REFERENCE = JobReference(namespace="research", name="words", uid="aaaabbbb-cccc")


def quickstart() -> RLTrainingJob:
    job = parse_job(yaml.safe_load(EXAMPLE.read_text()))
    assert isinstance(job, RLTrainingJob), job
    return job


def recorded(job: RLTrainingJob) -> dict[str, str]:
    """What the job's ConfigMap holds, as it comes back from the API server."""
    manifest = plan.plan_config_map(
        job.metadata,
        resolved_document(job),
        plan.upstream_overrides(job),
        job.spec.runtime.modules,
        job.spec.storage.checkpoints.retain,
    )
    data: dict[str, str] = json.loads(json.dumps(manifest["data"]))
    return data


def test_our_driver_is_started_with_its_run_document() -> None:
    submission = plan.plan_submission(recorded(quickstart()), REFERENCE, 2)
    assert submission.entrypoint == "rltrain-driver"
    document = RunDocument.model_validate_json(submission.env_vars[names.RUN_ENV])
    assert (document.job, document.attempt) == (REFERENCE, 2)
    assert document.config == resolved_document(quickstart())
    assert document.modules == []
    assert document.retention is None


def test_the_run_document_says_which_checkpoints_are_kept() -> None:
    document = yaml.safe_load(EXAMPLE.read_text())
    best = {"metric": "eval/all/avg_score", "keep": 2}
    document["spec"]["storage"]["checkpoints"]["retain"] = {"last": 3, "every": 100, "best": best}
    job = parse_job(document)
    assert isinstance(job, RLTrainingJob), job
    submission = plan.plan_submission(recorded(job), REFERENCE, 1)
    found = RunDocument.model_validate_json(submission.env_vars[names.RUN_ENV]).retention
    assert found == Retention(last=3, every=100, best=BestSteps(metric="eval/all/avg_score", keep=2))


def test_the_run_document_names_the_modules_in_their_order() -> None:
    job = quickstart()
    runtime = job.spec.runtime.model_copy(update={"modules": ["words.rewards", "words"]})
    job = job.model_copy(update={"spec": job.spec.model_copy(update={"runtime": runtime})})
    submission = plan.plan_submission(recorded(job), REFERENCE, 1)
    assert RunDocument.model_validate_json(submission.env_vars[names.RUN_ENV]).modules == ["words.rewards", "words"]


def test_upstream_s_trainer_is_started_with_the_overrides_and_no_variables() -> None:
    job = skyrl_job(config={"trainer": {"epochs": 2}})
    submission = plan.plan_submission(recorded(job), REFERENCE, 1)
    words = shlex.split(submission.entrypoint)
    assert words[:6] == ["env", "-u", "RAY_RUNTIME_ENV_HOOK", "python", "-m", ENTRYPOINT]
    assert "trainer.epochs=2" in words
    assert upstream_skyrl.resolved(words[6:])["trainer"]["epochs"] == 2
    assert submission.env_vars == {}


def test_every_attempt_of_upstream_s_trainer_is_the_same_so_that_it_resumes() -> None:
    record = recorded(skyrl_job())
    first, second = (plan.plan_submission(record, REFERENCE, attempt) for attempt in (1, 2))
    assert first == second


HOSTILE = {
    "a second command": "x; touch /tmp/owned",
    "a command inside": "$(touch owned)`touch owned`",
    "quotes": """it's "quoted" 'twice'""",
    "a variable": "$HOME and ~",
    "lines": "one\ntwo",
    "a backslash": "C:\\temp\\",
    "a redirection": "a > b < c | d & e",
    "no letter of ours": "größe 😀",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_shell_hands_on_every_word_as_it_is(text: str, tmp_path: Path) -> None:
    """The shell is the real one; only python, at the command's end, is replaced by a program that shows its words."""
    overrides = [f"trainer.run_name={text}", "data.train_data=['/data/a b.parquet']"]
    command = upstream_entrypoint(overrides)
    shown = shlex.join(["python", "-m", ENTRYPOINT])
    assert shown in command
    show = command.replace(shown, """python3 -c 'import json, sys; print(json.dumps(sys.argv[1:]))'""")
    run = subprocess.run(["/bin/sh", "-c", show], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == overrides
    assert list(tmp_path.iterdir()) == []


def test_the_longest_command_that_is_let_through_is_one_that_linux_takes() -> None:
    longest = shlex.join(["true", "x" * (ENTRYPOINT_LIMIT - len("true ") - 1)])
    assert len(longest) == ENTRYPOINT_LIMIT - 1
    assert subprocess.run(["/bin/sh", "-c", longest], check=False).returncode == 0
    with pytest.raises(OSError, match="Argument list too long"):
        subprocess.run(["/bin/sh", "-c", longest + "x"], check=False)


REFUSED: dict[str, tuple[dict[str, Any], list[str], str]] = {
    "nothing": ({}, [], ""),
    "fully asynchronous training": (
        {"config": {"trainer": {"fully_async": {"max_staleness_steps": 2}}}},
        ["spec.config.trainer.fully_async"],
        "an example in SkyRL's repository",
    ),
    "a text that SkyRL would replace": (
        {"config": {"trainer": {"run_name": "run-${USER}"}}},
        ["spec.config.trainer.run_name"],
        "interpolation",
    ),
    "more words than fit": (
        {"config": {"data": {"train_data": [f"/data/{'d' * 1000}/{number}.parquet" for number in range(140)]}}},
        ["spec.config"],
        "command line",
    ),
    "RLTrain's own trainer": ({"runtime": {"trainer": "builtin"}}, [], ""),
}


@pytest.mark.parametrize(("spec", "paths", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_had_with_upstream_s_trainer_is_named(spec: dict[str, Any], paths: list[str], said: str) -> None:
    errors = plan.beyond_this_release(skyrl_job(**spec))
    assert [error.path for error in errors] == paths
    assert all(said in error.message for error in errors)


def test_upstream_s_cluster_has_its_own_ray_which_knows_no_tokens() -> None:
    clusters = {trainer: plan.plan_ray_cluster(job) for trainer, job in (("skyrl", skyrl_job()), ("", quickstart()))}
    assert clusters["skyrl"]["spec"]["rayVersion"] == RAY_VERSION
    assert "authOptions" not in clusters["skyrl"]["spec"]
    assert clusters[""]["spec"]["authOptions"]["mode"] == "token"
    labels = {trainer: cluster["metadata"]["labels"][names.TRAINER_LABEL] for trainer, cluster in clusters.items()}
    assert labels == {"skyrl": "skyrl", "": "builtin"}
