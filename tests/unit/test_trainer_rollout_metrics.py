"""Rollout and evaluation metrics, calculated by hand."""

from __future__ import annotations

from typing import Any

import pytest
import skyrl_gym
from skyrl_gym.envs.base_text_env import BaseTextEnv
from skyrl_gym.envs.registration import deregister

from rltrain_trainer.rollout.metrics import environment_metrics, evaluation_metrics, rollout_metrics
from rltrain_trainer.rollout.trajectory import EpisodeSeconds, Trajectory


def trajectory_of(
    group: str,
    rewards: list[float],
    *,
    mask: list[int] | None = None,
    stop: str = "stop",
    env_class: str = "gsm8k",
    is_last: bool = True,
    seconds: EpisodeSeconds | None = None,
    **metrics: Any,
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
        env_class=env_class,
        turn_lengths=(sum(mask or [1] * count),),
        is_last_step=is_last,
        seconds=seconds or EpisodeSeconds(),
    )


BATCH = [
    trajectory_of("a", [0, 1], turns=1),
    trajectory_of("a", [0, 0, 0, 0], stop="length", turns=3),
    trajectory_of("b", [0.5, 0, -1], mask=[1, 0, 1]),  # partial credit in an earlier turn is no pass
    trajectory_of("b", [0], stop="length"),
]


def test_rollout_metrics() -> None:
    found = rollout_metrics(BATCH, samples_per_prompt=2)
    times = {name for name in found if "_time_" in name}
    assert len(times) == 5 * 3 + 2
    assert {name: value for name, value in found.items() if name not in times} == pytest.approx(
        {
            "reward/avg_raw_reward": (1 + 0 - 0.5 + 0) / 4,
            "reward/avg_pass_at_2": 0.5,
            "reward/mean_positive_reward": (1 + 0 + 0.5 + 0) / 4,
            "generate/min_num_tokens": 1,
            "generate/max_num_tokens": 4,
            "generate/avg_num_tokens": 2.5,
            "generate/std_num_tokens": 1.25**0.5,
            "generate/min_assistant_tokens": 1,
            "generate/max_assistant_tokens": 4,
            "generate/avg_assistant_tokens": (2 + 4 + 2 + 1) / 4,
            "generate/std_assistant_tokens": (((0.25**2) * 2 + 1.75**2 + 1.25**2) / 4) ** 0.5,
            "generate/avg_tokens_non_zero_rewards": 2,
            "generate/avg_tokens_zero_rewards": (4 + 3 + 1) / 3,
            "generate/tokens_per_turn_mean": 2.25,
            "generate/tokens_per_turn_p90": 3.4,
            "generate/tokens_per_turn_max": 4,
            "generate/cut_off_ratio": 0.5,
            "generate/environment_timeouts": 0,
            "generate/batch_num_seq": 4,
            "environment/turns": 2,
        }
    )


def test_times_of_episodes_and_of_their_groups() -> None:
    batch = [
        trajectory_of(group, [1.0], seconds=EpisodeSeconds(total, engine, environment))
        for group, total, engine, environment in [("a", 4, 2, 1), ("a", 2, 1, 1), ("b", 8, 8, 0)]
    ]
    found = rollout_metrics(batch, samples_per_prompt=2)
    assert found["generate/trajectory_time_completion_max"] == 8
    assert found["generate/trajectory_time_llm_mean"] == pytest.approx(11 / 3)
    assert found["generate/trajectory_time_env_max"] == 1
    assert found["generate/trajectory_time_other_mean"] == pytest.approx(1 / 3)
    assert found["generate/group_completion_time_mean"] == 6
    assert found["generate/intra_group_completion_time_std_mean"] == 0.5
    assert found["generate/intra_group_completion_time_cv_mean"] == pytest.approx(1 / 6)


def test_the_steps_of_one_episode_are_counted_as_one() -> None:
    steps = [
        trajectory_of("a", [0.0, 0.5], is_last=False),
        trajectory_of("a", [0.0, 0.0, 1.0], turns=2),
        trajectory_of("a", [0.0]),
    ]
    found = rollout_metrics(steps, samples_per_prompt=2)
    assert found["reward/avg_raw_reward"] == 0.5  # of the last steps
    assert found["generate/max_num_tokens"] == 5
    assert found["generate/batch_num_seq"] == 3
    assert found["environment/turns"] == 2
    assert evaluation_metrics(steps, samples_per_prompt=2)["eval/all/avg_score"] == 0.5


def test_every_environment_class_says_how_its_metrics_are_put_together() -> None:
    class Longest(BaseTextEnv):  # type: ignore[misc]  # skyrl-gym ships no types
        @staticmethod
        def aggregate_metrics(metrics: list[dict[str, Any]]) -> dict[str, Any]:
            return {"longest": max(one["length"] for one in metrics), "words": "not a number"}

    skyrl_gym.register("longest", Longest)
    try:
        own = [trajectory_of("a", [1.0], env_class="longest", length=length, label="x") for length in (3, 9)]
        others = [trajectory_of("b", [1.0], env_class="gsm8k", turns=turns, label="x") for turns in (1, 2)]
        assert environment_metrics(own) == {"environment/longest": 9}
        assert environment_metrics([*own, *others]) == {
            "environment/longest/longest": 9,
            "environment/gsm8k/turns": 1.5,
        }
    finally:
        deregister("longest")


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
