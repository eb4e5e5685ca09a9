"""How many nodes a run takes, by SkyRL's placement groups."""

from __future__ import annotations

from typing import Any

import pytest

from rltrain_api.render.machines import machines_for_skyrl
from skyrl_jobs import skyrl_job

APART: dict[str, Any] = {"colocate_all": False}
GIBIBYTE = 2**30


def machines(placement: dict[str, Any], engine: dict[str, Any], gpus: int = 0, **trainer: Any) -> tuple[int, int]:
    config = {"trainer": {"placement": placement, **trainer}, "generator": {"inference_engine": engine}}
    found = machines_for_skyrl(skyrl_job(config=config), gpus=gpus)
    return found.nodes, found.gpus


TWO_BY_EIGHT = {"policy_num_nodes": 2, "policy_num_gpus_per_node": 8}
# Name -> (placement, engines, further settings of the trainer, (nodes, GPUs of each)).
SHAPES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], tuple[int, int]]] = {
    "engines on the policy's GPUs": ({"policy_num_gpus_per_node": 4}, {"num_engines": 4}, {}, (1, 4)),
    "the same on two nodes": (TWO_BY_EIGHT, {"num_engines": 16}, {}, (2, 8)),
    "engines apart": ({**APART, "policy_num_gpus_per_node": 4}, {"num_engines": 4}, {}, (2, 4)),
    "engines that do not fill their last node": (
        {**APART, "policy_num_gpus_per_node": 4},
        {"num_engines": 5},
        {},
        (3, 4),
    ),
    "engines of several GPUs": (
        {**APART, **TWO_BY_EIGHT},
        {"num_engines": 2, "tensor_parallel_size": 2, "data_parallel_size": 2},
        {},
        (3, 8),
    ),
    "engines larger than the policy's nodes": (
        {**APART, "policy_num_gpus_per_node": 2},
        {"num_engines": 1, "tensor_parallel_size": 4},
        {},
        (2, 4),
    ),
    "small models share a node that an engine makes large": (
        {**APART, "policy_num_nodes": 2, "policy_num_gpus_per_node": 4},
        {"num_engines": 1, "tensor_parallel_size": 8},
        {},
        (2, 8),
    ),
    "an engine larger than any machine": (
        {**APART, "policy_num_gpus_per_node": 8},
        {"num_engines": 1, "tensor_parallel_size": 12},
        {},
        (3, 8),
    ),
    "an engine of several nodes by its layers": (
        {**APART, "policy_num_gpus_per_node": 8},
        {"num_engines": 1, "tensor_parallel_size": 8, "pipeline_parallel_size": 2},
        {},
        (3, 8),
    ),
    "engines that run elsewhere": (
        {**APART, "policy_num_gpus_per_node": 4},
        {"num_engines": 8, "run_engines_locally": False},
        {},
        (1, 4),
    ),
    "a reference model of its own": (
        {**APART, "colocate_policy_ref": False, "policy_num_gpus_per_node": 4, "ref_num_gpus_per_node": 2},
        {"num_engines": 2},
        {},
        (2, 4),
    ),
    "no reference model": (
        {**APART, "colocate_policy_ref": False, "policy_num_gpus_per_node": 4, "ref_num_gpus_per_node": 4},
        {"num_engines": 4},
        {"algorithm": {"use_kl_loss": False}},
        (2, 4),
    ),
    "a critic": (
        {**APART, "policy_num_gpus_per_node": 4, "critic_num_nodes": 2, "critic_num_gpus_per_node": 4},
        {"num_engines": 4},
        {"critic": {"model": {"path": "/data/critic"}}},
        (4, 4),
    ),
}


@pytest.mark.parametrize(("placement", "engine", "trainer", "expected"), SHAPES.values(), ids=SHAPES.keys())
def test_shape(
    placement: dict[str, Any], engine: dict[str, Any], trainer: dict[str, Any], expected: tuple[int, int]
) -> None:
    assert machines(placement, engine, **trainer) == expected


GIVEN: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[int, int]]] = {
    "all in one, and no GPU more than needed": (
        {**APART, "policy_num_gpus_per_node": 4},
        {"num_engines": 2},
        (1, 6),
    ),
    "whole nodes where one is not enough": ({**APART, "policy_num_gpus_per_node": 4}, {"num_engines": 5}, (2, 8)),
    "a model is larger than the nodes": ({"policy_num_gpus_per_node": 16}, {"num_engines": 16}, (1, 16)),
}


@pytest.mark.parametrize(("placement", "engine", "expected"), GIVEN.values(), ids=GIVEN.keys())
def test_shape_on_nodes_of_8_gpus(placement: dict[str, Any], engine: dict[str, Any], expected: tuple[int, int]) -> None:
    assert machines(placement, engine, gpus=8) == expected


def test_cpus_and_memory_are_those_of_the_fullest_node() -> None:
    job = skyrl_job(
        config={
            "trainer": {"placement": {**APART, "policy_num_gpus_per_node": 4}},
            "generator": {"inference_engine": {"num_engines": 4}},
        },
        pools={
            "trainer": {"resources": {"cpu": "12", "memory": "64Gi"}},
            "inference": {"resources": {"cpu": "14", "memory": "80Gi"}},
        },
    )
    found = machines_for_skyrl(job)
    assert (found.nodes, found.cpus, found.memory, found.memory_is_set) == (2, 14, 80 * GIBIBYTE, True)


def test_there_is_a_cpu_for_each_gpu_and_one_for_the_driver() -> None:
    found = machines_for_skyrl(skyrl_job())
    assert (found.cpus, found.memory, found.memory_is_set) == (5, 4 * GIBIBYTE, False)


def test_huge_numbers_take_no_time() -> None:
    huge = 2**31 - 1
    nodes, gpus = machines({**APART, "policy_num_gpus_per_node": 8}, {"num_engines": 1024, "data_parallel_size": huge})
    assert (nodes, gpus) == (1 + 1024 * huge // 8, 8)
