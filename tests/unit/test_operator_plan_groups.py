"""Which worker groups a job has: numbers of pods, GPUs and hosts for every kind of placement, and who guards them."""

from __future__ import annotations

from typing import Any

import pytest

from rltrain_api.rules.facts import Facts
from rltrain_api.sizing.pools import plan_pools
from rltrain_api.validate import validate
from rltrain_operator.plan import plan_disruption_budget, plan_ray_cluster, worker_pods_wanted
from rule_cases import ALGORITHM, BUILTIN, ENGINE, GENERATOR, PLACEMENT, TRAINER, UPSTREAM, Changes, parsed

INFERENCE = "spec.pools.inference"
COLOCATED = {f"{PLACEMENT}.colocate_all": True}
TWO_NODES = {f"{PLACEMENT}.policy_num_nodes": 2, f"{PLACEMENT}.policy_num_gpus_per_node": 8}

Shape = tuple[str, int, int, str]
"""(group, replicas, hosts of each, GPUs of a pod)."""

GROUPS: dict[str, tuple[str, Changes, list[Shape]]] = {
    "builtin": (
        BUILTIN,
        {f"{ENGINE}.num_engines": 3},
        [("trainer", 1, 1, "2"), ("inference", 3, 1, "1")],
    ),
    "colocated": (
        UPSTREAM,
        {**COLOCATED, f"{ENGINE}.num_engines": 2},
        [("trainer", 1, 1, "2")],
    ),
    "colocated on two nodes": (
        UPSTREAM,
        {**COLOCATED, **TWO_NODES, f"{ENGINE}.num_engines": 4, f"{ENGINE}.tensor_parallel_size": 4},
        [("trainer", 2, 1, "8")],
    ),
    "small engines share pods as large as the trainer's": (
        UPSTREAM,
        {**TWO_NODES, f"{ENGINE}.num_engines": 4, f"{ENGINE}.tensor_parallel_size": 4},
        [("trainer", 2, 1, "8"), ("inference", 2, 1, "8")],
    ),
    "an engine of every kind of parallelism": (
        UPSTREAM,
        {
            f"{ENGINE}.tensor_parallel_size": 2,
            f"{ENGINE}.pipeline_parallel_size": 2,
            f"{ENGINE}.data_parallel_size": 2,
            f"{ENGINE}.num_engines": 3,
        },
        [("trainer", 1, 1, "2"), ("inference", 3, 1, "8")],
    ),
    "engines that span two nodes": (
        UPSTREAM,
        {f"{ENGINE}.num_engines": 3, f"{ENGINE}.tensor_parallel_size": 8, f"{ENGINE}.pipeline_parallel_size": 2},
        [("trainer", 1, 1, "2"), ("inference", 3, 2, "8")],
    ),
    "engines that span nodes of four GPUs": (
        UPSTREAM,
        {f"{ENGINE}.num_engines": 2, f"{ENGINE}.tensor_parallel_size": 16, f"{INFERENCE}.gpusPerNode": 4},
        [("trainer", 1, 1, "2"), ("inference", 2, 4, "4")],
    ),
    "nodes that hold four engines": (
        UPSTREAM,
        {f"{ENGINE}.num_engines": 6, f"{ENGINE}.tensor_parallel_size": 2, f"{INFERENCE}.gpusPerNode": 8},
        [("trainer", 1, 1, "2"), ("inference", 2, 1, "8")],
    ),
    "engines elsewhere": (
        UPSTREAM,
        {
            f"{ENGINE}.run_engines_locally": False,
            f"{ENGINE}.remote_urls": ["engines:8000"],
            f"{GENERATOR}.sampling_params": {"logprobs": None},
        },
        [("trainer", 1, 1, "2")],
    ),
    "a reference model beside the policy": (
        UPSTREAM,
        {f"{ALGORITHM}.use_kl_loss": True, f"{PLACEMENT}.ref_num_gpus_per_node": 2},
        [("trainer", 1, 1, "2"), ("inference", 1, 1, "2")],
    ),
    "a reference model and a critic apart": (
        UPSTREAM,
        {
            f"{ALGORITHM}.use_kl_loss": True,
            f"{PLACEMENT}.colocate_policy_ref": False,
            f"{PLACEMENT}.ref_num_nodes": 2,
            f"{PLACEMENT}.ref_num_gpus_per_node": 2,
            f"{TRAINER}.critic": {"model": {"path": "/data/critic"}},
            f"{TRAINER}.critic_mini_batch_size": 4,
            f"{ENGINE}.num_engines": 4,
        },
        [("trainer", 1, 1, "2"), ("reference", 2, 1, "2"), ("critic", 1, 1, "1"), ("inference", 2, 1, "2")],
    ),
    "a reference model that needs larger pods than the policy": (
        UPSTREAM,
        {
            f"{ALGORITHM}.use_kl_loss": True,
            f"{PLACEMENT}.colocate_policy_ref": False,
            f"{PLACEMENT}.policy_num_nodes": 2,
            f"{PLACEMENT}.ref_num_gpus_per_node": 4,
            f"{ENGINE}.num_engines": 4,
        },
        [("trainer", 2, 1, "4"), ("reference", 1, 1, "4"), ("inference", 1, 1, "4")],
    ),
    "the builtin trainer's critic and reference apart": (
        BUILTIN,
        {
            f"{ALGORITHM}.use_kl_loss": True,
            f"{PLACEMENT}.colocate_policy_ref": False,
            f"{PLACEMENT}.policy_num_gpus_per_node": 1,
            f"{PLACEMENT}.ref_num_gpus_per_node": 2,
            f"{TRAINER}.critic": {"model": {"path": "/data/critic"}},
            f"{TRAINER}.critic_mini_batch_size": 4,
        },
        [("trainer", 1, 1, "1"), ("reference", 1, 1, "2"), ("critic", 1, 1, "1"), ("inference", 1, 1, "1")],
    ),
    "pods for environments": (
        UPSTREAM,
        {**COLOCATED, f"{ENGINE}.num_engines": 2, "spec.pools.environment": {"replicas": 4, "resources": {"cpu": 15}}},
        [("trainer", 1, 1, "2"), ("environment", 4, 1, "0")],
    ),
}


def groups_of(ground: str, changes: Changes) -> list[dict[str, Any]]:
    specs: list[dict[str, Any]] = plan_ray_cluster(parsed(changes, ground))["spec"]["workerGroupSpecs"]
    return specs


def gpus_of(group: dict[str, Any]) -> str:
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    return str(limits.get("nvidia.com/gpu", "0"))


@pytest.mark.proves("generator.inference_engine.num_engines")
@pytest.mark.parametrize("case", GROUPS)
def test_groups(case: str) -> None:
    ground, changes, expected = GROUPS[case]
    groups = groups_of(ground, changes)
    assert [(g["groupName"], g["replicas"], g["numOfHosts"], gpus_of(g)) for g in groups] == expected
    assert all(group["replicas"] == group["minReplicas"] == group["maxReplicas"] for group in groups)


@pytest.mark.parametrize("case", GROUPS)
def test_the_job_is_valid(case: str) -> None:
    ground, changes, _ = GROUPS[case]
    assert validate(parsed(changes, ground)) == []


@pytest.mark.parametrize("case", GROUPS)
def test_the_shown_plan_is_the_same(case: str) -> None:
    """`kubectl rltrain plan` shows these sizes; the cluster has them."""
    ground, changes, _ = GROUPS[case]
    job = parsed(changes, ground)
    cluster = plan_ray_cluster(job)
    sizes = [size for size in plan_pools(Facts(job)) if size.name != "head"]
    assert worker_pods_wanted(cluster) == sum(size.pods for size in sizes)
    assert {g["groupName"]: int(gpus_of(g)) * g["replicas"] * g["numOfHosts"] for g in groups_of(ground, changes)} == {
        size.name: size.gpus for size in sizes
    }


@pytest.mark.parametrize("case", [case for case, (ground, _, _) in GROUPS.items() if ground is UPSTREAM])
def test_ray_finds_room_for_upstream_s_placement_groups(case: str) -> None:
    """A bundle takes a CPU with each GPU, the driver's task one more, and engines' pods come first."""
    _, changes, _ = GROUPS[case]
    offered = {group["groupName"]: group["resources"] for group in groups_of(UPSTREAM, changes)}
    for name, resources in offered.items():
        assert int(resources["CPU"]) > int(resources["GPU"]), name
    if "inference" in offered:
        engines = offered.pop("inference")
        offered.pop("environment", None)
        assert all(int(engines["CPU"]) > int(models["CPU"]) + 1 for models in offered.values())
        assert all(int(engines["GPU"]) >= int(models["GPU"]) for models in offered.values())


def test_the_builtin_trainer_s_pods_offer_what_its_driver_asks_for() -> None:
    assert [group["resources"] for group in groups_of(BUILTIN, {})] == [{"trainer": "2"}, {"inference": "1"}]


GUARDED: dict[str, tuple[str, Changes, int, list[str]]] = {
    "builtin: engines may go": (BUILTIN, {f"{ENGINE}.num_engines": 3}, 2, ["head", "trainer"]),
    "upstream: no engine may go": (
        UPSTREAM,
        {f"{ENGINE}.num_engines": 4},
        4,
        ["head", "trainer", "inference"],
    ),
    "environments may go": (
        UPSTREAM,
        {**COLOCATED, f"{ENGINE}.num_engines": 2, "spec.pools.environment": {"replicas": 4}},
        2,
        ["head", "trainer"],
    ),
}


@pytest.mark.parametrize("case", GUARDED)
def test_disruption_budget(case: str) -> None:
    ground, changes, pods, roles = GUARDED[case]
    budget = plan_disruption_budget(parsed(changes, ground))
    selector = budget["spec"]["selector"]
    assert budget["spec"]["minAvailable"] == pods
    assert selector["matchLabels"] == {"rltrain.io/job": "job"}
    assert selector["matchExpressions"] == [{"key": "rltrain.io/role", "operator": "In", "values": roles}]
    assert budget["metadata"]["ownerReferences"][0]["kind"] == "RLTrainingJob"
