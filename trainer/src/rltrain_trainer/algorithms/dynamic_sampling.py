"""Dynamic sampling: which prompts of a batch are trained on, and whether more must be sampled first.

Pure decisions on trajectories; asking for more rollouts is the loop's. A prompt has a signal when its samples were not
all rewarded the same: only then does a comparison within its group say anything.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rltrain_api.config import DynamicSamplingConfig
from rltrain_trainer.rollout.trajectory import Trajectory


@dataclass(frozen=True)
class Draw:
    """What a batch of samples comes to.

    trajectories: to train on when complete; else what counts so far, to be given back with the next batch.
    """

    trajectories: list[Trajectory]
    complete: bool


def after_sampling(
    settings: DynamicSamplingConfig,
    kept: Sequence[Trajectory],
    sampled: Sequence[Trajectory],
    *,
    prompts: int,
    batches: int,
    generator: random.Random,
) -> Draw:
    """What to do after one more batch of samples for a training step.

    kept: what the last `Draw` of this step left, empty at first; sampled: the new batch, samples of one prompt side by
    side; prompts: how many the step trains on; batches: how many were sampled for it, this one included; generator: of
    the choice among replacements.

    - no type: the batch as it is.
    - filter (DAPO, arXiv 2503.14476): prompts with a signal are kept from batch to batch until there are enough; those
      beyond are dropped, as upstream does.
    - replace (POLARIS): where more than min_replace_ratio of the prompts have a signal, they take the places of the
      others, each once before any comes twice; else the whole batch is sampled anew. A prompt that comes twice is two
      groups: upstream makes one of it, of which some estimators take the deviation over twice as many samples.

    A prompt with a single sample always counts. Raises ValueError when max_sample_batches were not enough; -1 and 0
    mean no limit.
    """
    if settings.type is None:
        return Draw(list(sampled), complete=True)
    groups = _groups(sampled)
    good = [group for group in groups if has_signal(group)]
    if settings.type == "filter":
        first = len(_groups(kept))
        complete = first + len(good) >= prompts
        draw = Draw([*kept, *_flat(_apart(good[: prompts - first], f"@{batches}" if kept else ""))], complete=complete)
    elif len(good) > len(groups) * settings.min_replace_ratio:
        draw = Draw(_flat(_replaced(groups, good, generator)), complete=True)
    else:
        draw = Draw([], complete=False)
    if not draw.complete and 0 < settings.max_sample_batches <= batches:
        raise ValueError(
            f"trainer.algorithm.dynamic_sampling.max_sample_batches: {batches} batches were sampled, and too few "
            f"prompts had samples with different rewards ({len(good)} of {len(groups)} in the last); choose prompts "
            "that are neither always nor never solved, raise it, or set it to -1"
        )
    return draw


def has_signal(group: Sequence[Trajectory]) -> bool:
    """Whether the samples of one prompt were rewarded differently; a single one counts as if they were."""
    rewards = [trajectory.reward for trajectory in group if trajectory.is_last_step]
    return len(rewards) == 1 or max(rewards) != min(rewards)


def _groups(trajectories: Sequence[Trajectory]) -> list[list[Trajectory]]:
    """The samples of each prompt, in order of appearance."""
    groups: dict[str, list[Trajectory]] = {}
    for trajectory in trajectories:
        groups.setdefault(trajectory.group_id, []).append(trajectory)
    return list(groups.values())


def _replaced(
    groups: list[list[Trajectory]], good: list[list[Trajectory]], generator: random.Random
) -> list[list[Trajectory]]:
    """The groups in their order, with copies of good ones, drawn without putting back, in the places of the others."""
    drawn: list[list[Trajectory]] = []
    copies: dict[str, int] = {}
    result = []
    for group in groups:
        if has_signal(group):
            result.append(group)
            continue
        if not drawn:
            drawn = generator.sample(good, len(good))
        copy = drawn.pop()
        number = copies[copy[0].group_id] = copies.get(copy[0].group_id, 0) + 1
        result += _apart([copy], f"+{number}")
    return result


def _apart(groups: list[list[Trajectory]], mark: str) -> list[list[Trajectory]]:
    """The groups under names of their own, so that a prompt that was sampled before is not taken for the same group."""
    return [[replace(trajectory, group_id=trajectory.group_id + mark) for trajectory in group] for group in groups]


def _flat(groups: list[list[Trajectory]]) -> list[Trajectory]:
    return [trajectory for group in groups for trajectory in group]
