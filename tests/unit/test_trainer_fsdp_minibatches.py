from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from rltrain_api.config import SkyRLTrainConfig
from rltrain_trainer.algorithms.reductions import loss_weights
from rltrain_trainer.data.batch import TrainBatch
from rltrain_trainer.driver.rank_pools import rank_pools
from rltrain_trainer.fsdp.metrics import batch_metrics
from rltrain_trainer.fsdp.minibatches import (
    deal,
    mini_batches,
    needs_critic,
    needs_old_logprobs,
    needs_reference,
    optimizer_steps_per_batch,
    reference_is_the_policy,
)
from rltrain_trainer.fsdp.packing import plan_micro_batches, shares

ROWS, RESPONSE = 24, 5


def make_config(**trainer: Any) -> SkyRLTrainConfig:
    sizes = {"train_batch_size": 6, "policy_mini_batch_size": 3}
    return SkyRLTrainConfig.model_validate({"trainer": sizes | trainer, "generator": {"n_samples_per_prompt": 4}})


def make_batch(rows: int = ROWS) -> TrainBatch:
    generator = torch.Generator().manual_seed(0)
    response_mask = torch.arange(RESPONSE, 0, -1) <= torch.randint(0, 6, (rows, 1), generator=generator)
    attention_mask = torch.nn.functional.pad(response_mask, (0, 2), value=True).flip(-1).sort(dim=-1).values
    return TrainBatch(
        sequences=torch.arange(rows)[:, None].expand(-1, RESPONSE + 2),
        attention_mask=attention_mask,
        response_mask=response_mask,
        loss_mask=response_mask & (torch.rand(rows, RESPONSE, generator=generator) < 0.8),
        token_rewards=torch.zeros(rows, RESPONSE),
        rollout_logprobs=torch.zeros(rows, RESPONSE),
        group_ids=torch.arange(rows) // 4,
    )


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("reduction", ["token_mean", "sequence_mean"])
def test_shares_of_a_mini_batch_are_the_same_rows_and_weights_for_any_number_of_ranks(
    world_size: int, reduction: str
) -> None:
    batch = make_batch()
    config = make_config(algorithm={"loss_reduction": reduction})
    dealt = [deal(batch, config, rank=rank, ranks=world_size, prompts=3) for rank in range(world_size)]
    for number, of_ranks in enumerate(zip(*dealt, strict=True)):
        rows = batch.rows(slice(12 * number, 12 * number + 12))
        assert torch.equal(torch.cat([share.batch.sequences for share in of_ranks]), rows.sequences)
        weights = torch.cat([share.policy_weights for share in of_ranks])
        assert torch.equal(weights, loss_weights(rows.loss_mask, reduction))
        assert torch.equal(
            torch.cat([share.token_weights for share in of_ranks]), loss_weights(rows.loss_mask, "token_mean")
        )
        assert torch.equal(
            torch.cat([share.sequence_weights for share in of_ranks]), loss_weights(rows.loss_mask, "sequence_mean")
        )


def test_micro_batches_carry_all_weight_of_their_share() -> None:
    share = deal(make_batch(), make_config(use_sample_packing=False), rank=1, ranks=2, prompts=3)[0]
    micros = list(share.micro_batches())
    assert len(micros) == len(share)
    assert torch.stack([micro.policy_weights.sum() for micro in micros]).sum() == pytest.approx(
        share.policy_weights.sum().item()
    )
    for micro in micros:
        widths = {micro.batch.response_length, micro.policy_weights.shape[1], micro.token_weights.shape[1]}
        assert len(widths) == 1
    assert min(micro.batch.response_length for micro in micros) < RESPONSE


@pytest.mark.parametrize("packed", [False, True])
def test_a_mini_batch_that_does_not_divide_is_dealt_out_with_all_its_weight(packed: bool) -> None:
    """Thirteen rows on five ranks, and one on five: everybody has as many micro-batches, and nothing counts twice."""
    config = make_config(use_sample_packing=packed, micro_train_batch_size_per_gpu=2)
    for rows in (13, 1):
        batch = make_batch(rows)
        of_ranks = [deal(batch, config, rank=rank, ranks=5, prompts=4)[0] for rank in range(5)]
        micros = [list(share.micro_batches()) for share in of_ranks]
        assert len({len(each) for each in micros}) == 1
        every = [micro for each in micros for micro in each]
        assert all(len(micro) for micro in every)
        trained = batch.loss_mask.sum()
        assert sum(micro.batch.loss_mask.sum() for micro in every) == trained
        assert sum(micro.token_weights.sum().item() for micro in every) == pytest.approx(float(trained > 0))


def test_a_mini_batch_of_steps_has_whole_trajectories() -> None:
    steps = [1, 3, 2, 1, 1, 2, 2, 1, 4, 1]  # of each trajectory
    ids = torch.repeat_interleave(torch.arange(len(steps)), torch.tensor(steps))
    batch = replace(make_batch(len(ids)), trajectory_ids=ids)
    found = mini_batches(batch, make_config(), prompts=1)
    assert [len(batch.rows(rows)) for rows in found] == [7, 6, 5]
    assert [ids[rows].unique().tolist() for rows in found] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


PLANS: dict[str, tuple[list[int], int, dict[str, Any], list[list[list[int]]]]] = {
    "by count": ([5, 5, 5, 5, 5], 1, {"rows": 2, "packed": False}, [[[0, 1], [2, 3], [4]]]),
    "by tokens": ([8, 2, 3, 5, 3], 1, {"rows": 1, "packed": True}, [[[0], [1, 4], [2, 3]]]),
    "as many on every rank": ([8, 8, 2, 2], 2, {"rows": 1, "packed": True}, [[[0], [1]], [[2], [3]]]),
    "more ranks than rows": ([4], 2, {"rows": 1, "packed": True}, [[[]], [[0]]]),
    "a rank with one row less": ([1, 1, 1], 2, {"rows": 1, "packed": False}, [[[0], []], [[1], [2]]]),
}


@pytest.mark.proves("trainer.use_sample_packing", "trainer.micro_train_batch_size_per_gpu")
@pytest.mark.parametrize("case", PLANS.values(), ids=PLANS)
def test_micro_batches_are_planned(case: tuple[list[int], int, dict[str, Any], list[list[list[int]]]]) -> None:
    lengths, ranks, settings, expected = case
    assert plan_micro_batches(lengths, shares(len(lengths), ranks), **settings) == expected


def test_packed_micro_batches_keep_the_budget_and_waste_little() -> None:
    lengths = torch.randint(1, 100, (500,), generator=torch.Generator().manual_seed(3)).tolist()
    (plan,) = plan_micro_batches(lengths, shares(500, 1), rows=4, packed=True)
    budget = 4 * max(lengths)
    assert sorted(row for rows in plan for row in rows) == list(range(500))
    assert all(sum(lengths[row] for row in rows) <= budget for rows in plan)
    assert len(plan) <= math.ceil(sum(lengths) / budget) + 1


REFERENCES: dict[str, tuple[dict[str, Any], bool]] = {
    "a whole model is trained": ({}, False),
    "adapters on the same model": ({"policy": {"model": {"path": "/m", "lora": {"rank": 8}}}}, True),
    "adapters on another model": (
        {"policy": {"model": {"path": "/m", "lora": {"rank": 8}}}, "ref": {"model": {"path": "/other"}}},
        False,
    ),
    "a reference that changes": (
        {"policy": {"model": {"path": "/m", "lora": {"rank": 8}}}, "update_ref_every_epoch": True},
        False,
    ),
    "a reference on GPUs of its own": (
        {
            "policy": {"model": {"path": "/m", "lora": {"rank": 8}}},
            "placement": {"colocate_policy_ref": False, "colocate_all": False},
        },
        False,
    ),
}


@pytest.mark.parametrize("case", REFERENCES.values(), ids=REFERENCES)
def test_no_second_model_is_loaded_where_the_policy_without_adapters_is_the_reference(
    case: tuple[dict[str, Any], bool],
) -> None:
    trainer, without = case
    config = make_config(**({"ref": {"model": {"path": "/m"}}} | trainer))
    assert reference_is_the_policy(config) is without
    assert needs_reference(config)
    assert not needs_critic(config)
    on_policys = rank_pools(config)[0]
    assert ("reference" in on_policys.models) is (not without and len(rank_pools(config)) == 1)


POOLS: dict[str, tuple[dict[str, Any], list[tuple[str, int, tuple[str, ...]]]]] = {
    "everything on the policy's GPUs": (
        {"critic": {"model": {"path": "/m"}}, "placement": {"colocate_all": True, "policy_num_gpus_per_node": 2}},
        [("trainer", 2, ("policy", "reference", "critic"))],
    ),
    "the critic on its own": (
        {"critic": {"model": {"path": "/m"}}, "placement": {"colocate_all": False, "critic_num_nodes": 3}},
        [("trainer", 1, ("policy", "reference")), ("critic", 3, ("critic",))],
    ),
    "the reference on its own": (
        {"placement": {"colocate_all": False, "colocate_policy_ref": False, "ref_num_gpus_per_node": 2}},
        [("trainer", 1, ("policy",)), ("reference", 2, ("reference",))],
    ),
    "no reference": (
        {"algorithm": {"use_kl_loss": False}, "placement": {"colocate_all": False, "policy_num_nodes": 2}},
        [("trainer", 2, ("policy",))],
    ),
}


@pytest.mark.proves(
    "trainer.placement.colocate_policy_ref",
    "trainer.placement.policy_num_nodes",
    "trainer.placement.policy_num_gpus_per_node",
    "trainer.placement.critic_num_nodes",
    "trainer.placement.critic_num_gpus_per_node",
    "trainer.placement.ref_num_nodes",
    "trainer.placement.ref_num_gpus_per_node",
)
@pytest.mark.parametrize("case", POOLS.values(), ids=POOLS)
def test_models_have_the_ranks_that_the_placement_gives_them(
    case: tuple[dict[str, Any], list[tuple[str, int, tuple[str, ...]]]],
) -> None:
    trainer, expected = case
    assert [(pool.resource, pool.ranks, pool.models) for pool in rank_pools(make_config(**trainer))] == expected


STEPS = {
    "one mini-batch, one pass": ({"policy_mini_batch_size": 6}, 1),
    "two mini-batches": ({}, 2),
    "one mini-batch, three passes": ({"policy_mini_batch_size": 6, "update_epochs_per_batch": 3}, 3),
}


@pytest.mark.parametrize("case", STEPS.values(), ids=STEPS)
def test_old_logprobs_are_needed_when_a_batch_takes_several_steps(case: tuple[dict[str, Any], int]) -> None:
    trainer, steps = case
    config = make_config(**trainer)
    assert optimizer_steps_per_batch(config) == steps
    assert needs_old_logprobs(config) is (steps > 1)


def test_the_difference_to_the_engines_is_over_trained_tokens() -> None:
    batch = make_batch(2)
    batch = batch.with_old_logprobs(torch.where(batch.loss_mask, torch.tensor(-0.25), torch.tensor(-9.0)))
    metrics = batch_metrics(batch)
    prefix = "policy/rollout_train_logprobs_abs_diff_"
    assert {name: metrics[prefix + name] for name in ("mean", "std", "min", "max")} == {
        "mean": 0.25,
        "std": 0.0,
        "min": 0.25,
        "max": 0.25,
    }
    assert metrics["policy/response_length"] == batch.response_mask.sum() / 2
