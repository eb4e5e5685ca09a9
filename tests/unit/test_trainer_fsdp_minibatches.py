from __future__ import annotations

from typing import Any

import pytest
import torch

from rltrain_api.config import SkyRLTrainConfig
from rltrain_trainer.algorithms.reductions import loss_weights
from rltrain_trainer.data.batch import TrainBatch
from rltrain_trainer.fsdp.metrics import batch_metrics
from rltrain_trainer.fsdp.minibatches import deal, needs_old_logprobs, optimizer_steps_per_batch

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
    dealt = [deal(batch, config, rank=rank, world_size=world_size) for rank in range(world_size)]
    for number, shares in enumerate(zip(*dealt, strict=True)):
        rows = batch.rows(slice(12 * number, 12 * number + 12))
        assert torch.equal(torch.cat([share.batch.sequences for share in shares]), rows.sequences)
        weights = torch.cat([share.policy_weights for share in shares])
        assert torch.equal(weights, loss_weights(rows.loss_mask, reduction))
        assert torch.equal(
            torch.cat([share.token_weights for share in shares]), loss_weights(rows.loss_mask, "token_mean")
        )
        assert torch.equal(
            torch.cat([share.sequence_weights for share in shares]), loss_weights(rows.loss_mask, "sequence_mean")
        )


def test_micro_batches_carry_all_weight_of_their_share() -> None:
    share = deal(make_batch(), make_config(), rank=1, world_size=2)[0]
    micros = [share.with_reference(torch.ones(6, RESPONSE)).micro_batch(slice(n, n + 1)) for n in range(len(share))]
    assert torch.stack([micro.policy_weights.sum() for micro in micros]).sum() == pytest.approx(
        share.policy_weights.sum().item()
    )
    for micro in micros:
        widths = {micro.batch.response_length, micro.policy_weights.shape[1], micro.token_weights.shape[1]}
        assert micro.reference_logprobs is not None
        assert widths == {micro.reference_logprobs.shape[1]}
    assert min(micro.batch.response_length for micro in micros) < RESPONSE


def test_a_mini_batch_that_cannot_be_dealt_out_evenly_is_refused() -> None:
    with pytest.raises(ValueError, match="12 sequences cannot be dealt out evenly to 5 ranks"):
        deal(make_batch(), make_config(), rank=0, world_size=5)


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
