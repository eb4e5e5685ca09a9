"""The manifests of a job: what is asked of Kubernetes, KubeRay and Ray, field by field where it matters."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from rltrain_api import names
from rltrain_api.job import RLTrainingJob
from rltrain_api.parse import parse_job
from rltrain_api.resolve import resolved_document
from rltrain_api.wire import History, HistoryPoint
from rltrain_operator import plan

EXAMPLE = Path(__file__).parents[2] / "examples" / "quickstart.yaml"


def make_job(change: Callable[[dict[str, Any]], None] = lambda spec: None) -> RLTrainingJob:
    document = yaml.safe_load(EXAMPLE.read_text())
    document["metadata"] = {"name": "quickstart", "namespace": "team", "uid": "u-1", "generation": 3}
    change(document["spec"])
    job = parse_job(document)
    assert isinstance(job, RLTrainingJob), job
    return job


def all_manifests(job: RLTrainingJob) -> list[dict[str, Any]]:
    checkpoints = plan.plan_checkpoint_claim(job)
    return [
        plan.plan_config_map(job.metadata, resolved_document(job)),
        plan.plan_secret(job.metadata, driver_token="d", ray_token="r"),
        *([checkpoints] if checkpoints else []),
        *plan.plan_data_claims(job),
        *(plan.plan_initializer(job, initializer) for initializer in job.spec.storage.initializers),
        plan.plan_ray_cluster(job),
        plan.plan_history(job.metadata, History(points=[HistoryPoint(step=1)])),
    ]


def pod_templates(job: RLTrainingJob) -> Iterator[tuple[str, dict[str, Any]]]:
    for manifest in all_manifests(job):
        if manifest["kind"] == "Job":
            yield "initializer", manifest["spec"]["template"]
        if manifest["kind"] == "RayCluster":
            yield "head", manifest["spec"]["headGroupSpec"]["template"]
            for group in manifest["spec"]["workerGroupSpecs"]:
                yield group["groupName"], group["template"]


def test_the_quickstart_s_ray_cluster() -> None:
    cluster = plan.plan_ray_cluster(make_job())
    spec = cluster["spec"]
    assert cluster["metadata"]["name"] == "quickstart"
    assert spec["rayVersion"] == "2.60.0"
    assert spec["authOptions"] == {"mode": "token", "secretName": "quickstart-tokens"}
    assert spec["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0", "num-gpus": "0"}
    assert [
        {key: value for key, value in group.items() if key != "template"} for group in spec["workerGroupSpecs"]
    ] == [
        {
            "groupName": "trainer",
            "replicas": 1,
            "minReplicas": 1,
            "maxReplicas": 1,
            "numOfHosts": 1,
            "rayStartParams": {},
            "resources": {"trainer": "2"},
        },
        {
            "groupName": "inference",
            "replicas": 2,
            "minReplicas": 2,
            "maxReplicas": 2,
            "numOfHosts": 1,
            "rayStartParams": {},
            "resources": {"inference": "1"},
        },
    ]
    assert plan.worker_pods_wanted(cluster) == 3


def test_the_quickstart_s_trainer_container() -> None:
    template = dict(pod_templates(make_job()))["trainer"]
    container = template["spec"]["containers"][0]
    assert container == {
        "name": "ray",
        "image": "rltrain.local/trainer:dev",
        "imagePullPolicy": "IfNotPresent",
        "env": [
            {
                "name": "RLTRAIN_DRIVER_TOKEN",
                "valueFrom": {"secretKeyRef": {"name": "quickstart-tokens", "key": "driver_token"}},
            }
        ],
        "envFrom": [],
        "ports": [],
        "volumeMounts": [
            {"name": "checkpoints", "mountPath": "/checkpoints"},
            {"name": "data", "mountPath": "/data"},
            {"name": "shared-memory", "mountPath": "/dev/shm"},
        ],
        "resources": {
            "requests": {"cpu": "400m", "memory": "4Gi", "nvidia.com/gpu": "2"},
            "limits": {"memory": "4Gi", "nvidia.com/gpu": "2"},
        },
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "lifecycle": {
            "preStop": {
                "exec": {
                    "command": [
                        *("python", "-m", "rltrain_trainer.server.before_stop"),
                        *("--host", "quickstart-head-svc.team.svc", "--seconds", "120"),
                    ]
                }
            }
        },
    }
    assert template["spec"]["volumes"] == [
        {"name": "checkpoints", "persistentVolumeClaim": {"claimName": "quickstart-checkpoints"}},
        {"name": "data", "persistentVolumeClaim": {"claimName": "quickstart-data"}},
        {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": str(2 * 1024**3)}},
    ]


def test_the_head_has_its_ports_and_no_gpu() -> None:
    container = dict(pod_templates(make_job()))["head"]["spec"]["containers"][0]
    assert {port["name"]: port["containerPort"] for port in container["ports"]} == {
        "gcs-server": 6379,
        "dashboard": 8265,
        "client": 10001,
        "driver": 8700,
    }
    assert "nvidia.com/gpu" not in container["resources"]["limits"]


@pytest.mark.parametrize("role", ["head", "trainer", "inference", "initializer"])
def test_every_pod_is_restricted_and_says_whose_it_is(role: str) -> None:
    template = dict(pod_templates(make_job()))[role]
    spec, labels = template["spec"], template["metadata"]["labels"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 1000,
        "runAsGroup": 1000,
        "fsGroup": 1000,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert "hostNetwork" not in spec
    assert labels[names.JOB_LABEL] == "quickstart"
    assert labels[names.ROLE_LABEL] == labels["app.kubernetes.io/component"] == role
    assert template["metadata"]["annotations"]["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "false"


def test_the_initializer() -> None:
    job = make_job()
    manifest = plan.plan_initializer(job, job.spec.storage.initializers[0])
    assert manifest["metadata"]["name"] == "quickstart-init-arithmetic"
    assert manifest["spec"]["backoffLimit"] == 2
    assert manifest["spec"]["activeDeadlineSeconds"] == 1800
    pod = manifest["spec"]["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    assert pod["containers"][0]["command"] == ["python", "-m", "rltrain_trainer.quickstart", "--output", "/data"]
    assert "args" not in pod["containers"][0]


def test_claims_and_who_owns_them() -> None:
    job = make_job()
    checkpoints, (data,) = plan.plan_checkpoint_claim(job), plan.plan_data_claims(job)
    assert checkpoints is not None
    assert "ownerReferences" not in checkpoints["metadata"]
    assert data["metadata"]["ownerReferences"][0]["uid"] == "u-1"
    assert data["spec"] == {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}


def test_existing_claims_are_mounted_and_not_made() -> None:
    def change(spec: dict[str, Any]) -> None:
        spec["storage"]["checkpoints"] = {"claimName": "mine", "mountPath": "/checkpoints"}
        spec["storage"]["data"][0] = {"name": "data", "mountPath": "/data", "claimName": "shared"}

    job = make_job(change)
    assert plan.plan_checkpoint_claim(job) is None
    assert plan.plan_data_claims(job) == []
    volumes = dict(pod_templates(job))["head"]["spec"]["volumes"]
    assert [volume["persistentVolumeClaim"]["claimName"] for volume in volumes[:2]] == ["mine", "shared"]


def test_pools_and_runtime_reach_the_pods() -> None:
    def change(spec: dict[str, Any]) -> None:
        spec["runtime"] |= {
            "env": [{"name": "A", "value": "1"}],
            "envFrom": [{"secretRef": {"name": "s"}}],
            "imagePullPolicy": "Never",
        }
        spec["pools"]["inference"] = {
            "gpuResource": "amd.com/gpu",
            "nodeSelector": {"pool": "b"},
            "tolerations": [{"key": "gpu", "operator": "Exists"}],
            "shmSize": "8Gi",
        }

    spec = dict(pod_templates(make_job(change)))["inference"]["spec"]
    container = spec["containers"][0]
    assert spec["nodeSelector"] == {"pool": "b"}
    assert spec["tolerations"] == [{"key": "gpu", "operator": "Exists"}]
    assert spec["volumes"][-1]["emptyDir"]["sizeLimit"] == "8Gi"
    assert container["resources"]["limits"]["amd.com/gpu"] == "1"
    assert container["imagePullPolicy"] == "Never"
    assert container["env"][0] == {"name": "A", "value": "1"}
    assert container["envFrom"] == [{"secretRef": {"name": "s", "optional": False}}]


def test_a_role_s_own_image_wins_and_initializers_run_the_trainer_s() -> None:
    def change(spec: dict[str, Any]) -> None:
        spec["runtime"] |= {"image": "all:1", "images": {"head": "head:1", "trainer": "trainer:1"}}

    found = {role: pod["spec"]["containers"][0]["image"] for role, pod in pod_templates(make_job(change))}
    assert found == {"initializer": "trainer:1", "head": "head:1", "trainer": "trainer:1", "inference": "all:1"}


def test_the_priority_class_is_every_pod_s_and_absent_when_unset() -> None:
    def change(spec: dict[str, Any]) -> None:
        spec["priorityClassName"] = "research"

    assert {pod["spec"]["priorityClassName"] for _, pod in pod_templates(make_job(change))} == {"research"}
    assert not any("priorityClassName" in pod["spec"] for _, pod in pod_templates(make_job()))


def test_the_preset_reaches_every_pod_and_the_job_s_own_variables_win() -> None:
    def change(spec: dict[str, Any]) -> None:
        spec["runtime"] |= {
            "envPreset": "debug",
            "excludeEnv": ["SGLANG*"],
            "env": [{"name": "NCCL_DEBUG", "value": "TRACE"}],
        }

    for role, pod in pod_templates(make_job(change)):
        variables = {entry["name"]: entry.get("value") for entry in pod["spec"]["containers"][0]["env"]}
        assert variables["NCCL_DEBUG"] == "TRACE", role
        assert variables["TORCH_DISTRIBUTED_DEBUG"] == "DETAIL", role
        assert not any(name.startswith("SGLANG") for name in variables), role


def test_an_initializer_s_variables_win_over_the_job_s() -> None:
    def change(spec: dict[str, Any]) -> None:
        spec["runtime"]["env"] = [{"name": "A", "value": "job"}, {"name": "B", "value": "job"}]
        spec["storage"]["initializers"][0]["env"] = [{"name": "A", "value": "own"}]

    env = dict(pod_templates(make_job(change)))["initializer"]["spec"]["containers"][0]["env"]
    assert env == [{"name": "B", "value": "job"}, {"name": "A", "value": "own"}]


def test_records() -> None:
    job = make_job()
    document = resolved_document(job)
    config_map = plan.plan_config_map(job.metadata, document)
    assert config_map["metadata"]["name"] == "quickstart-config-3"
    assert config_map["immutable"] is True
    assert json.loads(config_map["data"][plan.CONFIG_KEY]) == document
    secret = plan.plan_secret(job.metadata, driver_token="d", ray_token="r")
    assert secret["stringData"] == {"driver_token": "d", "auth_token": "r"}
    history = plan.plan_history(job.metadata, History(points=[HistoryPoint(step=1, reward=0.5)]))
    assert json.loads(history["data"][plan.HISTORY_KEY])["points"] == [{"step": 1, "reward": 0.5}]


def test_every_child_is_labelled_in_the_job_s_namespace_and_owned_but_for_the_checkpoints() -> None:
    for manifest in all_manifests(make_job()):
        metadata = manifest["metadata"]
        assert metadata["namespace"] == "team"
        assert metadata["labels"][names.JOB_LABEL] == "quickstart"
        assert metadata["labels"]["app.kubernetes.io/managed-by"] == "rltrain-operator"
        if metadata["name"] != "quickstart-checkpoints":
            (owner,) = metadata["ownerReferences"]
            assert owner["uid"] == "u-1"
            assert owner["controller"] is True
            assert owner["blockOwnerDeletion"] is True


def test_planning_is_repeatable_and_changes_nothing_it_was_given() -> None:
    job = make_job()
    before = copy.deepcopy(job)
    assert all_manifests(job) == all_manifests(job)
    assert job == before


def test_manifests_are_plain_json() -> None:
    for manifest in all_manifests(make_job()):
        assert json.loads(json.dumps(manifest)) == manifest


def test_no_token_in_any_manifest_but_the_secret() -> None:
    job = make_job()
    others = [manifest for manifest in all_manifests(job) if manifest["kind"] != "Secret"]
    secret = plan.plan_secret(job.metadata, driver_token="token-of-driver", ray_token="token-of-ray")
    assert "token-of-driver" in json.dumps(secret)
    assert "token-of" not in json.dumps(others)


def test_the_longest_allowed_name_gives_names_that_kubernetes_allows() -> None:
    document = yaml.safe_load(EXAMPLE.read_text())
    document["metadata"] = {"name": "j" * names.MAX_JOB_NAME_LENGTH, "namespace": "team", "uid": "u", "generation": 9}
    job = parse_job(document)
    assert isinstance(job, RLTrainingJob)
    for manifest in all_manifests(job):
        limit = {"RayCluster": 53, "Job": 63}.get(manifest["kind"], 253)
        assert len(manifest["metadata"]["name"]) <= limit
        assert all(len(value) <= 63 for value in manifest["metadata"]["labels"].values())


HASHED: dict[str, tuple[Callable[[dict[str, Any]], None], bool]] = {
    "image": (lambda spec: spec["runtime"].update(image="other"), True),
    "engines, which come and go in the cluster": (
        lambda spec: spec["config"]["generator"]["inference_engine"].update(num_engines=3),
        False,
    ),
    "learning rate": (lambda spec: spec["config"]["trainer"].update(seed=1), False),
}


@pytest.mark.parametrize(("change", "differs"), HASHED.values(), ids=HASHED.keys())
def test_the_cluster_s_hash_is_that_of_its_spec(change: Callable[[dict[str, Any]], None], differs: bool) -> None:
    manifest = plan.plan_ray_cluster(make_job())
    assert manifest["metadata"]["annotations"][names.SPEC_HASH_ANNOTATION] == plan.cluster_hash(make_job())
    assert (plan.cluster_hash(make_job(change)) != plan.cluster_hash(make_job())) is differs
