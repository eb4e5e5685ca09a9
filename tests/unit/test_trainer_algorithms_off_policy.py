"""Off-policy correction against its definition, each part alone and all together; the names of its metrics."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import token_losses
from rltrain_api.config import AlgorithmConfig
from rltrain_trainer.algorithms import policy_loss
from rltrain_trainer.algorithms.off_policy import off_policy_correction
from token_losses import CORRECTED, draw

PATH = "trainer.algorithm.off_policy_correction"
TOKEN_BOUNDS = {"token_mask_is_threshold_low": 0.7, "token_mask_is_threshold_high": 1.5}
SETTINGS: dict[str, dict[str, Any]] = {
    "weights of tokens": {"tis_ratio_type": "token", "token_tis_ratio_clip_high": 1.2},
    "weights of sequences": {"tis_ratio_type": "sequence", "sequence_tis_ratio_clip_high": 1.3},
    "geometric mean": {"sequence_mask_metric": "geometric", "geo_mask_low": 0.9, "geo_mask_high": 1.1},
    "product": {"sequence_mask_metric": "product", "product_mask_low": 0.8, "product_mask_high": 1.6},
    "outliers above": {"outlier_token_is_threshold_high": 1.9},
    "outliers below": {"outlier_token_is_threshold_low": 0.5},
    "tokens out of bounds": TOKEN_BOUNDS,
    "one bound alone masks no token": {"token_mask_is_threshold_low": 0.7, "tis_ratio_type": "token"},
    "everything": {
        "tis_ratio_type": "sequence",
        "sequence_tis_ratio_clip_high": 1.3,
        "sequence_mask_metric": "product",
        "product_mask_low": 0.6,
        "product_mask_high": 2.5,
        "outlier_token_is_threshold_low": 0.3,
        "outlier_token_is_threshold_high": 2.5,
        **TOKEN_BOUNDS,
    },
}


def algorithm(settings: dict[str, Any], **fields: Any) -> AlgorithmConfig:
    return AlgorithmConfig.model_validate({"off_policy_correction": settings, **fields})


@pytest.mark.proves(
    "trainer.algorithm.off_policy_correction.tis_ratio_type",
    "trainer.algorithm.off_policy_correction.token_tis_ratio_clip_high",
    "trainer.algorithm.off_policy_correction.sequence_tis_ratio_clip_high",
    "trainer.algorithm.off_policy_correction.sequence_mask_metric",
    "trainer.algorithm.off_policy_correction.geo_mask_low",
    "trainer.algorithm.off_policy_correction.geo_mask_high",
    "trainer.algorithm.off_policy_correction.product_mask_low",
    "trainer.algorithm.off_policy_correction.product_mask_high",
    "trainer.algorithm.off_policy_correction.outlier_token_is_threshold_low",
    "trainer.algorithm.off_policy_correction.outlier_token_is_threshold_high",
    "trainer.algorithm.off_policy_correction.token_mask_is_threshold_low",
    "trainer.algorithm.off_policy_correction.token_mask_is_threshold_high",
)
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("name", CORRECTED)
def test_every_loss_takes_the_correction(name: str, settings: str) -> None:
    case, config = draw(), algorithm(SETTINGS[settings])
    rows = case.rows()
    weights = [number for row in rows for number in token_losses.correction(row, config)]
    losses = [number for row in rows for number in token_losses.LOSSES[name](row, config)]
    poisoned = case.poisoned()
    loss, _ = policy_loss(
        name,
        poisoned.logprobs,
        poisoned.old,
        poisoned.advantages,
        case.mask,
        rollout_logprobs=poisoned.rollout,
        config=config,
    )
    assert loss[case.mask].tolist() == pytest.approx([a * b for a, b in zip(losses, weights, strict=True)])
    assert len(set(weights)) > 1, "the case corrects something"
    assert any(weights), "and leaves something"


@pytest.mark.parametrize("name", CORRECTED)
def test_without_settings_or_log_probabilities_of_the_engine_there_is_none(name: str) -> None:
    case, config = draw(), algorithm(SETTINGS["everything"])
    tensors = (case.logprobs, case.old, case.advantages, case.mask)
    plain, metrics = policy_loss(name, *tensors, rollout_logprobs=case.rollout, config=AlgorithmConfig())
    assert not any(key.startswith("is_ratio") for key in metrics)
    if name not in ("rollout_is", "dppo"):
        alone, _ = policy_loss(name, *tensors, config=config)
        torch.testing.assert_close(alone, plain)


@pytest.mark.proves("trainer.algorithm.use_tis", "trainer.algorithm.tis_imp_ratio_cap")
def test_the_old_form_means_weights_of_tokens() -> None:
    case = draw()
    tensors = (case.logprobs, case.old, case.advantages, case.mask)
    old = AlgorithmConfig(use_tis=True, tis_imp_ratio_cap=1.2)
    new = algorithm(SETTINGS["weights of tokens"])
    first, of_first = policy_loss("regular", *tensors, rollout_logprobs=case.rollout, config=old)
    second, of_second = policy_loss("regular", *tensors, rollout_logprobs=case.rollout, config=new)
    torch.testing.assert_close(first, second)
    assert of_first.keys() == of_second.keys()


def test_metrics_are_shares_of_what_is_trained() -> None:
    case = draw()
    rows = case.rows()
    correction = off_policy_correction(
        case.old, case.rollout, case.mask, algorithm(SETTINGS["everything"]).off_policy_correction
    )
    assert correction is not None
    metrics = {name: value.item() for name, value in correction.metrics.items()}
    ratios = [[math.exp(old - engine) for old, engine in zip(row.old, row.rollout, strict=True)] for row in rows]
    flat = [ratio for row in ratios for ratio in row]
    filled = [row for row in ratios if row]
    mean = math.fsum(flat) / len(flat)
    assert metrics["is_ratio_mean"] == pytest.approx(mean)
    assert metrics["is_ratio_std"] == pytest.approx(math.sqrt(sum((r - mean) ** 2 for r in flat) / len(flat)))
    assert (metrics["is_ratio_max"], metrics["is_ratio_min"]) == (pytest.approx(max(flat)), pytest.approx(min(flat)))
    over = [any(ratio > 2.5 for ratio in row) for row in filled]
    under = [any(ratio < 0.3 for ratio in row) for row in filled]
    assert metrics["outlier_seq_over_high_ratio"] == pytest.approx(sum(over) / len(filled))
    assert metrics["outlier_seq_under_low_ratio"] == pytest.approx(sum(under) / len(filled))
    gone = [a or b for a, b in zip(over, under, strict=True)]
    assert metrics["outlier_seq_masked_ratio"] == pytest.approx(sum(gone) / len(filled))
    left = [row for row, out in zip(filled, gone, strict=True) if not out]
    kept = [[ratio for ratio in row if 0.7 <= ratio <= 1.5] for row in left]
    masked = sum(map(len, left)) - sum(map(len, kept))
    assert metrics["token_mask_ratio"] == pytest.approx(masked / len(flat))
    products = [math.prod(row) for row in kept]
    assert metrics["tis_seq_clip_high_ratio"] == pytest.approx(sum(p > 1.3 for p in products) / len(filled))
    assert metrics["product_sequence_mask_over_high_ratio"] == pytest.approx(
        sum(p > 2.5 for p in products) / len(filled)
    )
    assert metrics["product_sequence_mask_under_low_ratio"] == pytest.approx(
        sum(p < 0.6 for p in products) / len(filled)
    )
    assert metrics["product_sequence_mask_masked_ratio"] == pytest.approx(
        sum(not 0.6 <= p <= 2.5 for p in products) / len(filled)
    )


NAMES = {
    "weights of tokens": {"tis_token_clip_high_ratio"},
    "weights of sequences": {"tis_seq_clip_high_ratio"},
    "geometric mean": {f"geo_sequence_mask_{name}_ratio" for name in ("masked", "over_high", "under_low")},
    "product": {f"product_sequence_mask_{name}_ratio" for name in ("masked", "over_high", "under_low")},
    "outliers above": {f"outlier_seq_{name}_ratio" for name in ("masked", "over_high", "under_low")},
    "tokens out of bounds": {"token_mask_ratio"},
}


@pytest.mark.parametrize("settings", NAMES)
def test_metrics_have_upstreams_names(settings: str) -> None:
    case = draw()
    correction = off_policy_correction(
        case.old, case.rollout, case.mask, algorithm(SETTINGS[settings]).off_policy_correction
    )
    assert correction is not None
    always = {f"is_ratio_{name}" for name in ("mean", "std", "max", "min")}
    assert set(correction.metrics) == always | NAMES[settings]


def test_far_ratios_are_bounded() -> None:
    exponents = torch.tensor([[100.0, -100.0]])
    settings = algorithm({"tis_ratio_type": "token", "token_tis_ratio_clip_high": 1e12}).off_policy_correction
    correction = off_policy_correction(exponents, torch.zeros(1, 2), torch.ones(1, 2), settings)
    assert correction is not None
    torch.testing.assert_close(correction.weights, torch.tensor([[math.exp(20), math.exp(-20)]]))
