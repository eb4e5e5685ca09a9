"""The planned clusters and pods, on a real API server with KubeRay's definitions and fake nodes of four GPUs each.

Dry runs for every example and every shape of pod; then the operator itself, which says at once what can never fit.
"""

from __future__ import annotations

import copy
import json
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from api_server import EXAMPLES, example
from operator_process import running_operator
from pod_shapes import SHAPES
from rltrain_api import crdgen
from rltrain_api.job import RLTrainingJob
from rltrain_api.validate import parse_job
from rltrain_cluster.backend import Backend
from rltrain_cluster.kubectl import Kubectl
from rltrain_cluster.testing import kubectl_of, temporary_cluster, wait_for
from rltrain_cluster.waiting import wait_until
from rltrain_operator.plan import plan_disruption_budget, plan_ray_cluster
from rule_cases import PLACEMENT, document, parsed

pytestmark = [pytest.mark.controlplane, pytest.mark.timeout(600)]

Object = dict[str, Any]
NAMESPACE = "team"
NODES, GPUS = 2, 4
SECONDS = 120
DRY_RUN_SECONDS = 300
FILES = sorted(str(path.relative_to(EXAMPLES)) for path in EXAMPLES.rglob("*.yaml"))
# Objects that pods name and the API server looks for.
CLASSES: list[Object] = [
    {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "high"}, "value": 1000},
    {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "nvidia"}, "handler": "nvidia"},
]
DEFINITION = "customresourcedefinition/rltrainingjobs.rltrain.io"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Backend]:
    """KubeRay's operator, our definition, and a namespace with an account for pods."""
    with temporary_cluster("plans", "controlplane", nodes=NODES, gpus_per_node=GPUS, with_kuberay=True) as found:
        kubectl = kubectl_of(found)
        kubectl("apply", "--server-side", f"--filename={crdgen.MANIFEST}", what="applying the definition")
        wait_for(kubectl, DEFINITION, lambda one: condition(one, "Established")["status"] == "True", what="it")
        kubectl.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}, *CLASSES], "classes")
        kubectl("wait", "--for=create", "serviceaccount/default", f"--namespace={NAMESPACE}", what="the pods' account")
        yield found


@pytest.fixture(scope="module")
def kubectl(cluster: Backend) -> Kubectl:
    return kubectl_of(cluster)


def condition(item: Object, kind: str) -> Object:
    conditions = item.get("status", {}).get("conditions") or []
    return next((one for one in conditions if one["type"] == kind), {"status": None, "reason": "", "message": ""})


def pods_of(ray_cluster: Object) -> list[Object]:
    """A pod from each template, as the API server sees it when KubeRay makes it."""
    spec = ray_cluster["spec"]
    templates = {"head": spec["headGroupSpec"]["template"]}
    templates |= {group["groupName"]: group["template"] for group in spec["workerGroupSpecs"]}
    return [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {**copy.deepcopy(template["metadata"]), "name": f"pod-{name}"},
            "spec": template["spec"],
        }
        for name, template in templates.items()
    ]


def planned() -> dict[str, list[Object]]:
    """By case, everything that is planned for it and what KubeRay makes of that."""
    jobs = {file: parse_job(example(file)) for file in FILES} | {case: parsed(SHAPES[case][0]) for case in SHAPES}
    found = {}
    for case, job in jobs.items():
        assert isinstance(job, RLTrainingJob), job
        ray_cluster = plan_ray_cluster(job)
        found[case] = [ray_cluster, plan_disruption_budget(job), *pods_of(ray_cluster)]
    return found


@pytest.fixture(scope="module")
def refusals(kubectl: Kubectl) -> dict[str, list[str]]:
    """By case, what the server does not take as it is, in one strict dry run of everything."""
    cases, documents = planned(), []
    for number, objects in enumerate(cases.values()):
        for index, item in enumerate(objects):
            metadata = {key: value for key, value in item["metadata"].items() if key != "ownerReferences"}
            name = {"namespace": NAMESPACE, "name": f"case-{number}-{index}"}
            documents.append({**item, "metadata": metadata | name})
    text = "\n---\n".join(map(json.dumps, documents))
    options = ["create", "--dry-run=server", "--validate=strict", "--output=name", "--filename=-"]
    call = subprocess.run(
        kubectl.command(options), input=text, capture_output=True, text=True, timeout=DRY_RUN_SECONDS, check=False
    )
    accepted = {line.rpartition("/")[2] for line in call.stdout.split()}
    return {
        case: [
            f"{item['kind']} {number}-{index}: {call.stderr}"
            for index, item in enumerate(objects)
            if f"case-{number}-{index}" not in accepted
        ]
        for number, (case, objects) in enumerate(cases.items())
    }


@pytest.mark.parametrize("case", [*FILES, *SHAPES])
def test_what_is_planned_is_accepted(case: str, refusals: dict[str, list[str]]) -> None:
    assert refusals[case] == []


@pytest.fixture(scope="module")
def operated(cluster: Backend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubectl]:
    """kubectl on the cluster, with our operator at work."""
    with running_operator(cluster.kubeconfig, tmp_path_factory.mktemp("operator"), f"--namespace={NAMESPACE}"):
        yield kubectl_of(cluster)


def create(kubectl: Kubectl, name: str, changes: Object) -> None:
    """Make a job that wants a trainer pod and an engine."""
    storage = {"spec.storage.checkpoints": {"claimTemplate": {"storage": "1Gi"}}, "spec.storage.data": []}
    whole = document({**storage, **changes})
    whole["metadata"] = {"name": name, "namespace": NAMESPACE}
    whole["spec"]["config"]["data"] = {"train_data": ["/checkpoints/a.parquet"], "val_data": ["/checkpoints/b.parquet"]}
    whole["spec"]["config"]["trainer"]["policy"]["model"]["path"] = "/checkpoints/model"
    kubectl.apply([whole], f"creating {name}")


def awaited(kubectl: Kubectl, kind: str, name: str, holds: Callable[[Object], bool]) -> Object:
    """The object as soon as it is so."""
    last: Object = {}

    def so() -> bool:
        last.clear()
        last.update(kubectl.get(kind, name, f"--namespace={NAMESPACE}", what=f"getting {kind} {name}"))
        return holds(last)

    wait_until(f"{kind} {name}", so, SECONDS, explain=lambda: str(last.get("status")))
    return last


def test_what_can_never_fit_is_said_at_once(operated: Kubectl) -> None:
    create(operated, "wide", {f"{PLACEMENT}.policy_num_gpus_per_node": 8})

    def said(one: Object) -> bool:
        return bool(condition(one, "ClusterReady")["reason"] == "PlacementDoesNotFit")

    found = awaited(operated, "rltrainingjob", "wide", said)
    message = condition(found, "ClusterReady")["message"]
    assert "pool trainer: 1 pod of 8 nvidia.com/gpu; the largest node offers 4 nvidia.com/gpu" in message
    assert "pool inference" not in message
    assert found["status"]["phase"] == "Provisioning"
    assert condition(found, "Stalled")["status"] == "False"


def test_what_fits_starts_and_is_guarded(operated: Kubectl) -> None:
    create(operated, "narrow", {})

    def ready(one: Object) -> bool:
        return bool(condition(one, "ClusterReady")["status"] == "True")

    awaited(operated, "rltrainingjob", "narrow", ready)

    def healthy(one: Object) -> bool:
        return bool(one.get("status", {}).get("currentHealthy") == 2)

    budget = awaited(operated, "poddisruptionbudget", "narrow", healthy)
    assert budget["status"]["disruptionsAllowed"] == 0
