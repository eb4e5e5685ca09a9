"""Which rows of a batch a rank gets, and which of them go through the model together.

Ranks run forward and backward passes in step, because parameters are gathered and gradients are summed together: all
must have the same number of micro-batches. Every rank knows the lengths of all rows, so all come to the same plan
without asking each other. Pure functions of numbers.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence


def shares(rows: int, ranks: int) -> list[range]:
    """Runs of rows for each rank, in order, whose lengths differ by one at most."""
    return [range(rows * rank // ranks, rows * (rank + 1) // ranks) for rank in range(ranks)]


def plan_micro_batches(
    lengths: Sequence[int], dealt: Sequence[Sequence[int]], *, rows: int, packed: bool
) -> list[list[list[int]]]:
    """For each rank the rows of its micro-batches, in ascending order; the same number of them for every rank.

    lengths: tokens of each row of the batch; dealt: the rows of each rank. A micro-batch is a run of `rows` rows, or,
    packed, as many as have together no more tokens than `rows` of the longest row of the batch: what fits the memory
    that padded micro-batches would need. A rank with fewer rows than others have micro-batches gets empty ones.
    """
    if packed:
        budget = rows * max(lengths, default=0)
        plans = [_best_fit(lengths, mine, budget) for mine in dealt]
    else:
        plans = [[list(mine[start : start + rows]) for start in range(0, len(mine), rows)] for mine in dealt]
    wanted = max(map(len, plans))
    return [_divided(plan, wanted) for plan in plans]


def _best_fit(lengths: Sequence[int], mine: Sequence[int], budget: int) -> list[list[int]]:
    """Best-fit decreasing: each row, the longest first, into the fullest micro-batch that has room for it."""
    micro_batches: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (tokens that still fit, micro-batch), ascending
    for row in sorted(mine, key=lambda row: (-lengths[row], row)):
        place = bisect_left(room, (lengths[row], -1))
        if place == len(room):
            micro_batches.append([row])
            insort(room, (budget - lengths[row], len(micro_batches) - 1))
        else:
            left, number = room.pop(place)
            micro_batches[number].append(row)
            insort(room, (left - lengths[row], number))
    return sorted(sorted(rows) for rows in micro_batches)


def _divided(plan: list[list[int]], wanted: int) -> list[list[int]]:
    """The same rows in `wanted` micro-batches: the largest are halved, and empty ones added where there are no more."""
    plan = list(plan)
    while len(plan) < wanted:
        number = max(range(len(plan)), key=lambda index: len(plan[index]), default=None)
        if number is None or len(plan[number]) < 2:
            plan.append([])
            continue
        rows = plan[number]
        plan[number : number + 1] = [rows[: len(rows) // 2], rows[len(rows) // 2 :]]
    return plan
