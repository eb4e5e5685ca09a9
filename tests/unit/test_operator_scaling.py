"""The number of engines of a running job: where it may change, what is patched, which pods go, what is said."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from operator_moments import GENERATION_2, NOW, T, document, driver, engine_group, read
from operator_rows import subject
from operator_scaling_rows import GROWING, SCALING_ROWS, SERVING, THREE, followed, keeping
from rltrain_api.job import RLTrainingJob
from rltrain_api.wire import DriverStatus, EngineStatus
from rltrain_operator import plan
from rltrain_operator.reconcile.decide import decide
from rltrain_operator.reconcile.scaling import leaving_pods, ready_replicas
from rltrain_operator.reconcile.state import EngineGroup, EnginePod, ResizeEngines

Change = Callable[[dict[str, Any]], Any]

FIXED: dict[str, tuple[Change, str | None]] = {
    "engines in pods of their own": (lambda spec: None, None),
    "gang scheduling by pods": (lambda spec: spec.update(scheduling={"scheduler": "volcano"}, queueName="q"), None),
    "in a queue of Kueue's": (lambda spec: spec.update(queueName="q"), "Kueue has admitted the cluster"),
    "on the trainer's GPUs": (
        lambda spec: spec["config"]["trainer"]["placement"].update(colocate_all=True),
        "the engines are on the GPUs that train",
    ),
    "elsewhere": (
        lambda spec: spec["config"]["generator"]["inference_engine"].update(
            run_engines_locally=False, remote_urls=["a:1", "b:1"]
        ),
        "run elsewhere",
    ),
    "SkyRL's trainer": (lambda spec: spec["runtime"].update(trainer="skyrl"), "SkyRL's trainer takes its engines once"),
}


def changed(change: Change, engines: int = 2) -> RLTrainingJob:
    wire = document()
    wire["spec"]["config"]["generator"]["inference_engine"]["num_engines"] = engines
    change(wire["spec"])
    return read(wire)


@pytest.mark.parametrize(("change", "why"), FIXED.values(), ids=FIXED.keys())
def test_where_the_number_may_change(change: Change, why: str | None) -> None:
    job = changed(change)
    said = plan.fixed_engines(job)
    assert (said is None) == (why is None)
    assert why is None or why in (said or "")


@pytest.mark.parametrize(("change", "why"), FIXED.values(), ids=FIXED.keys())
def test_the_cluster_s_hash_knows_the_number_where_it_is_fixed(change: Change, why: str | None) -> None:
    of_two, of_five = changed(change, 2), changed(change, 5)
    has_group = any(group["groupName"] == "inference" for group in groups_of(of_two))
    assert (plan.cluster_hash(of_two) != plan.cluster_hash(of_five)) == (why is not None and has_group)
    assert plan.with_engines(of_two, 5).spec.config == of_five.spec.config


def groups_of(job: RLTrainingJob) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = plan.plan_ray_cluster(job)["spec"]["workerGroupSpecs"]
    return found


def test_a_fixed_number_is_an_edit_that_says_why() -> None:
    queued = document(queueName="q")
    before = read(queued)
    queued["metadata"]["generation"] = 2
    queued["spec"]["config"]["generator"]["inference_engine"]["num_engines"] = 3
    row = SCALING_ROWS["39 more engines are wanted"]
    record = row.status.resolved_config
    assert record is not None
    as_queued = record.model_copy(update={"spec_hash": plan.spec_hash(before)})
    asked = subject(row)
    status = row.status.model_copy(update={"resolved_config": as_queued})
    asked = replace(asked, status=status, job=read(queued))
    decision = decide(asked, row.observed, NOW)
    assert not [action for action in decision.actions if isinstance(action, ResizeEngines)]
    assert decision.status.stop is not None
    reconciling = decision.status.condition(T.RECONCILING)
    assert reconciling is not None
    assert "Kueue has admitted the cluster in its present size" in reconciling.message


def test_the_patch_names_what_it_expects() -> None:
    assert plan.plan_resize(1, 3, 2, ("e-2",), "cluster-uid") == [
        {"op": "test", "path": "/metadata/uid", "value": "cluster-uid"},
        {"op": "test", "path": "/spec/workerGroupSpecs/1/groupName", "value": "inference"},
        {"op": "test", "path": "/spec/workerGroupSpecs/1/replicas", "value": 3},
        {"op": "replace", "path": "/spec/workerGroupSpecs/1/replicas", "value": 2},
        {"op": "replace", "path": "/spec/workerGroupSpecs/1/minReplicas", "value": 2},
        {"op": "replace", "path": "/spec/workerGroupSpecs/1/maxReplicas", "value": 2},
        {"op": "add", "path": "/spec/workerGroupSpecs/1/scaleStrategy", "value": {"workersToDelete": ["e-2"]}},
    ]


def of_two_hosts(*replicas: tuple[bool, bool]) -> EngineGroup:
    pods = [
        EnginePod(f"e-{number}-{host}", f"replica-{number}", ready)
        for number, hosts in enumerate(replicas)
        for host, ready in enumerate(hosts)
    ]
    return EngineGroup(number=1, replicas=len(replicas), hosts=2, pods=tuple(pods))


def in_pods(*pods: str) -> DriverStatus:
    engines = [EngineStatus(name=pod, state=SERVING, pod=pod) for pod in pods]
    return driver(engines=engines, engines_wanted=len(pods))


LEAVING: dict[str, tuple[EngineGroup, DriverStatus, int, tuple[str, ...]]] = {
    "the pod without an engine": (THREE, in_pods("e-0", "e-2"), 2, ("e-1",)),
    "no more than are too many": (THREE, in_pods("e-2"), 2, ("e-0",)),
    "one that is not ready before one that is": (GROWING, in_pods("e-0"), 2, ("e-2",)),
    "none where they never came": (engine_group(8, True, True), in_pods("e-0", "e-1"), 2, ()),
    "none with an engine": (THREE, in_pods("e-0", "e-1", "e-2"), 1, ()),
    "all pods of an engine": (
        of_two_hosts((True, True), (True, True)),
        in_pods("e-1-0"),
        1,
        ("e-0-0", "e-0-1"),
    ),
}


@pytest.mark.parametrize(("group", "answer", "desired", "expected"), LEAVING.values(), ids=LEAVING.keys())
def test_which_pods_go(group: EngineGroup, answer: DriverStatus, desired: int, expected: tuple[str, ...]) -> None:
    assert leaving_pods(group, answer, desired) == expected


def test_an_engine_needs_all_its_pods() -> None:
    assert ready_replicas(of_two_hosts((True, True), (True, False), (True, True))) == 2
    assert ready_replicas(EngineGroup(1, 2, hosts=2, pods=(EnginePod("e-0-0", "replica-0", True),))) == 0


def said(row_name: str) -> str:
    row = SCALING_ROWS[row_name]
    condition = decide(subject(row), row.observed, NOW).status.condition(T.ENGINES_READY)
    assert condition is not None
    return condition.message


def test_what_is_said_of_engines() -> None:
    assert said("15 the new pods are not ready") == (
        "2 of 3 engines serve; the pods of 1 are awaited until 00:30:00 UTC, and training goes on with the others"
    )
    assert said("42 the new pods did not come in time") == (
        "2 of 3 engines serve; the pods of 1 did not come within spec.startupDeadlineSeconds (100 s), and training "
        "goes on with the others"
    )
    assert said("40 fewer engines are wanted") == "3 engines serve and 1 are wanted: the others are drained"
    assert said("15 the new engine joins") == "2 of 3 engines serve"


def test_why_pods_do_not_come_is_said() -> None:
    row = SCALING_ROWS["15 the new pods are not ready"]
    observed = followed(GROWING, keeping(2, SERVING, SERVING))
    assert observed.cluster is not None
    cluster = replace(observed.cluster, troubles=("e-2: Unschedulable: no GPU",))
    observed = replace(observed, cluster=cluster, shortfalls=("inference: 1 pod",))
    condition = decide(subject(row, **GENERATION_2), observed, NOW).status.condition(T.ENGINES_READY)
    assert condition is not None
    assert condition.message.endswith("goes on with the others: inference: 1 pod; e-2: Unschedulable: no GPU")
