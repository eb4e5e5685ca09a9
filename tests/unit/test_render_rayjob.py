"""The plain RayJob: KubeRay's shape, an entrypoint that survives its shell, nothing of the operator's."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import yaml

from rltrain_api import names
from rltrain_api.job import RLTrainingJob
from rltrain_api.render import overrides_for_skyrl
from rltrain_api.render.upstream import ENTRYPOINT, RAY_VERSION
from rltrain_operator.plan.rayjob import plan_plain_claims, plan_ray_job, render_ray_job
from skyrl_jobs import skyrl_job


def spec_of(job: RLTrainingJob) -> dict[str, Any]:
    spec: dict[str, Any] = plan_ray_job(job)["spec"]
    return spec


def pod_of(job: RLTrainingJob, role: str) -> dict[str, Any]:
    cluster = spec_of(job)["rayClusterSpec"]
    group = cluster["headGroupSpec"] if role == "head" else cluster["workerGroupSpecs"][0]
    pod: dict[str, Any] = group["template"]["spec"]
    return pod


def test_the_entrypoint_arrives_word_for_word() -> None:
    """Ray's job supervisor hands it to a shell, once."""
    job = skyrl_job(
        config={"trainer": {"run_name": "it's $HOME `id`"}, "generator": {"sampling_params": {"stop": ["a\nb", '"c"']}}}
    )
    entrypoint = spec_of(job)["entrypoint"]
    before = f"env -u RAY_RUNTIME_ENV_HOOK python -m {ENTRYPOINT} "
    assert entrypoint.startswith(before)
    program = f"{sys.executable} -c 'import json, sys; print(json.dumps(sys.argv[1:]))' "
    done = subprocess.run(
        ["/bin/sh", "-c", program + entrypoint.removeprefix(before)], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == overrides_for_skyrl(job)


def test_cluster_has_a_head_without_work_and_workers_all_alike() -> None:
    job = skyrl_job(
        config={
            "trainer": {"placement": {"colocate_all": False}},
            "generator": {"inference_engine": {"num_engines": 6}},
        },
        pools={
            "trainer": {
                "resources": {"cpu": "16", "memory": "100Gi"},
                "nodeSelector": {"gpu": "yes"},
                "tolerations": [{"key": "gpu", "operator": "Exists"}],
                "gpuResource": "example.com/gpu",
            }
        },
    )
    spec = spec_of(job)
    cluster = spec["rayClusterSpec"]
    [workers] = cluster["workerGroupSpecs"]
    assert cluster["rayVersion"] == RAY_VERSION
    assert cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0", "num-gpus": "0"}
    assert workers["rayStartParams"] == {"num-cpus": "16", "num-gpus": "4"}
    assert {workers[key] for key in ("replicas", "minReplicas", "maxReplicas")} == {3}
    pod = workers["template"]["spec"]
    assert pod["nodeSelector"] == {"gpu": "yes"}
    assert [toleration["key"] for toleration in pod["tolerations"]] == ["gpu"]
    resources = pod["containers"][0]["resources"]
    assert resources["limits"] == {"memory": "102400Mi", "example.com/gpu": "4"}
    assert resources["requests"] == {"cpu": "16", **resources["limits"]}
    assert "nodeSelector" not in cluster["headGroupSpec"]["template"]["spec"]


def test_policies_of_the_job_are_kuberays() -> None:
    job = skyrl_job(
        failurePolicy={"backoffLimit": 2}, startupDeadlineSeconds=600, ttlSecondsAfterFinished=30, queueName="research"
    )
    manifest = plan_ray_job(job)
    spec = manifest["spec"]
    assert (spec["backoffLimit"], spec["preRunningDeadlineSeconds"], spec["ttlSecondsAfterFinished"]) == (2, 600, 30)
    assert (spec["submissionMode"], spec["shutdownAfterJobFinishes"], spec["suspend"]) == ("HTTPMode", True, True)
    assert manifest["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "research"}
    assert "suspend" not in spec_of(skyrl_job())
    assert spec_of(skyrl_job(suspend=True))["suspend"] is True
    assert spec_of(skyrl_job(activeDeadlineSeconds=7200))["activeDeadlineSeconds"] == 7200
    assert "labels" not in plan_ray_job(skyrl_job())["metadata"]


def test_nothing_of_the_operator_is_in_it() -> None:
    text = render_ray_job(skyrl_job()).text
    assert names.GROUP not in text
    assert names.DRIVER_TOKEN_ENV not in text
    assert "ownerReferences" not in text
    assert "words-tokens" not in text


def test_claims_come_before_the_job_and_existing_ones_are_only_named() -> None:
    documents = list(yaml.safe_load_all(render_ray_job(skyrl_job()).text))
    assert [document["kind"] for document in documents] == ["PersistentVolumeClaim", "RayJob"]
    assert documents[0]["metadata"] == {"name": "words-checkpoints", "namespace": "research"}
    assert documents == [*plan_plain_claims(skyrl_job()), plan_ray_job(skyrl_job())]
    for role in ("head", "workers"):
        pod = pod_of(skyrl_job(), role)
        claims = [volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"][:2]]
        assert claims == ["words-checkpoints", "prompts"]
        mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
        assert mounts == {"checkpoints": "/checkpoints", "data": "/data", "shared-memory": "/dev/shm"}


SECRET = "hf_" + "a" * 30


def test_a_secret_value_becomes_a_reference() -> None:
    job = skyrl_job(
        config={"trainer": {"logger": "wandb"}},
        runtime={"env": [{"name": "HF_TOKEN", "value": SECRET}, {"name": "A-B", "value": "$(HOME)"}]},
        storage={
            "initializers": [{"name": "fill", "command": ["true"], "env": [{"name": "OTHER_TOKEN", "value": SECRET}]}]
        },
    )
    rendered = render_ray_job(job)
    assert SECRET not in rendered.text + "".join(rendered.notes)
    variables = {entry["name"]: entry for entry in pod_of(job, "workers")["containers"][0]["env"]}
    assert variables["A-B"]["value"] == "$(HOME)"
    for name in ("HF_TOKEN", "WANDB_API_KEY"):
        assert variables[name]["valueFrom"] == {"secretKeyRef": {"name": "words-environment", "key": name}}
    [note] = [note for note in rendered.notes if "kubectl create secret" in note]
    for name in ("HF_TOKEN", "WANDB_API_KEY", "OTHER_TOKEN"):
        assert f"--from-literal={name}=" in note


def test_initializers_run_before_ray_in_the_heads_pod() -> None:
    job = skyrl_job(
        runtime={"env": [{"name": "A", "value": "job"}, {"name": "B", "value": "job"}]},
        storage={
            "initializers": [
                {"name": "one", "command": ["sh", "-c"], "args": ["true"], "env": [{"name": "A", "value": "own"}]},
                {"name": "two", "command": ["true"]},
            ]
        },
    )
    containers = pod_of(job, "head")["initContainers"]
    assert [container["name"] for container in containers] == ["init-one", "init-two"]
    assert (containers[0]["command"], containers[0]["args"]) == (["sh", "-c"], ["true"])
    own = {entry["name"]: entry["value"] for entry in containers[0]["env"]}
    assert (own["A"], own["B"]) == ("own", "job")
    assert "initContainers" not in pod_of(job, "workers")
    assert any("again with each new cluster" in note for note in render_ray_job(job).notes)


NOTES: dict[str, tuple[dict[str, Any], str]] = {
    "engines have their own nodes": (
        {"pools": {"inference": {"nodeSelector": {"gpu": "x"}}}},
        "they follow pools.trainer",
    ),
    "an image of the engines": (
        {"runtime": {"images": {"inference": "x:y"}}},
        "spec.runtime.images.inference: left out",
    ),
    "what the operator alone does": (
        {"failurePolicy": {"backoffLimit": 1, "restartDelaySeconds": 9}, "updatePolicy": "Reject"},
        "spec.failurePolicy.restartDelaySeconds, spec.updatePolicy: left out",
    ),
    "a deadline of each attempt": ({"activeDeadlineSeconds": 60}, "counts anew for each attempt"),
    "a checkpoint of another job": (
        {"storage": {"checkpoints": {"resumeFrom": {"job": "first", "step": 40}}}},
        "the run does not begin from it",
    ),
}


@pytest.mark.parametrize(("spec", "said"), NOTES.values(), ids=NOTES.keys())
def test_what_is_lost_is_said(spec: dict[str, Any], said: str) -> None:
    notes = render_ray_job(skyrl_job(**spec)).notes
    assert any(said in note for note in notes), notes


def test_no_note_about_what_kuberay_does_too() -> None:
    job = skyrl_job(
        pools={"head": {"resources": {"cpu": "2"}}, "inference": {"resources": {"memory": "9Gi"}}},
        queueName="research",
        ttlSecondsAfterFinished=5,
    )
    assert not [note for note in render_ray_job(job).notes if "left out" in note or "spec.pools" in note]
