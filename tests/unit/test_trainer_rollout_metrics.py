"""Rollout and evaluation metrics, calculated by hand."""

from __future__ import annotations

import pytest

from rltrain_trainer.rollout.metrics import evaluation_metrics, rollout_metrics
from rltrain_trainer.rollout.trajectory import Trajectory


def trajectory_of(
    group: str, rewards: list[float], *, mask: list[int] | None = None, stop: str = "stop", **metrics: float
) -> Trajectory:
    count = len(rewards)
    return Trajectory(
        group_id=group,
        prompt_ids=(1,),
        response_ids=(5,) * count,
        rollout_logprobs=(-1.0,) * count,
        loss_mask=tuple(mask or [1] * count),
        token_rewards=tuple(rewards),
        stop_reason=stop,
        version_spans=(),
        environment_metrics=metrics,
    )


BATCH = [
    trajectory_of("a", [0, 1], turns=1),
    trajectory_of("a", [0, 0, 0, 0], stop="length", turns=3),
    trajectory_of("b", [0.5, 0, -1], mask=[1, 0, 1]),  # partial credit in an earlier turn is no pass
    trajectory_of("b", [0], stop="length"),
]


def test_rollout_metrics() -> None:
    assert rollout_metrics(BATCH, samples_per_prompt=2) == pytest.approx(
        {
            "reward/avg_raw_reward": (1 + 0 - 0.5 + 0) / 4,
            "reward/avg_pass_at_2": 0.5,
            "reward/mean_positive_reward": (1 + 0 + 0.5 + 0) / 4,
            "generate/min_num_tokens": 1,
            "generate/max_num_tokens": 4,
            "generate/avg_num_tokens": 2.5,
            "generate/std_num_tokens": 1.25**0.5,
            "generate/avg_assistant_tokens": (2 + 4 + 2 + 1) / 4,
            "generate/avg_tokens_non_zero_rewards": 2,
            "generate/avg_tokens_zero_rewards": (4 + 3 + 1) / 3,
            "generate/cut_off_ratio": 0.5,
            "generate/batch_num_seq": 4,
            "environment/turns": 2,
        }
    )


def test_evaluation_metrics_by_data_source() -> None:
    alone = evaluation_metrics(BATCH, samples_per_prompt=2)
    assert alone == pytest.approx(
        {"eval/all/avg_score": 0.125, "eval/all/pass_at_2": 0.5, "eval/all/mean_positive_reward": 0.375}
    )
    divided = evaluation_metrics(BATCH, samples_per_prompt=2, data_sources={"a": "gsm8k", "b": "aime"})
    assert divided["eval/gsm8k/pass_at_2"] == 1
    assert divided["eval/aime/avg_score"] == -0.25
    assert {name: divided[name] for name in alone} == alone


def test_a_response_out_of_the_loss_still_counts_as_passed() -> None:
    masked = trajectory_of("a", [0, 1], mask=[0, 0], stop="length")
    assert evaluation_metrics([masked], samples_per_prompt=1)["eval/all/pass_at_1"] == 1
