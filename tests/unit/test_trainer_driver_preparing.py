"""From trajectories to a batch: what is asked of the models, in which order things are done, and what is reported.

The models are scripted: their numbers are tested where they live.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from rltrain_api.config import SkyRLTrainConfig
from rltrain_api.resolve import resolve
from rltrain_trainer.algorithms.kl import KLController
from rltrain_trainer.data.batch import TrainBatch
from rltrain_trainer.driver.preparing import Prepared, prepare
from rltrain_trainer.rollout.trajectory import Trajectory


@dataclass
class Scripted:
    """The models: the reference is half a nat below the policy, values are 0.5; writes down what it is asked for."""

    asked: list[str] = field(default_factory=list)

    async def logprobs(self, batch: TrainBatch) -> Tensor:
        self.asked.append("logprobs")
        mask = batch.response_mask
        return -1.0 - (torch.arange(mask.numel()) % 3).reshape(mask.shape) / 10

    async def reference_logprobs(self, batch: TrainBatch) -> Tensor:
        self.asked.append("reference")
        return await Scripted().logprobs(batch) - 0.5

    async def values(self, batch: TrainBatch) -> Tensor:
        self.asked.append("values")
        return torch.full_like(batch.token_rewards, 0.5)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        self.asked.append(f"({name}")
        yield
        self.asked.append(")")


def sample(group: str, number: int, reward: float, *, length: int = 2, last: bool = True) -> Trajectory:
    return Trajectory(
        group_id=group,
        prompt_ids=(1, 2),
        response_ids=tuple(range(3, 3 + length)),
        rollout_logprobs=(-0.5,) * length,
        loss_mask=(1,) * length,
        token_rewards=(0.0,) * (length - 1) + (reward,),
        stop_reason="stop",
        version_spans=(),
        sample=number,
        is_last_step=last,
    )


# Two prompts with two samples each, of different lengths; the second prompt teaches nothing.
TRAJECTORIES = [sample("a", 0, 1.0), sample("a", 1, 0.0, length=3), sample("b", 0, 1.0), sample("b", 1, 1.0)]


def settings(algorithm: dict[str, Any] | None = None, **trainer: Any) -> SkyRLTrainConfig:
    tree = {
        "trainer": {
            "train_batch_size": 2,
            "policy_mini_batch_size": 2,
            "algorithm": {"use_kl_loss": False, "grpo_norm_by_std": False} | (algorithm or {}),
            **trainer,
        },
        "generator": {"n_samples_per_prompt": 2},
    }
    return resolve(SkyRLTrainConfig.model_validate(tree))


async def prepared(
    config: SkyRLTrainConfig,
    models: Scripted | None = None,
    *,
    trajectories: Sequence[Trajectory] = TRAJECTORIES,
    controller: KLController | None = None,
    step: int = 1,
) -> Prepared:
    control = controller or KLController.of(config.trainer.algorithm)
    return await prepare(trajectories, models or Scripted(), config, control, step=step, pad_token_id=0)


async def test_the_least_asks_no_model() -> None:
    models = Scripted()
    result = await prepared(settings(), models)
    assert models.asked == []
    advantages = result.batch.advantages
    assert advantages is not None
    assert advantages.tolist() == [[0.0, 0.5, 0.5], [-0.5, -0.5, -0.5], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    assert result.batch.old_logprobs is None
    assert result.metrics == {
        "loss/avg_final_rewards": pytest.approx(0.75),
        "loss/avg_raw_advantages": pytest.approx(-0.5 / 9),
        "loss/avg_raw_advantages_abs": pytest.approx(2.5 / 9),
    }


CRITIC = {"model": {"path": "/data/model"}}
ASKED: dict[str, tuple[SkyRLTrainConfig, list[str]]] = {
    "several steps per batch": (settings(policy_mini_batch_size=1), ["logprobs"]),
    "divergence in the loss": (settings({"use_kl_loss": True}), ["reference"]),
    "divergence in the reward": (settings({"use_kl_in_reward": True}), ["logprobs", "reference"]),
    "a critic": (settings({"advantage_estimator": "gae"}, critic=CRITIC, critic_mini_batch_size=2), ["values"]),
    "a loss that chooses": (settings({"policy_loss_type": "kl_cov"}), ["logprobs"]),
}


@pytest.mark.parametrize("case", ASKED)
async def test_models_are_asked_for_what_is_needed(case: str) -> None:
    config, asked = ASKED[case]
    models = Scripted()
    batch = (await prepared(config, models)).batch
    assert models.asked == asked
    assert (batch.old_logprobs is not None) is (case == "several steps per batch")
    assert (batch.reference_logprobs is not None) is ("reference" in asked)
    assert (batch.values is not None) is ("values" in asked)
    assert (batch.chosen is not None) is (case == "a loss that chooses")


@pytest.mark.proves("trainer.algorithm.use_kl_in_reward")
async def test_the_divergence_comes_off_the_reward_before_advantages() -> None:
    algorithm = {"use_kl_in_reward": True, "kl_loss_coef": 0.2, "kl_estimator_type": "k1"}
    result = await prepared(settings(algorithm))
    batch, metrics = result.batch, result.metrics
    assert batch.token_rewards[0].tolist() == pytest.approx([0.0, -0.1, 0.9])
    assert batch.advantages is not None
    assert batch.advantages[0, -1].item() == pytest.approx((0.8 - (-0.3)) / 2)
    assert {name: metrics[name] for name in ("loss/avg_kl", "loss/avg_kl_max", "loss/kl_loss_coef")} == pytest.approx(
        {"loss/avg_kl": 0.5, "loss/avg_kl_max": 0.5, "loss/kl_loss_coef": 0.2}
    )
    assert metrics["loss/avg_final_rewards"] == pytest.approx(0.75 - 0.1 * 9 / 4)


async def test_an_adaptive_weight_moves_with_each_batch() -> None:
    algorithm = {
        "use_kl_in_reward": True,
        "kl_loss_coef": 0.2,
        "kl_ctrl": {"type": "adaptive", "kl_target": 0.1, "horizon": 100},
    }
    config = settings(algorithm)
    controller = KLController.of(config.trainer.algorithm)
    first = await prepared(config, controller=controller)
    second = await prepared(config, controller=controller)
    assert first.metrics["loss/kl_loss_coef"] == 0.2
    assert second.metrics["loss/kl_loss_coef"] == pytest.approx(
        0.2 * (1 + (first.metrics["loss/avg_kl"] / 0.1 - 1) * 4 / 100)
    )


@pytest.mark.proves("trainer.algorithm.zero_variance_filter")
async def test_groups_that_teach_nothing_are_left_out_by_their_raw_rewards() -> None:
    result = await prepared(settings({"zero_variance_filter": True, "use_kl_in_reward": True}))
    assert result.batch.loss_mask.any(dim=-1).tolist() == [True, True, False, False]
    assert result.metrics["reward/num_zero_variance_filtered"] == 2


@pytest.mark.proves("trainer.algorithm.advantage_batch_normalize")
async def test_advantages_are_normalised_after_they_are_reported() -> None:
    plain = await prepared(settings())
    result = await prepared(settings({"advantage_batch_normalize": True}))
    advantages, mask = result.batch.advantages, result.batch.response_mask
    assert advantages is not None
    assert advantages[mask].mean().item() == pytest.approx(0.0, abs=1e-6)
    assert advantages[mask].std(correction=0).item() == pytest.approx(1.0, abs=1e-5)
    assert result.metrics == plain.metrics


@pytest.mark.proves("trainer.algorithm.gamma", "trainer.algorithm.lambd")
async def test_returns_are_what_the_critic_should_have_said() -> None:
    config = settings(
        {"advantage_estimator": "gae", "gamma": 0.5, "lambd": 0.0}, critic=CRITIC, critic_mini_batch_size=2
    )
    returns = (await prepared(config)).batch.returns
    assert returns is not None
    assert returns[0, 1:].tolist() == pytest.approx([0.25, 1.0])  # r + gamma · V of the next token


async def test_choices_are_of_each_mini_batch_and_follow_from_the_step() -> None:
    algorithm = {"policy_loss_type": "clip_cov", "clip_cov": {"clip_ratio": 0.3, "clip_cov_lb": -9.0}}
    config = settings(algorithm, policy_mini_batch_size=1)
    trajectories = [sample(name, number, float(number), length=9) for name in "ab" for number in range(2)]
    chosen = {}
    for step in (1, 2, 1):
        batch = (await prepared(config, trajectories=trajectories, step=step)).batch
        assert batch.chosen is not None
        assert [int(batch.chosen[rows].sum()) for rows in (slice(0, 2), slice(2, 4))] == [5, 5]
        again = tuple(batch.chosen.flatten().tolist())
        assert chosen.setdefault(step, again) == again
    assert chosen[1] != chosen[2]


@pytest.mark.proves("generator.step_wise_trajectories")
async def test_steps_have_the_advantage_of_their_trajectorys_end() -> None:
    trajectories = [
        sample("a", 0, 7.0, length=3, last=False),
        sample("a", 0, 1.0, length=1),
        sample("a", 1, 0.0),
    ]
    config = settings()
    generator = config.generator.model_copy(update={"step_wise_trajectories": True})
    result = await prepared(config.model_copy(update={"generator": generator}), trajectories=trajectories)
    advantages = result.batch.advantages
    assert advantages is not None
    assert advantages.tolist() == [[0.5, 0.5, 0.5], [0.0, 0.0, 0.5], [0.0, -0.5, -0.5]]
    assert result.metrics["loss/avg_final_rewards"] == 0.5


async def test_parts_are_timed_under_upstreams_names() -> None:
    config, models = settings({"use_kl_in_reward": True}), Scripted()
    controller = KLController.of(config.trainer.algorithm)
    await prepare(TRAJECTORIES, models, config, controller, step=1, pad_token_id=0, timed=models.timed)
    assert models.asked == [
        "(convert_to_training_input",
        ")",
        "(fwd_logprobs_values_reward",
        "logprobs",
        "reference",
        ")",
        "(apply_reward_kl_penalty",
        ")",
        "(compute_advantages_and_returns",
        ")",
    ]
