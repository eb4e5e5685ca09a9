"""Which prompts are trained on: dynamic sampling, and the filter of groups that teach nothing."""

from __future__ import annotations

import random

import pytest
import torch

from rltrain_api.config import DynamicSamplingConfig
from rltrain_trainer.algorithms.dynamic_sampling import Draw, after_sampling
from rltrain_trainer.algorithms.filters import zero_variance_filter
from rltrain_trainer.rollout.trajectory import Trajectory


def sampled(**groups: list[float]) -> list[Trajectory]:
    """Samples by the reward of each, for each prompt."""
    return [
        Trajectory(
            group_id=name,
            prompt_ids=(1,),
            response_ids=(2, 3),
            rollout_logprobs=(-1.0, -1.0),
            loss_mask=(1, 1),
            token_rewards=(0.0, reward),
            stop_reason="stop",
            version_spans=(),
            sample=sample,
        )
        for name, rewards in groups.items()
        for sample, reward in enumerate(rewards)
    ]


def drawn(
    settings: dict[str, object], kept: list[Trajectory], batch: list[Trajectory], *, prompts: int = 3, batches: int = 1
) -> Draw:
    return after_sampling(
        DynamicSamplingConfig.model_validate(settings),
        kept,
        batch,
        prompts=prompts,
        batches=batches,
        generator=random.Random(0),
    )


def names(trajectories: list[Trajectory]) -> list[str]:
    return [trajectory.group_id for trajectory in trajectories]


GOOD, BAD = [0.0, 1.0], [1.0, 1.0]


@pytest.mark.proves("trainer.algorithm.dynamic_sampling.type")
def test_without_a_type_the_batch_is_taken_as_it_is() -> None:
    batch = sampled(a=BAD, b=GOOD, c=BAD)
    assert drawn({}, [], batch) == Draw(batch, complete=True)


def test_filter_collects_prompts_with_a_signal() -> None:
    first = drawn({"type": "filter"}, [], sampled(a=GOOD, b=BAD, c=GOOD))
    assert not first.complete
    assert names(first.trajectories) == ["a", "a", "c", "c"]
    second = drawn({"type": "filter"}, first.trajectories, sampled(d=BAD, e=BAD, f=BAD), batches=2)
    assert not second.complete
    assert second.trajectories == first.trajectories
    third = drawn({"type": "filter"}, second.trajectories, sampled(g=GOOD, h=GOOD, i=BAD), batches=3)
    assert third.complete
    assert [name[0] for name in names(third.trajectories)] == ["a", "a", "c", "c", "g", "g"]


def test_a_prompt_that_comes_again_is_a_group_of_its_own() -> None:
    first = drawn({"type": "filter"}, [], sampled(a=GOOD, b=BAD, c=BAD))
    second = drawn({"type": "filter"}, first.trajectories, sampled(a=GOOD, d=GOOD, e=BAD), batches=2)
    assert second.complete
    assert len(set(names(second.trajectories))) == 3


def test_single_samples_always_count() -> None:
    assert drawn({"type": "filter"}, [], sampled(a=[1.0], b=[0.0], c=[1.0])).complete


@pytest.mark.proves("trainer.algorithm.dynamic_sampling.max_sample_batches")
def test_sampling_ends_with_an_error_at_its_limit() -> None:
    batch = sampled(a=BAD, b=BAD, c=GOOD)
    assert not drawn({"type": "filter", "max_sample_batches": 3}, [], batch, batches=2).complete
    for kind in ("filter", "replace"):
        with pytest.raises(ValueError, match=r"max_sample_batches: 3 batches were sampled.*1 of 3"):
            drawn({"type": kind, "max_sample_batches": 3, "min_replace_ratio": 0.5}, [], batch, batches=3)
    for unlimited in (0, -1):
        settings = {"type": "filter", "max_sample_batches": unlimited}
        assert not drawn(settings, [], batch, batches=1000).complete
    enough = sampled(a=GOOD, b=GOOD, c=GOOD)
    assert drawn({"type": "filter", "max_sample_batches": 3}, [], enough, batches=3).complete


def test_replace_puts_prompts_with_a_signal_in_the_places_of_others() -> None:
    batch = sampled(a=GOOD, b=BAD, c=[0.0, 2.0], d=BAD, e=BAD)
    result = drawn({"type": "replace"}, [], batch, prompts=5)
    assert result.complete
    trajectories = result.trajectories
    assert [trajectory.reward for trajectory in trajectories[:2]] == GOOD
    assert [trajectory.reward for trajectory in trajectories[4:6]] == [0.0, 2.0]
    groups = names(trajectories)[::2]
    assert len(set(groups)) == 5
    sources = [group[0] for group in groups]
    assert sorted(sources) in (["a", "a", "a", "c", "c"], ["a", "a", "c", "c", "c"])
    assert {sources[1], sources[3]} == {"a", "c"}, "each once before any twice"


@pytest.mark.proves("trainer.algorithm.dynamic_sampling.min_replace_ratio")
@pytest.mark.parametrize(("ratio", "complete"), [(0.3, True), (0.4, False), (0.5, False)])
def test_replace_needs_enough_of_them(ratio: float, complete: bool) -> None:
    batch = sampled(a=GOOD, b=BAD, c=GOOD, d=BAD, e=BAD)
    result = drawn({"type": "replace", "min_replace_ratio": ratio}, [], batch, prompts=5)
    assert result.complete is complete
    assert bool(result.trajectories) is complete


def test_the_same_generator_makes_the_same_choice() -> None:
    batch = sampled(a=GOOD, b=GOOD, c=GOOD, d=BAD, e=BAD)
    assert drawn({"type": "replace"}, [], batch) == drawn({"type": "replace"}, [], batch)


FILTERED = {
    "all equal": ([1.0, 1.0], [1, 1], [0, 0]),
    "all but equal": ([1.0, 1.0 + 1e-7], [1, 1], [0, 0]),
    "different": ([1.0, 0.0], [1, 1], [1, 1]),
    "a response without trained tokens does not vote": ([1.0, 0.0, 1.0], [1, 0, 1], [0, 0, 0]),
    "alone": ([1.0], [1], [1]),
    "alone among masked ones": ([1.0, 0.0], [1, 0], [1, 0]),
}


@pytest.mark.proves("trainer.algorithm.zero_variance_filter")
@pytest.mark.parametrize("case", FILTERED)
def test_groups_of_equal_rewards_are_left_out(case: str) -> None:
    scores, live, kept = FILTERED[case]
    rewards = torch.zeros(len(scores), 3, dtype=torch.float64)
    rewards[:, 1] = torch.tensor(scores)
    mask = torch.tensor(live, dtype=torch.bool)[:, None].expand(-1, 3)
    result = zero_variance_filter(rewards, mask, ["a"] * len(scores))
    assert result.any(dim=-1).long().tolist() == kept


def test_steps_follow_the_ends_of_their_trajectories() -> None:
    """Two trajectories of two steps each, to each of two prompts: only last steps tell whether rewards differ."""
    rewards = torch.tensor([[5.0], [1.0], [0.0], [1.0], [0.0], [1.0], [0.0], [0.0]])
    ends = torch.tensor([False, True] * 4)
    groups = [0, 0, 0, 0, 1, 1, 1, 1]
    result = zero_variance_filter(rewards, torch.ones(8, 1, dtype=torch.bool), groups, ends=ends)
    assert result[:, 0].long().tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
